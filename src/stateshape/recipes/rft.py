"""Rejection sampling fine-tuning: learner states, kept where the reward says so, cross-entropy. Source: arXiv:2308.01825."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from stateshape.core.method import Composition, Method, StateSource
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.policy.policy import Policy
from stateshape.recipes.recipe import LearnerRollouts, Need, Parts, Rewarded
from stateshape.recipes.rewards import reward_of
from stateshape.signals.filter import RewardFilter
from stateshape.states.kept import EveryEpoch


@dataclass(frozen=True, kw_only=True, slots=True)
class RFT(LearnerRollouts, Rewarded):
    """Rejection sampling fine-tuning: the learner imitates its own correct responses."""

    compositions: ClassVar = (Composition(states="learner", signal="reward filter", loss="cross-entropy"),)
    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "arXiv:2308.01825; self-SFT: arXiv:2510.18874"

    keep: Literal["rewarded", "all"] = "rewarded"
    """rewarded: responses with a reward of at least `threshold`; all: every response (self-SFT)."""
    threshold: float = 0.5
    """Smallest reward at which a response is kept."""
    regenerate: Literal["epoch", "step"] = "epoch"
    """When to sample again: for all prompts at the start of each pass over them, or for each step's prompts."""

    def build(self, parts: Parts) -> Method:
        states: StateSource[Policy] = self.rollouts(parts)
        if self.regenerate == "epoch":
            states = EveryEpoch(source=states, item_ids=parts.item_ids, folder=parts.folder)
        reward = reward_of(self.reward, parts) if self.keep == "rewarded" else None
        return Method(states=states, signal=RewardFilter(reward=reward, threshold=self.threshold), loss=CrossEntropy())
