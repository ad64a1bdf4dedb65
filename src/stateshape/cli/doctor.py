"""`stateshape doctor`: finds problems with a model before any time is spent."""

from __future__ import annotations

from stateshape.cli.arguments import model_settings_from
from stateshape.core.limits import check_most


def doctor(
    *, model: str, teacher: str | None = None, device: str = "auto", dtype: str = "auto", rank: int = 32
) -> None:
    """Check that a model, and optionally a teacher, will work, before spending time on them.

    Args:
        model: 'embedded', a model folder, a hub id, a run folder or an adapter folder.
        teacher: A model or run to use as its teacher.
        device: auto, cpu, cuda, cuda:N.
        dtype: auto, float32, bfloat16, float16.
        rank: LoRA rank for the memory estimate.
    """
    from stateshape.policy.doctor import examine

    check_most(rank=rank)
    for line in examine(model, teacher, settings=model_settings_from(device, dtype), rank=rank):
        print(line)
