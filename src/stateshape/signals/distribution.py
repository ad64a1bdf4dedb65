"""Teacher distribution: a frozen teacher's whole next-token distribution at the states.

Only the teacher's hidden states are kept; its logits are made chunk by chunk inside the loss. A teacher with another tokenizer
is read where both tokenizers cut the row's text alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from stateshape.core.dealt import DealtRows
from stateshape.core.method import Draw, SignalKind
from stateshape.core.signals import MatchDistribution
from stateshape.core.states import Origin, States
from stateshape.policy.policy import Policy
from stateshape.signals.crossing import aligned, shared_tokens
from stateshape.signals.reference import FORWARD_TOKENS, no_states, predicting
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
        supervise_BT = taught_tokens(states, self.positions)
        if not self.teacher.has_tokens_of(learner):
            return matched_across(self.teacher, learner, states, supervise_BT)
        return MatchDistribution(
            states=states,
            supervise_BT=supervise_BT,
            teacher_hidden_ND=predicting(self.teacher, states, supervise_BT, learner=learner, items=self.items),
            teacher_head=self.teacher.head,
        )


def taught_tokens(states: States, positions: Positions) -> Tensor:
    """bool [B, T]: the tokens before which the teacher's distribution is read."""
    supervise_BT = states.written_by(Origin.DATASET, Origin.LEARNER, Origin.TEACHER, Origin.MIXTURE)
    if positions == "all":
        return supervise_BT
    position_T = torch.arange(states.ids_BT.shape[1], device=states.ids_BT.device)
    return supervise_BT & (position_T == states.lengths_B[:, None] - 1)


def matched_across(teacher: Policy, learner: Policy, states: States, supervise_BT: Tensor) -> MatchDistribution:
    """Of the supervised tokens those that are one token in both. Logs their share of the supervised ones: share_aligned."""
    keep_BT = torch.zeros_like(supervise_BT)
    rows: dict[int, list[int]] = {}
    places: dict[int, list[int]] = {}
    for b, (row, marks) in enumerate(zip(states.trajectories(), supervise_BT.tolist(), strict=True)):
        read = aligned(learner, teacher, row) if any(marks) else None
        if read is None:
            continue
        chosen = [t for t, at in enumerate(read.at) if at is not None and marks[t]]
        if chosen:
            keep_BT[b, chosen] = True
            rows[b] = read.ids
            places[b] = [at for t in chosen if (at := read.at[t]) is not None]
    dealt = DealtRows(states, keep_BT)
    mine = [b for b in dealt.rows if b in rows]
    num_asked = int(supervise_BT.sum())
    return MatchDistribution(
        states=states,
        supervise_BT=keep_BT,
        teacher_hidden_ND=dealt.spread(hidden_in_parts(teacher, [rows[b] for b in mine], [places[b] for b in mine])),
        teacher_head=teacher.head,
        shared=shared_tokens(learner, teacher),
        logged={"share_aligned": int(keep_BT.sum()) / num_asked} if num_asked else {},
    )


def hidden_in_parts(policy: Policy, rows: list[list[int]], places: list[list[int]]) -> Tensor:
    """Last hidden states [N, D] of each row at its places, some rows at a time."""
    parts, first, num_tokens = [], 0, 0
    for b, row in enumerate(rows):
        num_tokens += len(row)
        if num_tokens >= FORWARD_TOKENS or b + 1 == len(rows):
            parts.append(policy.hidden_at(rows[first : b + 1], places[first : b + 1]))
            first, num_tokens = b + 1, 0
    return torch.cat(parts) if parts else no_states(policy)
