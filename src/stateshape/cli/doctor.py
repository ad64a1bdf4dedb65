"""`stateshape doctor`: finds problems with a model before any time is spent."""

from __future__ import annotations

import textwrap
from typing import Literal

from stateshape.cli.arguments import model_settings_from
from stateshape.core.limits import check_most

WIDTH, INDENT = 80, " " * 13


def doctor(
    *,
    model: str,
    teacher: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    rank: int = 32,
    train: Literal["lora", "full"] = "lora",
    speed: bool = True,
) -> None:
    """Check that a model, and optionally a teacher, will work, before spending time on them.

    Args:
        model: 'embedded', a model folder, a hub id, a run folder or an adapter folder.
        teacher: A model or run to use as its teacher.
        device: auto, cpu, cuda, cuda:N.
        dtype: auto, float32, bfloat16, float16.
        rank: LoRA rank for the memory estimate.
        train: What is to be trained. full: say also what training all parameters takes.
        speed: Time a few tokens of sampling and one training pass, about two seconds.
    """
    from functools import partial

    from stateshape.policy.doctor import examine
    from stateshape.study.speed import about_speed

    check_most(rank=rank)
    is_full = train == "full"
    timed = partial(about_speed, rank=rank, is_full=is_full) if speed else None
    settings = model_settings_from(device, dtype)
    for line in examine(model, teacher, settings=settings, rank=rank, is_full=is_full, timed=timed):
        print(wrapped(line))


def wrapped(line: str) -> str:
    """At the width of a terminal, what goes on indented below the text."""
    return textwrap.fill(line, WIDTH, subsequent_indent=INDENT, break_long_words=False, break_on_hyphens=False)
