"""Distillation on data: dataset states, teacher distribution, divergence. Source: arXiv:1503.02531."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Combination, Composition, Method
from stateshape.recipes.recipe import Diverging, Need, Parts, Taught, taught
from stateshape.signals.distribution import TeacherDistribution
from stateshape.states.dataset import DatasetStates


@dataclass(frozen=True, kw_only=True, slots=True)
class KD(Taught, Diverging):
    """Offline distillation: the teacher's next-token distributions along the worked solutions."""

    compositions: ClassVar = (Composition(states="dataset", signal="teacher distribution", loss="divergence"),)
    needs: ClassVar[tuple[Need, ...]] = ("solutions",)
    source: ClassVar[str] = "arXiv:1503.02531"

    def build(self, parts: Parts) -> Method | Combination:
        states = DatasetStates(items=parts.items)
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
