"""A post-training method is a state source, a signal and a loss; which triples make sense is decided here.

    s ~ q_k(s)      z ~ S(s)      theta <- theta - eta grad l(pi(.|s), z)          (arXiv:2605.22731, eq. 9-11)

`Composition` is what a recipe declares before any model is loaded; `Method` is the built thing. Knows nothing of
any particular recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar, get_args, runtime_checkable

from torch import Tensor

from stateshape.core.head import Head
from stateshape.core.signals import Signal
from stateshape.core.states import Origin, States

StateKind = Literal["dataset", "learner", "teacher", "mixture", "recorded"]
SignalKind = Literal[
    "gold tokens",
    "teacher tokens",
    "teacher continuation",
    "own continuation",
    "teacher distribution",
    "teacher log-prob",
    "reward",
    "reward filter",
    "preference",
]
LossKind = Literal["cross-entropy", "divergence", "policy gradient", "preference"]
STATES: tuple[StateKind, ...] = get_args(StateKind)
SIGNALS: tuple[SignalKind, ...] = get_args(SignalKind)
LOSSES: tuple[LossKind, ...] = get_args(LossKind)

CROSSING: tuple[SignalKind, ...] = ("teacher continuation", "teacher distribution")

NO_LOGPROBS = (
    "credit needs the learner's own samples and their log-probs, and {states} states have none for every token"
)
ONE_SOURCE = "a pair is two answers of one source to one prompt, compared by data or reward"


class SignalFacts(NamedTuple):
    """What holds for every signal of a kind. A state source that `unreadable` does not name is fine."""

    read_by: LossKind
    density: str
    about: Origin | None = None  # whose tokens it is about; None: anybody's
    is_weighed_by_logprob: bool = False  # needs the log-prob that each token was sampled at
    unreadable: Mapping[StateKind, str] = {}  # where it can't be read, and why


FACTS: dict[SignalKind, SignalFacts] = {
    "gold tokens": SignalFacts(
        read_by="cross-entropy",
        density="dense: every token",
        about=Origin.DATASET,
        unreadable={
            "learner": "gold tokens follow the dataset's own prefixes, not what the learner wrote",
            "teacher": "gold tokens follow the dataset's own prefixes, not what a teacher wrote",
            "mixture": "only some of a mixture's rows are the dataset's; combine sft with another recipe instead",
        },
    ),
    "teacher tokens": SignalFacts(
        read_by="cross-entropy",
        density="dense: every token",
        about=Origin.TEACHER,
        unreadable={
            "dataset": "no teacher wrote the dataset's tokens",
            "learner": "these tokens are the learner's own: cross-entropy on them adds no information",
            "mixture": "only some of a mixture's tokens are the teacher's",
        },
    ),
    "teacher continuation": SignalFacts(read_by="cross-entropy", density="dense: every continued token"),
    "own continuation": SignalFacts(read_by="cross-entropy", density="dense: every continued token"),
    "teacher distribution": SignalFacts(read_by="divergence", density="dense: every vocabulary entry at a state"),
    "teacher log-prob": SignalFacts(
        read_by="policy gradient",
        density="dense: one number per token",
        about=Origin.LEARNER,
        is_weighed_by_logprob=True,
        unreadable={states: NO_LOGPROBS.format(states=states) for states in ("dataset", "teacher", "mixture")},
    ),
    "reward": SignalFacts(
        read_by="policy gradient",
        density="sparse: one number per trajectory",
        about=Origin.LEARNER,
        is_weighed_by_logprob=True,
        unreadable={states: NO_LOGPROBS.format(states=states) for states in ("dataset", "teacher", "mixture")},
    ),
    "reward filter": SignalFacts(
        read_by="cross-entropy",
        density="sparse: one bit per trajectory",
        about=Origin.LEARNER,
        unreadable={
            "dataset": "the dataset's solutions are all correct, so there is nothing to filter",
            "mixture": "a row with several writers does not show whose answer was right",
        },
    ),
    "preference": SignalFacts(
        read_by="preference",
        density="sparse: one bit per pair",
        about=Origin.LEARNER,
        unreadable={"teacher": ONE_SOURCE, "mixture": ONE_SOURCE},
    ),
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
        return FACTS[self.signal].density

    @property
    def crosses_tokenizers(self) -> bool:
        """Whether a teacher may have another tokenizer: its text or its distributions are read at states in learner ids."""
        is_of_teacher = self.signal.startswith("teacher") or self.states in ("teacher", "mixture")
        return not is_of_teacher or (self.signal in CROSSING and self.states in ("dataset", "learner", "recorded"))


def legal_triples() -> list[tuple[StateKind, SignalKind, LossKind]]:
    """Every composition that makes sense."""
    return [(s, z, FACTS[z].read_by) for s in STATES for z in SIGNALS if s not in FACTS[z].unreadable]


def why_illegal(states: StateKind, signal: SignalKind, loss: LossKind) -> str | None:
    """The reason why a triple makes no sense, with the nearest one that does; None if it is fine."""
    reason = FACTS[signal].unreadable.get(states)
    if reason is None and loss == FACTS[signal].read_by:
        return None
    reason = reason or f"{loss} can't read a {signal} signal"
    near = nearest_legal(states, signal, loss)
    return f"{reason}; nearest that works: {' x '.join(near)}"


def nearest_legal(states: StateKind, signal: SignalKind, loss: LossKind) -> tuple[StateKind, SignalKind, LossKind]:
    """The legal triple that keeps most of this one; of several, the signal counts first, then the state source."""

    def kept(triple: tuple[StateKind, SignalKind, LossKind]) -> tuple[int, bool, bool]:
        same = [mine == theirs for mine, theirs in zip((states, signal, loss), triple, strict=True)]
        return sum(same), same[1], same[0]

    return max(legal_triples(), key=kept)


@runtime_checkable
class PolicyView(Protocol):
    """What losses and signals may ask of a policy. Batches are right-padded; masks come from lengths."""

    @property
    def head(self) -> Head: ...
    def hidden(self, ids_BT: Tensor, lengths_B: Tensor, at_BT: Tensor) -> Tensor:
        """Last hidden states [N, D] behind the chosen tokens, row by row, in the weights' dtype."""
        ...


