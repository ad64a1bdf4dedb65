"""Teacher continuation of dataset prefixes: the off-policy twin of opd_continuation, with the same signal and loss."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from stateshape.core.method import Combination, Composition, Method
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.recipes.recipe import Need, Parts, Taught, TeacherText, TokenBudget, taught
from stateshape.signals.continuation import TeacherContinuation
from stateshape.states.cuts import Cut
from stateshape.states.dataset import DatasetStates


@dataclass(frozen=True, kw_only=True, slots=True)
class ContinuationOnData(Taught, TeacherText):
    """Teacher continuation on data: a worked solution is cut, a frozen teacher continues it, the learner imitates."""

    compositions: ClassVar = (Composition(states="dataset", signal="teacher continuation", loss="cross-entropy"),)
    needs: ClassVar[tuple[Need, ...]] = ("solutions",)
    source: ClassVar[str] = "arXiv:2605.22731 section 2.5, on dataset prefixes"

    cut: Cut = field(default_factory=Cut)
    """Where in the worked solution the teacher takes over."""

    def tokens_per_prompt(self) -> TokenBudget:
        return TokenBudget(supervised=self.max_new_tokens, sampled=self.max_new_tokens)

    def build(self, parts: Parts) -> Method | Combination:
        states = DatasetStates(items=parts.items, cut=self.cut)
        settings = self.teacher_sampling(parts)
        return taught(
            parts,
            self.teacher,
            lambda teacher: Method(
                states=states,
                signal=TeacherContinuation(
                    teacher=teacher, sampler=parts.sampler, settings=settings, items=parts.items
                ),
                loss=CrossEntropy(),
            ),
        )
