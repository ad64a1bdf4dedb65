"""Another signal on exactly the states that a run trained on, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from stateshape.core.files import LATER, BadInput
from stateshape.core.method import (
    FACTS,
    SIGNALS,
    Composition,
    Loss,
    Method,
    SignalFacts,
    SignalKind,
    SignalSource,
    StateSource,
)
from stateshape.core.states import Origin
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.losses.divergence import Direction
from stateshape.losses.policy_gradient import PolicyGradient
from stateshape.losses.preference import Preference
from stateshape.policy.policy import Policy
from stateshape.recipes.recipe import Need, Parts, TokenBudget, divergence
from stateshape.recipes.rewards import reward_of
from stateshape.record.reading import Recording
from stateshape.signals.continuation import OwnContinuation, TeacherContinuation
from stateshape.signals.distribution import TeacherDistribution
from stateshape.signals.filter import RewardFilter
from stateshape.signals.gold import GoldTokens, TeacherTokens
from stateshape.signals.preference import RewardPreference
from stateshape.signals.reward import GroupReward
from stateshape.signals.teacher_logp import TeacherLogProb
from stateshape.states.cuts import Cut
from stateshape.states.recorded import Chosen, RecordedStates, RecutStates

SignalName = Literal[
    "gold-tokens",
    "teacher-tokens",
    "teacher-continuation",
    "own-continuation",
    "teacher-distribution",
    "teacher-log-prob",
    "reward",
    "reward-filter",
    "preference",
]
KINDS: dict[str, SignalKind] = {
    kind.replace(" ", "-"): kind for kind in SIGNALS if "recorded" not in FACTS[kind].unreadable
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """Replay: the states of an earlier run, bit for bit, under a signal of your choice."""

    compositions: ClassVar = tuple(
        Composition(states="recorded", signal=kind, loss=FACTS[kind].read_by) for kind in KINDS.values()
    )
    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "arXiv:2605.22731 section 2, with the states held fixed"

    states: str
    """Folder of the run whose states to train on; it must have recorded them (states_mb). Steps by default: one epoch, or all
    that are recorded, if these are fewer."""
    signal: SignalName
    """The signal at these states."""
    teacher: str | None = None
    """Teacher, for the signals that need one: a run folder, an adapter folder or a model. Frozen."""
    term: str | None = None
    """Where the earlier run combined several methods: the one whose states to use."""
    direction: Direction = "forward"
    """For signal distribution. forward: KL(teacher || learner); reverse: KL(learner || teacher); jsd: between, see beta."""
    beta: float = 0.5
    """For jsd: position between forward (0) and reverse (1) KL."""
    cut: Cut = field(default_factory=Cut)
    """Where to cut complete responses for a continuation; rows that were cut already stay as they are."""
    max_new_tokens: int = 128
    """Longest continuation, in tokens."""
    temperature: float = 1.0
    """Temperature of continuations; for credit, the temperature at which the recorded rows were sampled."""
    reward: str = "exact-answer"
    """exact-answer: 1 if right as the task asks for it; flexible-answer: 1 if right wherever it stands (the last number of
    GSM8K); file.py:name of a function, ours or TRL's kind; or several with weights, A,0.2*B."""
    target_temperature: float = field(default=1.0, metadata=LATER)
    """For signal teacher-distribution: temperature of the teacher's distribution in the divergence; the learner's stays 1."""
    share: float = field(default=1.0, metadata=LATER)
    """Share of the recorded steps to train on, rounded down; the run is at most so many steps long."""
    chosen: Chosen = field(default="first", metadata=LATER)
    """For share: the first of the recorded steps, or random ones by the run's seed; both in the order of recording."""

    def __post_init__(self) -> None:
        if self.signal.startswith("teacher-") and self.signal != "teacher-tokens" and self.teacher is None:
            raise BadInput(
                f"teacher: got none; signal {self.signal} expected one; give --teacher a run folder or a model"
            )
        divergence(direction=self.direction, beta=self.beta, target_temperature=self.target_temperature)
        if not 0 < self.share <= 1:
            raise BadInput(f"share: got {self.share}; expected a number above 0, up to 1 for all recorded steps")
        if self.signal != "teacher-distribution" and self.target_temperature != 1:
            raise BadInput(
                f"target_temperature: got {self.target_temperature} for signal {self.signal}, which has no distribution "
                "in its "
                "loss; expected 1; use --signal teacher-distribution"
            )

    @property
    def composition(self) -> Composition:
        kind = KINDS[self.signal]
        return Composition(states="recorded", signal=kind, loss=FACTS[kind].read_by)

    @property
    def facts(self) -> SignalFacts:
        return FACTS[KINDS[self.signal]]

    def check_recording(self) -> None:
        """Checks that the recorded rows have the tokens that the signal needs. Raises BadInput."""
        recorded = Recording(Path(self.states))
        term = recorded.chosen_term(self.term)
        writer = self.facts.about
        writers = recorded.writers(term)
        if writer is not None and int(writer) not in writers:
            others = sorted(Origin(origin).name.lower() for origin in writers.keys() - {int(Origin.PROMPT)})
            raise BadInput(
                f"signal: got {self.signal}, but {self.states} recorded no token that was written by the "
                f"{writer.name.lower()}, only by: {', '.join(others)}; use states of another run, or a teacher's "
                "distribution or continuation"
            )
        if self.facts.is_weighed_by_logprob and not writers[Origin.LEARNER]:
            raise BadInput(
                f"signal: got {self.signal}, which weighs tokens by the log-prob they were sampled at, but {self.states} "
                "recorded some without (their prompts were exchanged); use another signal, or states of another run"
            )

    def tokens_per_prompt(self) -> TokenBudget:
        """Of a continuation; the number of recorded tokens is not known in advance."""
        written = self.max_new_tokens if self.signal.endswith("continuation") else 0
        return TokenBudget(supervised=written, sampled=written)

    def build(self, parts: Parts) -> Method:
        self.check_recording()
        recorded = RecordedStates(
            Path(self.states),
            term=self.term,
            until="cut" if self.signal.endswith("continuation") else "end",
            share=self.share,
            chosen=self.chosen,
        )
        states: StateSource[Policy] = recorded
        if self.signal.endswith("continuation"):
            states = RecutStates(recorded=recorded, cut=self.cut, items=parts.items)
        return Method(states=states, signal=self.signal_source(parts), loss=self.loss())

    def loss(self) -> Loss:
        loss_for: dict[str, Callable[[], Loss]] = {
            "cross-entropy": CrossEntropy,
            "divergence": lambda: divergence(
                direction=self.direction, beta=self.beta, target_temperature=self.target_temperature
            ),
            "policy gradient": lambda: PolicyGradient(normalise="token-mean", temperature=self.temperature),
            "preference": Preference,
        }
        return loss_for[self.facts.read_by]()

    def signal_source(self, parts: Parts) -> SignalSource[Policy]:
        settings = parts.sampling(self.max_new_tokens, temperature=self.temperature)
        sampler = parts.sampler

        def teacher() -> Policy:
            assert self.teacher is not None
            return parts.teacher(self.teacher)

        source_for: dict[str, Callable[[], SignalSource[Policy]]] = {
            "gold-tokens": GoldTokens,
            "teacher-tokens": TeacherTokens,
            "teacher-continuation": lambda: TeacherContinuation(
                teacher=teacher(), sampler=sampler, settings=settings, items=parts.items
            ),
            "own-continuation": lambda: OwnContinuation(writer="learner", sampler=sampler, settings=settings),
            "teacher-distribution": lambda: TeacherDistribution(teacher=teacher(), positions="all", items=parts.items),
            "teacher-log-prob": lambda: TeacherLogProb(
                teacher=teacher(), temperature=self.temperature, items=parts.items
            ),
            "reward": lambda: GroupReward(reward=reward_of(self.reward, parts)),
            "reward-filter": lambda: RewardFilter(reward=reward_of(self.reward, parts)),
            "preference": lambda: RewardPreference(reward=reward_of(self.reward, parts), reference=None),
        }
        return source_for[self.signal]()
