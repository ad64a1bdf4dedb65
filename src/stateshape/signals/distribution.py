"""Teacher distribution: what a frozen teacher would say next, as a whole distribution, at the learner's states.

Only the teacher's hidden states are kept; its logits are made chunk by chunk inside the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from stateshape.core.method import Draw, SignalKind
from stateshape.core.signals import MatchDistribution
from stateshape.core.states import Origin, States, chunks
from stateshape.core.tensors import before
from stateshape.policy.policy import Policy

Positions = Literal["all", "last"]
FORWARD_TOKENS = 4096  # of a teacher's forward pass at a time; bounds its activations


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherDistribution:
    """`all`: every state along the response. `last`: one state a row, the one before its last token."""

    teacher: Policy
    positions: Positions
    kind: ClassVar[SignalKind] = "teacher distribution"

    @torch.no_grad()
    def read(self, learner: Policy, states: States, draw: Draw) -> MatchDistribution:
        supervise_BT = states.written_by(Origin.DATASET, Origin.LEARNER, Origin.TEACHER)
        if self.positions == "last":
            position_T = torch.arange(states.ids_BT.shape[1], device=states.ids_BT.device)
            supervise_BT = supervise_BT & (position_T == states.lengths_B[:, None] - 1)
        chosen_BT = before(supervise_BT)
        parts = [
            self.teacher.hidden(states.ids_BT[b], states.lengths_B[b], chosen_BT[b])
            for b in chunks(states, FORWARD_TOKENS)
        ]
        return MatchDistribution(
            states=states,
            supervise_BT=supervise_BT,
            teacher_hidden_ND=torch.cat(parts),
            teacher_head_VD=self.teacher.head_VD,
        )
