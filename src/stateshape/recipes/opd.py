"""On-policy distillation by next-token divergence: learner states, teacher distribution. Source: eq. 7; arXiv:2306.13649."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Combination, Composition, Method
from stateshape.recipes.recipe import Diverging, LearnerRollouts, Need, Parts, Taught, TokenBudget, taught
from stateshape.signals.distribution import Positions, TeacherDistribution
from stateshape.states.cuts import OneState


@dataclass(frozen=True, kw_only=True, slots=True)
class OPD(LearnerRollouts, Taught, Diverging):
    """On-policy distillation: the teacher's next-token distributions at the learner's states."""

    compositions: ClassVar = (Composition(states="learner", signal="teacher distribution", loss="divergence"),)
    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "arXiv:2605.22731 eq. 7; arXiv:2306.13649"

    positions: Positions = "all"
    """all: every state along the rollout; last: one state per rollout, at a random depth (the paper's one-step OPD)."""

    def tokens_per_prompt(self) -> TokenBudget:
        written = LearnerRollouts.tokens_per_prompt(self)
        return written._replace(supervised=self.samples) if self.positions == "last" else written

    def build(self, parts: Parts) -> Method | Combination:
        states = self.rollouts(parts, cut=OneState() if self.positions == "last" else None)
        loss = self.divergence()
        return taught(
            parts,
            self.teacher,
            lambda teacher: Method(
                states=states,
                signal=TeacherDistribution(teacher=teacher, positions=self.positions, items=parts.items),
                loss=loss,
            ),
        )
