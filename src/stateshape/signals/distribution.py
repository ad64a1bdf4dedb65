"""Teacher distribution: a frozen teacher's whole next-token distribution at the states.

Only the teacher's hidden states are kept; its logits are made chunk by chunk inside the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from stateshape.core.method import Draw, SignalKind
from stateshape.core.signals import MatchDistribution
from stateshape.core.states import Origin, States
from stateshape.policy.policy import Policy
from stateshape.signals.reference import predicting
from stateshape.signals.rendering import Items

Positions = Literal["all", "last"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherDistribution:
    """`all`: every state along the response. `last`: one state per row, the one before its last token."""

    teacher: Policy
    positions: Positions
    items: Items | None = None  # of chats, which the teacher reads in its own template
    kind: ClassVar[SignalKind] = "teacher distribution"

    @torch.no_grad()
    def read(self, learner: Policy, states: States, draw: Draw) -> MatchDistribution:
        supervise_BT = states.written_by(Origin.DATASET, Origin.LEARNER, Origin.TEACHER)
        if self.positions == "last":
            position_T = torch.arange(states.ids_BT.shape[1], device=states.ids_BT.device)
            supervise_BT = supervise_BT & (position_T == states.lengths_B[:, None] - 1)
        return MatchDistribution(
            states=states,
            supervise_BT=supervise_BT,
            teacher_hidden_ND=predicting(self.teacher, states, supervise_BT, learner=learner, items=self.items),
            teacher_head_VD=self.teacher.head_VD,
        )
