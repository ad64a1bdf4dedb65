"""The kinds of thing a signal can say about states. Each carries the states it speaks of (a continuation extends them).

`supervise_BT[b, t]` is True where the prediction of token t from the tokens before it is supervised; column 0 is never
supervised. Knows nothing of how a signal was obtained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from stateshape.core.states import States


class Signal(Protocol):
    """What a loss receives: states, the supervised positions, and whatever the kind adds."""

    @property
    def states(self) -> States: ...
    @property
    def supervise_BT(self) -> Tensor: ...
    def rows(self, index: Tensor) -> Signal: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Imitate:
    """The token itself is the target."""

    states: States
    supervise_BT: Tensor

    def rows(self, index: Tensor) -> Imitate:
        states = self.states.rows(index)
        return replace(self, states=states, supervise_BT=self.supervise_BT[index, : states.ids_BT.shape[1]])


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchDistribution:
    """A distribution is the target: the teacher's last hidden states and its head, from which logits are made by chunk."""

    states: States
    supervise_BT: Tensor
    teacher_hidden_ND: Tensor  # the state that predicts each supervised token, as the teacher sees it; row by row
    teacher_head_VD: Tensor

    def rows(self, index: Tensor) -> MatchDistribution:
        states = self.states.rows(index)
        of_row = self.teacher_hidden_ND.split(self.supervise_BT.sum(1).tolist())
        return replace(
            self,
            states=states,
            supervise_BT=self.supervise_BT[index, : states.ids_BT.shape[1]],
            teacher_hidden_ND=torch.cat([of_row[b] for b in index.tolist()]),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Credit:
    """Each supervised token is to become more (positive) or less (negative) likely. Needs the writer's log-probs."""

    states: States
    supervise_BT: Tensor
    advantage_BT: Tensor
    reward_B: Tensor  # NaN where the reward could not be computed

    def __post_init__(self) -> None:
        if torch.isnan(self.states.behaviour_logp_BT[self.supervise_BT]).any():
            raise ValueError(
                "credit: got supervised tokens without the log-prob of the policy that wrote them; expected states "
                "sampled by a known policy; use learner rollouts as the state source"
            )

    def rows(self, index: Tensor) -> Credit:
        states = self.states.rows(index)
        width = states.ids_BT.shape[1]
        return replace(
            self,
            states=states,
            supervise_BT=self.supervise_BT[index, :width],
            advantage_BT=self.advantage_BT[index, :width],
            reward_B=self.reward_B[index],
        )
