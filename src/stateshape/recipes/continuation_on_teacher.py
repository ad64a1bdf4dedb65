"""Teacher continuation of teacher prefixes: a control for opd_continuation, whose prefixes are the learner's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from stateshape.core.method import Combination, Composition, Method
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.policy.policy import Policy
from stateshape.recipes.recipe import Need, Parts, Taught, TeacherText, TokenBudget, taught
from stateshape.signals.continuation import TeacherContinuation
from stateshape.states.cuts import Cut
from stateshape.states.sampled import TeacherStates


@dataclass(frozen=True, kw_only=True, slots=True)
class ContinuationOnTeacher(Taught, TeacherText):
    """Teacher continuation on teacher prefixes: a frozen teacher continues its own cut response; the learner imitates."""

    compositions: ClassVar = (Composition(states="teacher", signal="teacher continuation", loss="cross-entropy"),)
    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "arXiv:2605.22731 section 2.5, on teacher prefixes"

    cut: Cut = field(default_factory=Cut)
    """Where the teacher's own response is cut."""

    def tokens_per_prompt(self) -> TokenBudget:
        return TokenBudget(supervised=self.max_new_tokens, sampled=2 * self.max_new_tokens)

    def build(self, parts: Parts) -> Method | Combination:
        settings = self.teacher_sampling(parts)

        def under(teacher: Policy) -> Method:
            return Method(
                states=TeacherStates(
                    items=parts.items, sampler=parts.sampler, settings=settings, teacher=teacher, cut=self.cut
                ),
                signal=TeacherContinuation(
                    teacher=teacher, sampler=parts.sampler, settings=settings, items=parts.items
                ),
                loss=CrossEntropy(),
            )

        return taught(parts, self.teacher, under)
