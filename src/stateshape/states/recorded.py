"""Recorded states: the states another run trained on, step by step, bit for bit. Samples nothing.

A share of the recorded steps is the first of them, or some chosen at random by the run's seed; either way in their order.
The signal decides which tokens are supervised.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from stateshape.core.files import BadInput
from stateshape.core.method import Draw, StateKind
from stateshape.core.seeds import seed_for
from stateshape.core.states import Origin, States, Trajectory, pack
from stateshape.policy.policy import Policy
from stateshape.record.reading import Recording
from stateshape.record.schema import vocabulary_sha256
from stateshape.states.cuts import Cut, Items

Until = Literal["end", "cut"]
Chosen = Literal["first", "random"]
COLUMNS = ["item_id", "ids", "origins", "behaviour_logp", "finish", "group", "cut"]


class RecordedStates:
    """`folder`: the run that recorded the states; `term`: which of its methods, if it combined several.

    until: `end` gives a row as it was trained on; `cut` as it was drawn, without a signal's continuation.
    share: of the recorded steps, those to draw from (`steps_of_share`); chosen: which ones.
    Raises BadInput if the run recorded nothing, or no such term.
    """

    kind: ClassVar[StateKind] = "recorded"

    def __init__(
        self,
        folder: Path,
        *,
        term: str | None = None,
        until: Until = "end",
        share: float = 1.0,
        chosen: Chosen = "first",
    ) -> None:
        self.recording = Recording(folder)
        self.term = self.recording.chosen_term(term)
        self.until = until
        self.share = share
        self.chosen = chosen
        self._spoken_by: object = None

    @property
    def num_steps(self) -> int:
        """The number of steps to draw from."""
        return steps_of_share(self.recording.num_steps, self.share)

    def step_of(self, draw: Draw) -> int:
        """The recorded step that is drawn in step `draw.step`: the same for every run of this seed."""
        if self.share == 1:
            return draw.step
        if draw.step >= self.num_steps:
            raise BadInput(
                f"steps: got step {draw.step}, but share {self.share} of {self.recording.folder} is {self.num_steps} steps; "
                f"expected no step beyond them; use --steps {self.num_steps} or fewer"
            )
        if self.chosen == "first":
            return draw.step
        rng = random.Random(seed_for(draw.seed, "replayed steps"))
        return sorted(rng.sample(range(self.recording.num_steps), self.num_steps))[draw.step]

    def draw(self, learner: Policy, draw: Draw) -> States:
        """The rows that a recorded step trained on. Raises BadInput beyond the last one and for another vocabulary."""
        self.check_vocabulary(learner)
        step = self.step_of(draw)
        rows = self.recording.rows(step, self.term).select(COLUMNS).to_pylist()
        if not rows:
            raise BadInput(
                f"{self.recording.folder}: {self.term or 'the run'} has no states in step {step}; expected some; "
                "replay a run whose every step has them"
            )
        return pack([trajectory(row, self.until) for row in rows], device=learner.device)

    def steps_ahead(self, num_prompts: int) -> int:
        """See DrawnAhead: nothing is sampled, so nothing is gained here, but by a signal that is read ahead."""
        return 1

    def draw_several(self, learner: Policy, draws: Sequence[Draw]) -> list[States]:
        return [self.draw(learner, draw) for draw in draws]

    def check_vocabulary(self, learner: Policy) -> None:
        if self._spoken_by is learner.tokenizer:
            return
        recorded = self.recording.source
        if vocabulary_sha256(learner.tokenizer.get_vocab()) != recorded.vocabulary_sha256:
            raise BadInput(
                f"states: got {str(self.recording.folder)!r}, recorded with the vocabulary of {recorded.model!r}, which is "
                f"not that of {learner.weights.source!r}; expected the same token ids; use a model of the same family"
            )
        self._spoken_by = learner.tokenizer


def steps_of_share(num_steps: int, share: float) -> int:
    """How many of the recorded steps a share is: rounded down, at least one."""
    return max(1, math.floor(share * num_steps + 1e-9))  # .29 x 100 is 28.999... in floating point


def trajectory(row: dict, until: Until) -> Trajectory:  # type: ignore[type-arg]
    whole = Trajectory(
        item_id=row["item_id"],
        ids=row["ids"],
        origins=[Origin(origin) for origin in row["origins"]],
        logps=row["behaviour_logp"],
        finish=row["finish"],
        group=row["group"],
    )
    return whole if until == "end" or row["cut"] is None else whole.cut(row["cut"])


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

    def steps_ahead(self, num_prompts: int) -> int:
        """See DrawnAhead: as RecordedStates, unless the learner decides where to cut."""
        return 0 if self.cut.reads_policy else 1

    def draw_several(self, learner: Policy, draws: Sequence[Draw]) -> list[States]:
        return [self.draw(learner, draw) for draw in draws]
