"""Recorded states made ready for a continuation: whole responses are cut anew, rows that were cut stay as they are."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Draw, StateKind
from stateshape.core.seeds import seed_for
from stateshape.core.states import States, pack
from stateshape.policy.policy import Policy
from stateshape.states.cuts import Cut, Items
from stateshape.states.recorded import RecordedStates


@dataclass(frozen=True, kw_only=True, slots=True)
class RecutStates:
    """`recorded` with its whole responses (all but those that ran out of tokens or were cut) cut by `cut`."""

    recorded: RecordedStates
    cut: Cut
    items: Items
    kind: ClassVar[StateKind] = "recorded"

    def draw(self, learner: Policy, draw: Draw) -> States:
        rows = self.recorded.draw(learner, draw).trajectories()
        rng = random.Random(seed_for(draw.seed, "cut", draw.step))
        whole = [k for k, row in enumerate(rows) if row.finish != "length"]
        for k, row in zip(whole, self.cut.applied(learner, [rows[k] for k in whole], self.items, rng), strict=True):
            rows[k] = row
        return pack(rows, device=learner.device)
