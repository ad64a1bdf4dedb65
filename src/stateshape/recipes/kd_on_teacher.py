"""Distillation on teacher rollouts: teacher states, teacher distribution, divergence. Source: arXiv:1503.02531."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Combination, Composition, Method
from stateshape.policy.policy import Policy
from stateshape.recipes.recipe import Diverging, Need, Parts, Taught, TeacherText, TokenBudget, taught
from stateshape.signals.distribution import TeacherDistribution
from stateshape.states.sampled import TeacherStates


@dataclass(frozen=True, kw_only=True, slots=True)
class KDOnTeacher(Taught, TeacherText, Diverging):
    """Offline distillation on teacher rollouts: the teacher's next-token distributions along its own responses."""

    compositions: ClassVar = (Composition(states="teacher", signal="teacher distribution", loss="divergence"),)
    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "arXiv:1503.02531, on the teacher's own text"

    samples: int = 1
    """Teacher responses per prompt."""

    def tokens_per_prompt(self) -> TokenBudget:
        return TokenBudget(supervised=self.samples * self.max_new_tokens, sampled=self.samples * self.max_new_tokens)

    def build(self, parts: Parts) -> Method | Combination:
        settings = self.teacher_sampling(parts, samples=self.samples)
        loss = self.divergence()

        def under(teacher: Policy) -> Method:
            return Method(
                states=TeacherStates(items=parts.items, sampler=parts.sampler, settings=settings, teacher=teacher),
                signal=TeacherDistribution(teacher=teacher, positions="all", items=parts.items),
                loss=loss,
            )

        return taught(parts, self.teacher, under)
