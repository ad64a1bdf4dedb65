"""A watch: a read-only observer of a run while it trains (recording, locality). It takes no gradient and draws nothing.

A run is the same to the bit with and without it. Knows no particular watch, and of a policy only that there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor

from stateshape.core.method import AnyPolicy_contra, Draw
from stateshape.core.signals import Signal
from stateshape.core.states import States


class StepRead(NamedTuple):
    """A step before its update. By term (a method alone is one named ""): the states as drawn, and the signals about them."""

    step: int  # 0 .. num_steps - 1
    num_steps: int
    draw: Draw
    states: Mapping[str, States]
    signals: Mapping[str, Signal]


class StepUpdate(NamedTuple):
    """What the update found. `per_token`: by term, each as `LossValue.per_token`, of the whole batch."""

    per_token: Mapping[str, Mapping[str, Tensor]]


class Watch(Protocol[AnyPolicy_contra]):
    """`phase`: the name its cost is recorded under."""

    phase: str

    def resume(self, num_done: int) -> None:
        """Before the first step of a process: drops what a killed run wrote after `num_done` completed steps."""
        ...

    def before_update(self, learner: AnyPolicy_contra, read: StepRead) -> None: ...
    def after_update(self, learner: AnyPolicy_contra, read: StepRead, update: StepUpdate) -> None: ...
    def finish(self, learner: AnyPolicy_contra) -> None:
        """After the last step."""
        ...
