"""Verifiable reward as group-relative credit: graded text in, one advantage a row out.

    A_i = (r_i - mean_g r) / (std_g r + eps)     over the rows of a prompt's group g     (arXiv:2402.03300 section 4.1)

A reward that could not be computed is missing, not zero: the row is left out of the baseline and gets no credit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stateshape.core.method import Draw, SignalKind
from stateshape.core.signals import Credit
from stateshape.core.states import Origin, States
from stateshape.policy.policy import Policy

Scale = Literal["std", "none"]
STD_EPSILON = 1e-6  # keeps a group of equal rewards at zero credit instead of 0 / 0
Reward = Callable[[str, str, str], float | None]
"""(item id, completion text, finish reason) -> reward, or None where it can't be told."""


def group_advantages(reward_B: Float[Tensor, " B"], group_B: Int[Tensor, " B"], *, scale: Scale) -> Float[Tensor, " B"]:
    """Reward minus the group's mean, over the group's population standard deviation if `scale` is "std"; NaN -> 0."""
    advantage_B = torch.zeros_like(reward_B)
    for group in group_B.unique():
        member_B = (group_B == group) & ~torch.isnan(reward_B)
        rewards = reward_B[member_B]
        if rewards.numel() == 0:
            continue
        if bool((rewards == rewards[0]).all()):
            continue  # exactly 0: the mean of equal rewards may be a rounding error away, which the std would blow up
        centred = rewards - rewards.mean()
        if scale == "std":
            centred = centred / (rewards.std(correction=0) + STD_EPSILON)
        advantage_B[member_B] = centred
    return advantage_B


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupReward:
    reward: Reward
    scale: Scale
    kind: ClassVar[SignalKind] = "reward"

    def read(self, learner: Policy, states: States, draw: Draw) -> Credit:
        rewards = []
        for row in states.trajectories():
            text = learner.decode(row.ids[row.prompt_length :])
            reward = self.reward(row.item_id, text, row.finish)
            rewards.append(float("nan") if reward is None else reward)
        reward_B = torch.tensor(rewards, dtype=torch.float32, device=states.ids_BT.device)
        advantage_B = group_advantages(reward_B, states.group_B, scale=self.scale)
        supervise_BT = states.written_by(Origin.LEARNER) & ~torch.isnan(reward_B)[:, None]
        return Credit(
            states=states,
            supervise_BT=supervise_BT,
            advantage_BT=advantage_B[:, None].expand(states.ids_BT.shape).contiguous(),
            reward_B=reward_B,
        )
