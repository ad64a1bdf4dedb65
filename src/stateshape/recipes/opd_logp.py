"""On-policy distillation by policy gradient: the sampled reverse KL to the teacher is each token's credit.

Source: Thinking Machines, On-Policy Distillation (2025). Differs: one update a batch, so the ratio is 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Combination, Composition, Method
from stateshape.losses.policy_gradient import PolicyGradient
from stateshape.recipes.recipe import LearnerRollouts, Need, Parts, Taught, taught
from stateshape.signals.teacher_logp import TeacherLogProb


@dataclass(frozen=True, kw_only=True, slots=True)
class OPDLogProb(LearnerRollouts, Taught):
    """On-policy distillation by policy gradient: a token's credit is the teacher's log-prob of it minus the learner's."""

    compositions: ClassVar = (Composition(states="learner", signal="teacher log-prob", loss="policy gradient"),)
    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "Thinking Machines, On-Policy Distillation (2025)"

    def build(self, parts: Parts) -> Method | Combination:
        states = self.rollouts(parts)
        loss = PolicyGradient(normalise="token-mean", temperature=self.temperature)
        return taught(
            parts,
            self.teacher,
            lambda teacher: Method(
                states=states,
                signal=TeacherLogProb(teacher=teacher, temperature=self.temperature, items=parts.items),
                loss=loss,
            ),
        )
