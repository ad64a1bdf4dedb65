"""Sequence-level distillation: teacher states, teacher tokens, cross-entropy. Source: arXiv:1606.07947."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Combination, Composition, Method
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.recipes.recipe import Need, Parts, Taught, TeacherText, TokenBudget, taught
from stateshape.signals.gold import TeacherTokens
from stateshape.states.sampled import TeacherStates


@dataclass(frozen=True, kw_only=True, slots=True)
class SeqKD(Taught, TeacherText):
    """Sequence-level distillation: the learner imitates responses of a frozen teacher."""

    compositions: ClassVar = (Composition(states="teacher", signal="teacher tokens", loss="cross-entropy"),)
    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "arXiv:1606.07947"

    samples: int = 1
    """Teacher responses per prompt."""

    def tokens_per_prompt(self) -> TokenBudget:
        return TokenBudget(supervised=self.samples * self.max_new_tokens, sampled=self.samples * self.max_new_tokens)

    def build(self, parts: Parts) -> Method | Combination:
        settings = self.teacher_sampling(parts, samples=self.samples)
        return taught(
            parts,
            self.teacher,
            lambda teacher: Method(
                states=TeacherStates(items=parts.items, sampler=parts.sampler, settings=settings, teacher=teacher),
                signal=TeacherTokens(),
                loss=CrossEntropy(),
            ),
        )
