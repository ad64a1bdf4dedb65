"""Distillation on data: dataset states, teacher distribution, divergence. Source: arXiv:1503.02531."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Combination, Composition, Method
from stateshape.losses.divergence import Direction, Divergence
from stateshape.recipes.recipe import Need, Parts, taught
from stateshape.signals.distribution import TeacherDistribution
from stateshape.states.dataset import DatasetStates


@dataclass(frozen=True, kw_only=True, slots=True)
class KD:
    """Offline distillation: the teacher's next-token distributions along the worked solutions."""

    compositions: ClassVar = (Composition(states="dataset", signal="teacher distribution", loss="divergence"),)
    needs: ClassVar[tuple[Need, ...]] = ("solutions",)
    source: ClassVar[str] = "arXiv:1503.02531"

    teacher: str
    """Teacher: a run folder, an adapter folder, or a model that shares the vocabulary. Frozen."""
    direction: Direction = "forward"
    """forward: KL(teacher || learner); reverse: KL(learner || teacher); jsd: between the two, see beta."""
    beta: float = 0.5
    """Where the generalised Jensen-Shannon divergence stands: 0 is forward, 1 is reverse."""

    def build(self, parts: Parts) -> Method | Combination:
        states = DatasetStates(items=parts.items)
        loss = Divergence(direction=self.direction, beta=self.beta)
        return taught(
            parts,
            self.teacher,
            lambda teacher: Method(
                states=states, signal=TeacherDistribution(teacher=teacher, positions="all"), loss=loss
            ),
        )
