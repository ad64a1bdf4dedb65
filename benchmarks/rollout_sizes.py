"""The sizes that GRPO and on-policy distillation are timed at, and which prompts a step works on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.common import DEVICE, Options
from stateshape.core.method import Draw
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.task import GenerationTask


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    prompts: int = 8
    group: int = 8
    new_tokens: int = 128
    steps: int = 3
    micro: tuple[int, ...] = (64, 16, 8)  # rows of TRL's training micro-batches that are tried

    @property
    def rows(self) -> int:
        return self.prompts * self.group

    @property
    def micro_rows(self) -> list[int]:
        return sorted({min(size, self.rows) for size in self.micro}, reverse=True)


def sizes_of(model: str, options: Options) -> Sizes:
    if options.is_small:
        return Sizes(prompts=2, group=4, new_tokens=12, steps=1)
    if DEVICE.type == "cuda":
        return Sizes(prompts=16, new_tokens=256, micro=(128, 32))
    if model == "embedded":
        return Sizes()
    return Sizes(steps=2, micro=(16, 8, 4))  # 135M parameters: about 2 MB of activations a token, so 64 rows take 30 GB


def trial_of(model: str, sizes: Sizes) -> Sizes:
    """The one step on which the peer's settings are tried: shorter for a large model, of the same number of rows."""
    return replace(sizes, steps=1, new_tokens=min(sizes.new_tokens, sizes.new_tokens if model == "embedded" else 32))


def items_of(task: GenerationTask, sizes: Sizes) -> tuple[GenerationItem, ...]:
    return task.train[: sizes.steps * sizes.prompts]


def draws(task: GenerationTask, sizes: Sizes, repeat: int) -> list[Draw]:
    """Each step on prompts of its own; a repeat works on the same prompts with other samples."""
    ids = [item.item_id for item in items_of(task, sizes)]
    steps = [tuple(ids[k : k + sizes.prompts]) for k in range(0, len(ids), sizes.prompts)]
    return [Draw(item_ids=step, step=k, seed=1 + repeat) for k, step in enumerate(steps)]
