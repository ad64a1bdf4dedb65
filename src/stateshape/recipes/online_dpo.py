"""Online preference optimisation: pairs of the learner's own responses, ordered by reward. Source: arXiv:2402.04792."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Composition, Method
from stateshape.losses.preference import Preference, Shape
from stateshape.recipes.recipe import LearnerRollouts, Need, Parts, Rewarded, check_several
from stateshape.recipes.rewards import reward_of
from stateshape.signals.preference import RewardPreference


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlineDPO(LearnerRollouts, Rewarded):
    """Online preference optimisation: prefers the best of the learner's responses to a prompt over the worst."""

    compositions: ClassVar = (Composition(states="learner", signal="preference", loss="preference"),)
    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "arXiv:2402.04792"

    samples: int = 8
    """Rollouts per prompt. The best and the worst make a pair; there is none where all have the same reward."""
    shape: Shape = "dpo"
    """dpo: -log sigmoid of the margin; ipo: squared distance of the mean margin from 1 / (2 beta)."""
    beta: float = 0.1
    """How strongly the learner is kept close to the reference."""
    reference: str = "base"
    """The reference: base (the untrained model), a run folder or an adapter folder."""

    def __post_init__(self) -> None:
        LearnerRollouts.__post_init__(self)
        check_several(self.samples, why="of which the best and the worst make a pair; one alone makes none")

    def build(self, parts: Parts) -> Method:
        return Method(
            states=self.rollouts(parts),
            signal=RewardPreference(
                reward=reward_of(self.reward, parts),
                reference=None if self.reference == "base" else parts.teacher(self.reference),
            ),
            loss=Preference(shape=self.shape, beta=self.beta),
        )
