"""Preference: of two answers to one prompt, which is the better one; given by the data, or by a reward on the learner's own.

The reference's log-probs come with the signal. `reference` None: the base, the learner's weights without its adapter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from stateshape.core.method import Draw, SignalKind
from stateshape.core.signals import Prefer
from stateshape.core.states import Origin, States
from stateshape.core.tensors import row_sums
from stateshape.policy.policy import Policy
from stateshape.signals.reference import base_of, score
from stateshape.signals.reward import Reward, rewards_of


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetPreference:
    """The states are pairs already: adjacent rows of one group, the chosen one first."""

    reference: Policy | None = None
    kind: ClassVar[SignalKind] = "preference"

    def read(self, learner: Policy, states: States, draw: Draw) -> Prefer:
        is_paired = len(states) % 2 == 0 and torch.equal(states.group_B[0::2], states.group_B[1::2])
        if not is_paired:
            raise ValueError(
                f"preference: got {len(states)} rows that aren't pairs; expected adjacent rows of one group, the chosen one "
                "first; use a state source that draws pairs"
            )
        return preferring(states, self.reference or base_of(learner))


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardPreference:
    """Of each prompt's rollouts, the best and the worst by reward make a pair. A prompt whose rewards tie has none.

    Of equally good rows the first drawn is taken. A reward that could not be computed takes no part.
    """

    reward: Reward
    reference: Policy | None = None
    kind: ClassVar[SignalKind] = "preference"

    def read(self, learner: Policy, states: States, draw: Draw) -> Prefer:
        reward_B, logged = rewards_of(self.reward, learner, states)
        index = best_and_worst(reward_B, states.group_B)
        if len(index):
            return replace(preferring(states.rows(index), self.reference or base_of(learner)), logged=logged)
        nothing = states.rows(torch.zeros(2, dtype=torch.int64, device=states.ids_BT.device))  # a row against itself
        return Prefer(
            states=nothing,
            supervise_BT=torch.zeros_like(nothing.ids_BT, dtype=torch.bool),
            reference_logp_B=torch.zeros(2, device=nothing.ids_BT.device),
            logged=logged,
        )


def best_and_worst(reward_B: Tensor, group_B: Tensor) -> Tensor:
    """Rows [best, worst, best, worst, ...], a pair for each group with two different rewards, groups in their order."""
    rewards, groups = reward_B.tolist(), group_B.tolist()
    chosen: list[int] = []
    for group in dict.fromkeys(groups):
        rows = [b for b, of in enumerate(groups) if of == group and rewards[b] == rewards[b]]
        best, worst = max(rows, key=rewards.__getitem__, default=0), min(rows, key=rewards.__getitem__, default=0)
        if rows and rewards[best] > rewards[worst]:
            chosen += [best, worst]
    return torch.tensor(chosen, dtype=torch.int64, device=reward_B.device)


def preferring(pairs: States, reference: Policy) -> Prefer:
    """Whole responses supervised, with the reference's log-prob of each."""
    supervise_BT = pairs.written_by(Origin.DATASET, Origin.LEARNER, Origin.TEACHER)
    logp_N = score(reference, pairs, supervise_BT).logp_N
    return Prefer(states=pairs, supervise_BT=supervise_BT, reference_logp_B=row_sums(logp_N, supervise_BT))
