"""Reward and distillation on the same rollouts: two signals on one batch of learner states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Combination, Composition, Method, Term
from stateshape.losses.divergence import Divergence
from stateshape.losses.policy_gradient import PolicyGradient
from stateshape.recipes.recipe import LearnerRollouts, Need, Parts, Rewarded, Taught, check_several
from stateshape.recipes.rewards import reward_of
from stateshape.signals.distribution import TeacherDistribution
from stateshape.signals.reward import GroupReward


@dataclass(frozen=True, kw_only=True, slots=True)
class GRPOPlusOPD(LearnerRollouts, Taught, Rewarded):
    """Two signals on one rollout: group-relative reward, and the teacher's distributions along it."""

    compositions: ClassVar = (
        Composition(states="learner", signal="reward", loss="policy gradient"),
        Composition(states="learner", signal="teacher distribution", loss="divergence"),
    )
    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "a combination of grpo and opd"

    samples: int = 8
    """Rollouts per prompt; their mean reward is the baseline."""
    reward_weight: float = 1.0
    """Weight of the policy-gradient loss, a mean over its own tokens."""
    opd_weight: float = 1.0
    """Weight of the distillation loss, a mean over its own tokens."""

    def __post_init__(self) -> None:
        LearnerRollouts.__post_init__(self)
        check_several(self.samples, why="whose rewards are compared with each other; one alone gets no credit")

    def build(self, parts: Parts) -> Combination:
        states = self.rollouts(parts)
        reward = Method(
            states=states,
            signal=GroupReward(reward=reward_of(self.reward, parts)),
            loss=PolicyGradient(normalise="token-mean", temperature=self.temperature),
        )
        distil = Method(
            states=states,
            signal=TeacherDistribution(teacher=parts.teacher(self.teacher), positions="all", items=parts.items),
            loss=Divergence(),
        )
        return Combination(
            terms={
                "reward": Term(method=reward, weight=self.reward_weight),
                "opd": Term(method=distil, weight=self.opd_weight),
            }
        )
