"""Parts of your own, in a file outside the package: a signal and a recipe; a reward, a cut, a schedule."""

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Composition, Method
from stateshape.losses.divergence import Divergence
from stateshape.recipes.recipe import LearnerRollouts, Parts
from stateshape.signals.distribution import TeacherDistribution


@dataclass(frozen=True, kw_only=True)
class EveryOther(TeacherDistribution):
    """What is said: the teacher's distribution, at every other token. A state source is a class with a `draw` likewise."""

    def read(self, learner, states, draw):
        keep_BT = (states.ids_BT.new_ones(states.ids_BT.shape).cumsum(1) % 2).bool()
        return super().read(learner, states, draw).supervising(keep_BT)


@dataclass(frozen=True, kw_only=True)
class SparseOPD(LearnerRollouts):
    """On-policy distillation at every other state. The fields are the command line's flags."""

    compositions: ClassVar = (Composition(states="learner", signal="teacher distribution", loss="divergence"),)
    needs: ClassVar = ()
    source: ClassVar[str] = "mine"
    teacher: str
    """Teacher: a run folder, an adapter folder, or a model."""

    def build(self, parts: Parts) -> Method:
        signal = EveryOther(teacher=parts.teacher(self.teacher), positions="all")
        return Method(states=self.rollouts(parts), signal=signal, loss=Divergence(direction="reverse"))


brevity = lambda item, text, finish: None if finish == "length" else -len(text) / 100  # noqa: E731  --reward FILE:brevity
half = lambda policy, rows, items, rng: [len(r.ids[r.prompt_length :]) // 2 for r in rows]  # noqa: E731  --cut.at FILE:half
fade = lambda step, num_steps: 1 - step / num_steps  # noqa: E731  --schedule.kind FILE:fade
