"""What one step adds to a run's sums, as a line of supervision.jsonl, which is kept until the run is done.

A killed run's sums are added up again from these lines, in the same order: they come out the same to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from stateshape.core.files import drop_cut_off_line, read_jsonl, write_jsonl
from stateshape.core.records import LocalityRecord
from stateshape.locality.recoverability import GradeCounts
from stateshape.locality.supervision import NUM_CELLS, Tally


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCounts:
    """`every`: steps between probes, settled at the first step. The supervision map's cells that have tokens, by number."""

    step: int
    every: int
    cells: list[int]
    num_tokens: list[int]
    mass: list[float]
    teacher_grades: GradeCounts

    def tally(self) -> Tally:
        num_C, mass_C = np.zeros(NUM_CELLS, np.int64), np.zeros(NUM_CELLS)
        num_C[self.cells], mass_C[self.cells] = self.num_tokens, self.mass
        return Tally(num_C=num_C, mass_C=mass_C)


def step_counts(step: int, every: int, tally: Tally, teacher_grades: GradeCounts) -> StepCounts:
    cells = tally.num_C.nonzero()[0]
    return StepCounts(
        step=step,
        every=every,
        cells=cells.tolist(),
        num_tokens=tally.num_C[cells].tolist(),
        mass=tally.mass_C[cells].tolist(),
        teacher_grades=teacher_grades,
    )


Record = TypeVar("Record", LocalityRecord, StepCounts)


def kept(path: Path, kind: type[Record], num_done: int) -> list[Record]:
    """The records of the first `num_done` steps; what a killed run wrote after them is removed from the file."""
    if not path.exists():
        return []
    drop_cut_off_line(path)
    records = [record for record in read_jsonl(path, kind) if record.step < num_done]
    write_jsonl(path, records)
    return records
