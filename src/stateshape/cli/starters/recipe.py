"""A method of your own: where it supervises (states), what is said there (signal), and the loss.

stateshape train THIS_FILE:Mine --model embedded --task arithmetic --teacher runs/sft --out runs/mine --steps 4
A study names it likewise: recipe: THIS_FILE:Mine. Signals, states and losses of your own: docs/guides/own-method.md.
"""

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Composition, Method
from stateshape.losses.divergence import Divergence
from stateshape.recipes.recipe import LearnerRollouts, Parts
from stateshape.signals.distribution import TeacherDistribution


@dataclass(frozen=True, kw_only=True)
class Mine(LearnerRollouts):
    """One line that says what the method does: --help and the report show it."""

    compositions: ClassVar = (Composition(states="learner", signal="teacher distribution", loss="divergence"),)
    needs: ClassVar = ()
    source: ClassVar[str] = "mine"
    teacher: str
    """Each field, with the text below it, is a flag."""

    def build(self, parts: Parts) -> Method:
        signal = TeacherDistribution(teacher=parts.teacher(self.teacher), positions="all")
        return Method(states=self.rollouts(parts), signal=signal, loss=Divergence(direction="reverse"))
