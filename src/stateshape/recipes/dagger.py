"""DAgger: teacher and learner write the states together, the teacher supervises them. Source: Ross et al. 2011."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from stateshape.core.files import LATER, BadInput
from stateshape.core.method import Combination, Composition, Loss, Method, SignalSource, StateSource
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.losses.divergence import Direction, Divergence
from stateshape.policy.policy import Policy
from stateshape.recipes.recipe import LearnerRollouts, Need, Parts, Taught, TeacherText, TokenBudget, divergence, taught
from stateshape.signals.continuation import TeacherContinuation
from stateshape.signals.distribution import TeacherDistribution
from stateshape.states.cuts import Cut
from stateshape.states.kept import Aggregated
from stateshape.states.mixtures import TeacherOrLearner, Unit
from stateshape.states.schedules import Schedule

CONTINUATION = Composition(states="mixture", signal="teacher continuation", loss="cross-entropy")
DISTRIBUTION = Composition(states="mixture", signal="teacher distribution", loss="divergence")


@dataclass(frozen=True, kw_only=True, slots=True)
class DAgger(LearnerRollouts, Taught, TeacherText):
    """Dataset aggregation: teacher and learner write the states together; the signal is the teacher's, at those states."""

    compositions: ClassVar = (CONTINUATION, DISTRIBUTION)
    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "Ross et al. 2011, algorithm 3.1"

    signal: Literal["continuation", "distribution"] = "continuation"
    """The signal: the teacher continues from a cut, or gives its distribution at every state."""
    schedule: Schedule = field(default_factory=lambda: Schedule(kind="first", value=1.0))
    """Beta: the share written by the teacher, by step."""
    unit: Unit = "sequence"
    """Unit of the schedule's share: sequence (one writer per row), prefix (the teacher begins each row), token, or
    geometric (every token from learner^(1 - beta) teacher^beta)."""
    aggregate: bool = False
    """Train on the states of all steps so far instead of those of the current step."""
    cut: Cut = field(default_factory=Cut)
    """Where the teacher takes over, for continuations."""
    target_temperature: float = field(default=1.0, metadata=LATER)
    """For distributions: temperature of the teacher's distribution in the divergence; the learner's stays 1."""
    direction: Direction = field(default="forward", metadata=LATER)
    """For distributions. forward: KL(teacher || learner); reverse: KL(learner || teacher); jsd: between, see beta."""
    beta: float = field(default=0.5, metadata=LATER)
    """For jsd: position between forward (0) and reverse (1) KL. Not the schedule's beta."""

    def __post_init__(self) -> None:
        LearnerRollouts.__post_init__(self)
        self.divergence()
        if self.signal == "continuation" and self.target_temperature != 1:
            raise BadInput(
                f"target_temperature: got {self.target_temperature} for signal continuation, which is cross-entropy on the "
                "teacher's tokens; expected 1; use --signal distribution, or teacher_temperature for the text itself"
            )
        if self.signal == "continuation" and self.direction != "forward":
            raise BadInput(
                f"direction: got {self.direction} for signal continuation, which is cross-entropy on the teacher's tokens; "
                "expected forward; use --signal distribution"
            )

    def divergence(self) -> Divergence:
        return divergence(direction=self.direction, beta=self.beta, target_temperature=self.target_temperature)

    @property
    def composition(self) -> Composition:
        return CONTINUATION if self.signal == "continuation" else DISTRIBUTION

    def tokens_per_prompt(self) -> TokenBudget:
        written, continued = LearnerRollouts.tokens_per_prompt(self), self.samples * self.max_new_tokens
        if self.signal == "distribution":
            return written
        return TokenBudget(supervised=continued, sampled=written.sampled + continued)

    def build(self, parts: Parts) -> Method | Combination:
        if self.aggregate and "=" in self.teacher:
            raise BadInput("teacher, aggregate: got several teachers and aggregation; expected one teacher")
        return taught(parts, self.teacher, lambda teacher: self.under(teacher, parts))

    def under(self, teacher: Policy, parts: Parts) -> Method:
        states: StateSource[Policy] = TeacherOrLearner(
            items=parts.items,
            sampler=parts.sampler,
            settings=parts.sampling(self.rollout_tokens, temperature=self.temperature, samples=self.samples),
            teacher=teacher,
            beta=self.schedule,
            unit=self.unit,
            cut=self.cut if self.signal == "continuation" else None,
        )
        if self.aggregate:
            states = Aggregated(source=states, folder=parts.folder)
        settings = self.teacher_sampling(parts)
        signal: SignalSource[Policy] = TeacherDistribution(teacher=teacher, positions="all", items=parts.items)
        loss: Loss = self.divergence()
        if self.signal == "continuation":
            signal = TeacherContinuation(teacher=teacher, sampler=parts.sampler, settings=settings, items=parts.items)
            loss = CrossEntropy()
        return Method(states=states, signal=signal, loss=loss)
