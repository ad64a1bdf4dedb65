"""Teacher continuation of dataset prefixes: the off-policy twin of opd_continuation, with the same signal and loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from stateshape.core.method import Combination, Composition, Method
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.recipes.recipe import Need, Parts, taught
from stateshape.signals.continuation import TeacherContinuation
from stateshape.states.cuts import Cut
from stateshape.states.dataset import DatasetStates


@dataclass(frozen=True, kw_only=True, slots=True)
class ContinuationOnData:
    """Teacher continuation on data: a worked solution is cut, a frozen teacher continues it, the learner imitates."""

    compositions: ClassVar = (Composition(states="dataset", signal="teacher continuation", loss="cross-entropy"),)
    needs: ClassVar[tuple[Need, ...]] = ("solutions",)
    source: ClassVar[str] = "arXiv:2605.22731 section 2.5, on dataset prefixes"

    teacher: str
    """Teacher: a run folder, an adapter folder, or a model that shares the vocabulary. Frozen."""
    cut: Cut = field(default_factory=Cut)
    """Where in the worked solution the teacher takes over."""
    max_new_tokens: int = 128
    """Longest continuation, in tokens."""
    teacher_temperature: float = 1.0
    """Temperature of the teacher's continuations; 0 is greedy."""

    def build(self, parts: Parts) -> Method | Combination:
        states = DatasetStates(items=parts.items, cut=self.cut)
        settings = parts.sampling(self.max_new_tokens, temperature=self.teacher_temperature)
        return taught(
            parts,
            self.teacher,
            lambda teacher: Method(
                states=states,
                signal=TeacherContinuation(teacher=teacher, sampler=parts.sampler, settings=settings),
                loss=CrossEntropy(),
            ),
        )
