"""Verifiable reward as credit: graded text in, one advantage per row out.

    A_i = (r_i - b_i) / (std + eps)

A reward that could not be computed is missing, not zero: the row is left out of the baseline and gets no credit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from stateshape.core.method import Draw, SignalKind
from stateshape.core.ranks import current
from stateshape.core.signals import Credit
from stateshape.core.states import Origin, States
from stateshape.policy.policy import Policy
from stateshape.signals.reference import StayClose

Baseline = Literal["group-mean", "leave-one-out", "batch-mean", "none"]
WITHIN_GROUP: tuple[Baseline, ...] = ("group-mean", "leave-one-out")  # a row is compared with others of its prompt
Scale = Literal["std", "none"]
Truncated = Literal["grade", "mask", "penalise"]
STD_EPSILON = 1e-6  # keeps a group of equal rewards at zero credit instead of 0 / 0
TRUNCATION_PENALTY = 1.0  # off the reward of a row that ran out of tokens: arXiv:2503.14476 eq. 13 at its longest


class Summed(NamedTuple):
    """A reward that is the weighted sum of several; these by name, each as it is without its weight."""

    total: float | None
    parts: Mapping[str, float | None]


Reward: TypeAlias = Callable[[str, str, str], float | Summed | None]
"""(item id, completion text, finish reason) -> reward, or None (or NaN) where it can't be told."""


class Graded(NamedTuple):
    """The rewards of a batch. logged: the mean of each part of a sum, as TRL names it: rewards/<name>/mean."""

    reward_B: Float[Tensor, " B"]
    logged: dict[str, float | None]


def advantages(
    reward_B: Float[Tensor, " B"], group_B: Int[Tensor, " B"], *, baseline: Baseline, scale: Scale
) -> Float[Tensor, " B"]:
    """Reward minus its baseline, over the population standard deviation if `scale` is "std"; NaN -> 0.

    group-mean: the mean of the prompt's rows (GRPO, arXiv:2402.03300 section 4.1). leave-one-out: of its other rows (RLOO,
    arXiv:2402.14740). batch-mean: of all rows. none: 0 (REINFORCE). The standard deviation is over the same rows. Computed in
    fp64: squares of large rewards are no fp32 numbers.
    """
    advantage_B = torch.zeros_like(reward_B)
    known_B = ~torch.isnan(reward_B)
    if baseline == "none":
        return torch.where(known_B, reward_B, advantage_B)
    apart_B = torch.zeros_like(group_B) if baseline == "batch-mean" else group_B
    for group in apart_B.unique():
        member_B = (apart_B == group) & known_B
        rewards = reward_B[member_B].double()
        if rewards.numel() == 0:
            continue
        if bool((rewards == rewards[0]).all()):
            continue  # exactly 0: the mean of equal rewards may be a rounding error away, which the std would blow up
        centred = rewards - rewards.mean()
        if baseline == "leave-one-out":
            centred = centred * len(rewards) / (len(rewards) - 1)  # = reward - mean of the others
        if scale == "std":
            centred = centred / (rewards.std(correction=0) + STD_EPSILON)
        advantage_B[member_B] = centred.to(advantage_B.dtype)
    return advantage_B


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupReward:
    """One reward per row, and from it one advantage for each of its tokens.

    truncated: what becomes of a row that ran out of tokens. grade: its text is graded as it is. mask: it counts in the
    baseline and is not supervised (DAPO's overlong filtering). penalise: TRUNCATION_PENALTY is taken off its reward.
    close_to: adds a reference for a KL term.
    """

    reward: Reward
    baseline: Baseline = "group-mean"
    scale: Scale = "std"
    truncated: Truncated = "grade"
    close_to: StayClose | None = None
    kind: ClassVar[SignalKind] = "reward"

    def __post_init__(self) -> None:
        if self.baseline == "none" and self.scale == "std":
            raise ValueError(
                "scale: got 'std' with baseline 'none'; expected 'none', or a baseline: a deviation is from a mean"
            )

    def read(self, learner: Policy, states: States, draw: Draw) -> Credit:
        reward_B, logged = rewards_of(self.reward, learner, states)
        is_truncated_B = torch.tensor([finish == "length" for finish in states.finishes], device=reward_B.device)
        supervise_BT = states.written_by(Origin.LEARNER) & ~torch.isnan(reward_B)[:, None]
        if self.truncated == "penalise":
            reward_B = reward_B - TRUNCATION_PENALTY * is_truncated_B
        if self.truncated == "mask":
            supervise_BT = supervise_BT & ~is_truncated_B[:, None]
        advantage_B = advantages(reward_B, states.group_B, baseline=self.baseline, scale=self.scale)
        credit = Credit(
            states=states,
            supervise_BT=supervise_BT,
            advantage_BT=advantage_B[:, None].expand(states.ids_BT.shape).contiguous(),
            reward_B=reward_B,
            logged=logged,
        )
        return credit if self.close_to is None else self.close_to.add(learner, credit)


def rewards_of(reward: Reward, policy: Policy, states: States) -> Graded:
    """The reward of each row's completion, fp32; NaN where it is unknown."""
    rows = states.trajectories()

    def graded(mine: list[int]) -> list[Summed]:
        told = (reward(rows[b].item_id, policy.decode(rows[b].response), rows[b].finish) for b in mine)
        return [one if isinstance(one, Summed) else Summed(one, {}) for one in told]

    summed = current().shared([1.0] * len(rows), graded)
    totals = [math.nan if one.total is None else float(one.total) for one in summed]
    names = dict.fromkeys(name for one in summed for name in one.parts)
    return Graded(
        torch.tensor(totals, dtype=torch.float32, device=states.ids_BT.device),
        {f"rewards/{name}/mean": mean_of_known(one.parts[name] for one in summed) for name in names},
    )


def mean_of_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None and not math.isnan(value)]
    return sum(known) / len(known) if known else None
