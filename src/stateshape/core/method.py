"""A post-training method is a state source, a signal and a loss; which triples make sense is decided here.

    s ~ q_k(s)      z ~ S(s)      theta <- theta - eta grad l(pi(.|s), z)          (arXiv:2605.22731, eq. 9-11)

`Composition` is what a recipe declares before any model is loaded; `Method` is the built thing. Knows nothing of
any particular recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from stateshape.core.signals import Signal
from stateshape.core.states import States

StateKind = Literal["dataset", "learner"]
SignalKind = Literal["gold tokens", "teacher continuation", "teacher distribution", "reward"]
LossKind = Literal["cross-entropy", "divergence", "policy gradient"]

# What each signal is, and so which losses can read it.
READABLE_BY: dict[str, set[str]] = {
    "gold tokens": {"cross-entropy"},
    "teacher continuation": {"cross-entropy"},
    "teacher distribution": {"divergence"},
    "reward": {"policy gradient"},
}
DENSITY: dict[str, str] = {
    "gold tokens": "dense: every token",
    "teacher continuation": "dense: every continued token",
    "teacher distribution": "dense: every vocabulary entry at a state",
    "reward": "sparse: one number a trajectory",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Composition:
    """A method's three choices. Raises ValueError with the reason, and what to use instead, if they do not fit."""

    states: StateKind
    signal: SignalKind
    loss: LossKind

    def __post_init__(self) -> None:
        reason = why_illegal(self.states, self.signal, self.loss)
        if reason:
            raise ValueError(f"{self.states} states x {self.signal} x {self.loss}: {reason}")

    @property
    def is_on_policy(self) -> bool:
        return self.states == "learner"

    @property
    def density(self) -> str:
        return DENSITY[self.signal]


def why_illegal(states: str, signal: str, loss: str) -> str | None:
    """The reason why a triple makes no sense, with the nearest one that does; None if it is fine."""
    if loss not in READABLE_BY[signal]:
        return f"a {signal} signal is not something {loss} can read; use {' or '.join(sorted(READABLE_BY[signal]))}"
    if signal == "gold tokens" and states != "dataset":
        return (
            f"gold tokens follow the dataset's own prefixes, not {states} prefixes; on {states} states use a teacher "
            "continuation or a teacher distribution"
        )
    if signal == "reward" and states != "learner":
        return (
            f"reward credit needs the learner's own samples and their log-probs, and {states} states have none; "
            "use learner states"
        )
    return None


@runtime_checkable
class PolicyView(Protocol):
    """What losses and signals may ask of a policy. Batches are right-padded; masks come from lengths."""

    @property
    def head_VD(self) -> Tensor: ...
    def hidden(self, ids_BT: Tensor, lengths_B: Tensor, at_BT: Tensor) -> Tensor:
        """Last hidden states [N, D] behind the chosen tokens, row by row, in the weights' dtype."""
        ...


AnyPolicy_contra = TypeVar("AnyPolicy_contra", contravariant=True)
AnySignal_contra = TypeVar("AnySignal_contra", contravariant=True)


class Draw(NamedTuple):
    """Which prompts a step works on, and its seed."""

    item_ids: tuple[str, ...]
    step: int
    seed: int


class StateSource(Protocol[AnyPolicy_contra]):
    """Where the update is applied. May sample and read data; knows no rewards, gradients or losses."""

    kind: ClassVar[StateKind]

    def draw(self, learner: AnyPolicy_contra, draw: Draw) -> States: ...


class SignalSource(Protocol[AnyPolicy_contra]):
    """What is said there. Runs frozen models and graders without gradients; never alters what was sampled."""

    kind: ClassVar[SignalKind]

    def read(self, learner: AnyPolicy_contra, states: States, draw: Draw) -> Signal: ...


class LossValue(NamedTuple):
    """A SUM over supervised positions (the step divides by the whole batch's count), and sums to be logged per count."""

    total: Tensor
    sums: Mapping[str, Tensor]


class Loss(Protocol[AnySignal_contra]):
    """How the update follows from states and signal: pure maths on the learner's forward pass."""

    kind: ClassVar[LossKind]

    def count(self, signal: AnySignal_contra) -> float:
        """What the sum over the WHOLE batch is divided by; 0 if nothing is supervised."""
        ...

    def total(self, learner: PolicyView, signal: AnySignal_contra) -> LossValue: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """The built method: the only thing a training step knows."""

    states: StateSource[Any]
    signal: SignalSource[Any]
    loss: Loss[Any]

    def __post_init__(self) -> None:
        Composition(states=self.states.kind, signal=self.signal.kind, loss=self.loss.kind)
