"""Generalised knowledge distillation: dataset and learner rows mixed, teacher distribution. Source: arXiv:2306.13649."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from stateshape.core.method import Combination, Composition, Method
from stateshape.losses.divergence import Direction
from stateshape.recipes.recipe import Diverging, Need, Parts, Taught, TokenBudget, taught
from stateshape.signals.distribution import TeacherDistribution
from stateshape.states.mixtures import DatasetOrLearner
from stateshape.states.schedules import Schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class GKD(Taught, Diverging):
    """Generalised knowledge distillation: rows from the dataset or the learner, with the teacher's distributions on both."""

    compositions: ClassVar = (Composition(states="mixture", signal="teacher distribution", loss="divergence"),)
    needs: ClassVar[tuple[Need, ...]] = ("solutions",)
    source: ClassVar[str] = "arXiv:2306.13649"

    learner_share: Schedule = field(default_factory=Schedule)
    """Lambda: the probability that a row is the learner's, by step."""
    direction: Direction = "jsd"
    """forward: KL(teacher || learner); reverse: KL(learner || teacher); jsd: between, see beta."""
    rollout_tokens: int = 128
    """Longest rollout of the learner, in tokens."""
    temperature: float = 1.0
    """Temperature of the rollouts."""

    def tokens_per_prompt(self) -> TokenBudget:
        return TokenBudget(supervised=self.rollout_tokens, sampled=self.rollout_tokens)

    def build(self, parts: Parts) -> Method | Combination:
        states = DatasetOrLearner(
            items=parts.items,
            sampler=parts.sampler,
            settings=parts.sampling(self.rollout_tokens, temperature=self.temperature),
            learner_share=self.learner_share,
        )
        loss = self.divergence()
        return taught(
            parts,
            self.teacher,
            lambda teacher: Method(
                states=states,
                signal=TeacherDistribution(teacher=teacher, positions="all", items=parts.items),
                loss=loss,
            ),
        )