AnyPolicy_contra = TypeVar("AnyPolicy_contra", contravariant=True)
AnySignal_contra = TypeVar("AnySignal_contra", contravariant=True)


class Draw(NamedTuple):
    """Which prompts a step works on, and its seed; `num_steps` of the run, and its pass over the prompts, from 0."""

    item_ids: tuple[str, ...]
    step: int
    seed: int
    num_steps: int = 1
    epoch: int = 0


class StateSource(Protocol[AnyPolicy_contra]):
    """Where the update is applied. May sample and read data; knows no rewards, gradients or losses."""

    kind: ClassVar[StateKind]

    def draw(self, learner: AnyPolicy_contra, draw: Draw) -> States: ...


class SignalSource(Protocol[AnyPolicy_contra]):
    """The signal at the states. Runs frozen models and graders without gradients; never alters what was sampled."""

    kind: ClassVar[SignalKind]

    def read(self, learner: AnyPolicy_contra, states: States, draw: Draw) -> Signal: ...


@runtime_checkable
class DrawnAhead(Protocol[AnyPolicy_contra]):
    """Optional for a state source: the states of several steps in one call, where a step's learner has no part in them."""

    def steps_ahead(self, num_prompts: int) -> int:
        """How many steps of so many prompts are best drawn together; 0: each needs the learner of its step."""
        ...

    def draw_several(self, learner: AnyPolicy_contra, draws: Sequence[Draw]) -> list[States]:
        """What `draw` gives for each, up to rounding."""
        ...


@runtime_checkable
class ReadAhead(Protocol[AnyPolicy_contra]):
    """Optional for a signal: as DrawnAhead, at states that were drawn ahead."""

    def steps_ahead(self, num_prompts: int) -> int: ...
    def read_several(
        self, learner: AnyPolicy_contra, states: Sequence[States], draws: Sequence[Draw]
    ) -> Sequence[Signal]:
        """What `read` gives for each, up to rounding."""
        ...


@runtime_checkable
class Versioned(Protocol):
    """Optional for a state source: how many updates the learner that wrote its states had completed."""

    def policy_version(self, draw: Draw) -> int: ...


@runtime_checkable
class Carrying(Protocol):
    """Optional for a signal: names of adapters that it changes from step to step, which a checkpoint then keeps."""

    carries: ClassVar[tuple[str, ...]]


class LossValue(NamedTuple):
    """A SUM over supervised positions (the step divides by the whole batch's count), and sums to be logged per count.

    `per_token`: detached [N] values in the order of `supervise_BT`'s True cells. Every loss gives "mass", half the L1 norm
    of the sum's gradient towards the position's logits (how much probability the update asks to move there), and
    "learner_logp", the log-prob of the token at that position, in nats, at the temperature the loss scores at. Mass is NaN
    where no gradient is taken.
    """

    total: Tensor
    sums: Mapping[str, Tensor]
    per_token: Mapping[str, Tensor] = {}


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Term:
    """One method of a combination. `takes`: which prompts of a step it works on, by item id; None: all of them.

    is_apart: about other prompts than the run's own. It counts towards no budget, no band applies to it, nothing probes its
    states, and its supervision is counted apart.
    """

    method: Method
    weight: float = 1.0
    takes: Callable[[str], bool] | None = None
    is_apart: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Combination:
    """Several methods in one step: sum_k weight_k * total_k / count_k, each over its own count.

    Terms that hold the same state source and take the same prompts share their states: these are drawn once.
    """

    terms: Mapping[str, Term]

    def __post_init__(self) -> None:
        for name, term in self.terms.items():
            if not 0 < term.weight < float("inf"):
                raise ValueError(f"combination: weight of {name}: got {term.weight}; expected a number above 0")


def terms_of(method: Method | Combination) -> Mapping[str, Term]:
    """A method alone is a combination of one term without a name."""
    return method.terms if isinstance(method, Combination) else {"": Term(method=method)}
