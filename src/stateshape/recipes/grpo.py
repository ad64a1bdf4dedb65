"""Policy gradient with a verifiable reward: learner states, reward, policy gradient. GRPO and its relatives by settings.

Source: arXiv:2402.03300. Differs: one update per batch by default, so that the ratio is 1 and clipping idle; no KL term unless
it is asked for. docs/losses.md has the settings of Dr.GRPO, DAPO, GSPO, RLOO and REINFORCE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.files import BadInput
from stateshape.core.method import Composition, Method
from stateshape.losses.policy_gradient import KLEstimator, Normalise, PolicyGradient, Ratio
from stateshape.recipes.recipe import Need, Parts, Rewarded, TokenBudget
from stateshape.recipes.rewards import reward_of
from stateshape.sampling.settings import check_sampling
from stateshape.signals.reference import StayClose
from stateshape.signals.reward import WITHIN_GROUP, Baseline, GroupReward, Scale, Truncated
from stateshape.states.sampled import LearnerStates


@dataclass(frozen=True, kw_only=True, slots=True)
class GRPO(Rewarded):
    """Reinforcement learning: several samples per prompt, reward 1 for the exact answer, credit relative to the group."""

    compositions: ClassVar = (Composition(states="learner", signal="reward", loss="policy gradient"),)
    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "arXiv:2402.03300"

    group: int = 8
    """Samples per prompt."""
    baseline: Baseline = "group-mean"
    """Baseline of a reward. group-mean: the mean of its group (GRPO); leave-one-out: the mean of the others in its group
    (RLOO); batch-mean: the mean of all samples; none: 0 (REINFORCE)."""
    scale: Scale = "std"
    """std: divide by the standard deviation of the rewards compared (GRPO); none: do not (Dr.GRPO)."""
    truncated: Truncated = "grade"
    """Samples cut off at the token limit. grade: grade the text as it is; mask: do not supervise; penalise: reward minus 1."""
    normalise: Normalise = "token-mean"
    """token-mean: every token has equal weight (DAPO); sequence-mean: every sample has (GRPO); constant: as token-mean, but
    divided by samples x rollout_tokens (Dr.GRPO)."""
    ratio: Ratio = "token"
    """Probability ratio of learner to sampler. token: one per token; sequence: one per sample, the geometric mean (GSPO)."""
    clip_low: float = 0.2
    """Ratios below 1 - clip_low are clipped."""
    clip_high: float = 0.2
    """Ratios above 1 + clip_high are clipped (DAPO: 0.28)."""
    kl_coefficient: float = 0.0
    """Weight of the KL to the reference. 0: no KL term, and no forward pass of the reference."""
    kl_estimator: KLEstimator = "exact"
    """exact: KL(learner || reference) over the whole vocabulary; k1, k2, k3: from the sampled token (see docs/losses.md for
    their gradients)."""
    reference: str = "base"
    """Reference of the KL term: base (the untrained model), a run folder or an adapter folder."""
    rollout_tokens: int = 128
    """Longest rollout, in tokens."""
    temperature: float = 1.0
    """Temperature of sampling and of scoring."""

    def __post_init__(self) -> None:
        check_sampling(group=self.group, rollout_tokens=self.rollout_tokens, temperature=self.temperature)
        if self.baseline in WITHIN_GROUP and self.group < 2:
            raise BadInput(
                f"group: got {self.group} with baseline {self.baseline!r}, by which a sample is compared with others of its "
                "prompt; expected 2 or more, since one alone never gets a gradient; or give --baseline batch-mean"
            )

    def tokens_per_prompt(self) -> TokenBudget:
        return TokenBudget(supervised=self.group * self.rollout_tokens, sampled=self.group * self.rollout_tokens)

    def build(self, parts: Parts) -> Method:
        return Method(
            states=LearnerStates(
                items=parts.items,
                sampler=parts.sampler,
                settings=parts.sampling(self.rollout_tokens, temperature=self.temperature, samples=self.group),
            ),
            signal=GroupReward(
                reward=reward_of(self.reward, parts),
                baseline=self.baseline,
                scale=self.scale,
                truncated=self.truncated,
                close_to=self.close_to(parts) if self.kl_coefficient else None,
            ),
            loss=PolicyGradient(
                normalise=self.normalise,
                ratio=self.ratio,
                clip_low=self.clip_low,
                clip_high=self.clip_high,
                kl_coefficient=self.kl_coefficient,
                kl_estimator=self.kl_estimator,
                max_tokens=self.rollout_tokens if self.normalise == "constant" else None,
                temperature=self.temperature,
            ),
        )

    def close_to(self, parts: Parts) -> StayClose:
        return StayClose(
            policy=None if self.reference == "base" else parts.teacher(self.reference),
            over_vocabulary=self.kl_estimator == "exact",
            temperature=self.temperature,
        )
