"""Teacher distribution, of which only the likeliest tokens are told: a teacher that is asked, not held.

The teacher reads the learner's ids, chats too: it has no rendering of its own. Does not know how it is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from stateshape.core.dealt import DealtRows
from stateshape.core.files import BadInput
from stateshape.core.method import Draw, SignalKind
from stateshape.core.signals import MatchTop
from stateshape.core.states import States
from stateshape.policy.policy import Policy
from stateshape.sampling.top import TopTeacher
from stateshape.signals.distribution import Positions, taught_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherTop:
    """positions: as of TeacherDistribution."""

    teacher: TopTeacher
    positions: Positions
    kind: ClassVar[SignalKind] = "teacher distribution"

    def read(self, learner: Policy, states: States, draw: Draw) -> MatchTop:
        """Logs the mean mass of the likeliest tokens: top_mass."""
        supervise_BT = taught_tokens(states, self.positions)
        dealt = DealtRows(states, supervise_BT)
        written, marks_BT = states.trajectories(), supervise_BT.tolist()
        places = {b: [t for t, is_asked in enumerate(marks_BT[b]) if is_asked] for b in dealt.rows}
        asked = [b for b in dealt.rows if places[b]]
        top = self.teacher.top([written[b].ids for b in asked], [places[b] for b in asked])
        largest = max(map(max, top.ids_NK), default=0)
        if largest >= learner.head.num_tokens:
            raise BadInput(
                f"teacher: got token {largest} among its likeliest; expected one of the learner's {learner.head.num_tokens}; "
                "use a teacher with the learner's tokens"
            )
        shape, device = (-1, self.teacher.top_k), learner.device
        ids_nK = torch.tensor(top.ids_NK, dtype=torch.int64, device=device).reshape(shape)
        logp_nK = torch.tensor(top.logp_NK, dtype=torch.float32, device=device).reshape(shape)
        mass_N = dealt.of_all(logp_nK.double().exp().sum(-1))
        return MatchTop(
            states=states,
            supervise_BT=supervise_BT,
            top_ids_NK=dealt.spread(ids_nK),
            top_logp_NK=dealt.spread(logp_nK),
            logged={"top_mass": float(mass_N.mean())} if len(mass_N) else {},
        )
