"""How a run is optimised: what every recipe shares. Loads nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Literal

from stateshape.core.files import LATER, BadInput
from stateshape.core.limits import check_most
from stateshape.policy.settings import LoraSettings

MAX_EPOCHS = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """Which tokens are supervised, by the probability that the learner gives them before the update, at temperature 1."""

    low: float = 0.0
    """Supervise only tokens to which the learner gives at least this probability."""
    high: float = 1.0
    """Supervise only tokens to which the learner gives at most this probability."""

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise BadInput(f"band: got low {self.low}, high {self.high}; expected 0 <= low < high <= 1")

    @property
    def is_everything(self) -> bool:
        return (self.low, self.high) == (0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Protect:
    """A term of every step that keeps the learner close to the base on another task: KL(base || learner) at states that the
    base writes from that task's prompts (docs/recipes.md)."""

    task: str | None = None
    """Add KL(base || learner) at states that the base writes from this task's training or validation prompts."""
    weight: float = 0.1
    """Weight of that term, a mean over its own tokens."""
    share: float = 0.25
    """Prompts of it per step, as a share of batch_prompts, on top of these."""
    rollout_tokens: int = 16
    """Longest text of the base behind such a prompt, in tokens."""

    def __post_init__(self) -> None:
        if self.task is None and any(getattr(self, one.name) != one.default for one in fields(self)):
            raise BadInput(
                "protect.task: got none, but other fields of protect; expected a task; name one, or leave all out"
            )
        if not 0 < self.weight < math.inf:
            raise BadInput(
                f"protect.weight: got {self.weight}; expected a number above 0; leave protect out for no term"
            )
        if not 0 < self.share <= 1:
            raise BadInput(f"protect.share: got {self.share}; expected a number above 0, up to 1")
        if self.rollout_tokens < 1:
            raise BadInput(f"protect.rollout_tokens: got {self.rollout_tokens}; expected 1 or more")
        check_most("protect.", rollout_tokens=self.rollout_tokens)

    def num_prompts(self, batch_prompts: int) -> int:
        """Per step, at least one."""
        return max(1, round(self.share * batch_prompts))


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """Optimiser, batch size and length of training. Give `steps` or `epochs`."""

    lr: float = 1e-4
    """Peak learning rate of AdamW."""
    epochs: float | None = None
    """Passes over the training prompts."""
    steps: int | None = None
    """Optimiser steps, if epochs is not given. Default: one epoch."""
    train_items: int | None = None
    """Use the first N training prompts. Default: all."""
    batch_prompts: int = 16
    """Prompts per optimiser step."""
    supervised_per_step: int | None = None
    """Supervise at most N random tokens per step: equal budgets for methods that differ in density. Default: all."""
    band: Band = field(default_factory=Band, metadata=LATER)
    """Supervise only tokens whose probability under the learner is in this band."""
    protect: Protect = field(default_factory=Protect, metadata=LATER)
    """Keep close to the base on another task while training on this one."""
    warmup_share: float = 0.05
    """Share of the steps over which the learning rate rises linearly."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up. cosine: falls to a tenth; constant: stays."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay of what is trained."""
    max_grad_norm: float = 1.0
    """Gradients above this global norm are scaled down to it."""
    chunk_tokens: int | None = None
    """Distinct tokens per forward pass; changes memory, never the gradient. Default: 512, or as many as
    need 64 MiB of activations on a CPU, 16 GiB on a GPU."""
    states_mb: float = 32.0
    """Record at most this many megabytes of the states trained on (docs/states.md); 0 records none."""
    checkpoint_every: int = 1
    """Steps between checkpoints: the most that a killed run can lose."""
    parameters: Literal["lora", "full"] = field(default="lora", metadata=LATER)
    """What is trained: a LoRA adapter, or all parameters of a copy of the model; then lora says
    nothing (docs/guides/finetune.md)."""
    lora: LoraSettings = field(default_factory=LoraSettings)

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise BadInput(f"epochs, steps: got epochs {self.epochs} and steps {self.steps}; expected one of them")
        for name in ("lr", "batch_prompts", "checkpoint_every", "max_grad_norm"):
            if getattr(self, name) <= 0:
                raise BadInput(f"{name}: got {getattr(self, name)}; expected a number above 0")
        if self.states_mb < 0:
            raise BadInput(f"states_mb: got {self.states_mb}; expected a number of megabytes, or 0 to record none")
        if self.weight_decay < 0:
            raise BadInput(f"weight_decay: got {self.weight_decay}; expected 0 or more")
        if self.epochs is not None and self.epochs > MAX_EPOCHS:
            raise BadInput(f"epochs: got {self.epochs}; expected at most {MAX_EPOCHS:,}")
        for name in ("epochs", "steps", "chunk_tokens", "supervised_per_step"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise BadInput(f"{name}: got {getattr(self, name)}; expected a number above 0, or none")
        names = ("steps", "batch_prompts", "supervised_per_step", "chunk_tokens", "states_mb", "checkpoint_every")
        check_most(**{name: getattr(self, name) for name in names})

    @property
    def is_full(self) -> bool:
        return self.parameters == "full"

    def num_items(self, available: int) -> int:
        if self.train_items is None:
            return available
        if not 0 < self.train_items <= available:
            raise BadInput(
                f"train_items: got {self.train_items}; expected 1 to {available}, the number that the task has"
            )
        return self.train_items

    def num_steps(self, available: int) -> int:
        """Optimiser steps of the run, given how many training prompts the task has."""
        if self.steps is not None:
            return self.steps
        epochs = 1.0 if self.epochs is None else self.epochs
        return max(1, math.ceil(epochs * self.num_items(available) / self.batch_prompts))


def lr_at(settings: TrainSettings, step: int, num_steps: int) -> float:
    """Learning rate of step 0 .. num_steps - 1."""
    warmup = max(1, round(settings.warmup_share * num_steps))
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.lr
    progress = (step - warmup) / max(1, num_steps - warmup)
    return settings.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))
