"""Group-relative policy optimisation with an exact-answer reward: learner states, reward, policy gradient.

Source: arXiv:2402.03300. Differs: one update a batch (so the ratio is 1 and clipping idle), no KL to a reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Composition, Method
from stateshape.losses.policy_gradient import Normalise, PolicyGradient
from stateshape.recipes.recipe import Parts
from stateshape.sampling.settings import SamplingSettings
from stateshape.signals.reward import GroupReward, Scale
from stateshape.states.rollouts import Rollouts


@dataclass(frozen=True, kw_only=True, slots=True)
class GRPO:
    """Reinforcement learning: several samples a prompt, 1 for the exact answer, credit relative to the group."""

    composition: ClassVar[Composition] = Composition(states="learner", signal="reward", loss="policy gradient")
    source: ClassVar[str] = "arXiv:2402.03300"

    group: int = 8
    """Samples a prompt, whose mean reward is the baseline."""
    scale: Scale = "std"
    """std: divide by the group's standard deviation (GRPO); none: do not (Dr.GRPO)."""
    normalise: Normalise = "token-mean"
    """token-mean: every token weighs the same (DAPO); sequence-mean: every sample does (GRPO)."""
    rollout_tokens: int = 128
    """Longest rollout, in tokens. A rollout that runs out is graded as it stands."""
    temperature: float = 1.0
    """Temperature of sampling and of scoring."""

    def build(self, parts: Parts) -> Method:
        items = {item.item_id: item for item in parts.task.train}
        task = parts.task

        def exact_answer(item_id: str, text: str, finish: str) -> float | None:
            return float(task.grade(text, items[item_id]).strict.is_correct)

        return Method(
            states=Rollouts(
                items=items,
                sampler=parts.sampler,
                settings=SamplingSettings(
                    max_new_tokens=self.rollout_tokens,
                    temperature=self.temperature,
                    num_samples=self.group,
                    stops=task.stops,
                ),
            ),
            signal=GroupReward(reward=exact_answer, scale=self.scale),
            loss=PolicyGradient(normalise=self.normalise, temperature=self.temperature),
        )
