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
class CellCounts:
    """Cells of a supervision map that have tokens, by number."""

    cells: list[int]
    num_tokens: list[int]
    mass: list[float]

    def tally(self) -> Tally:
        num_C, mass_C = np.zeros(NUM_CELLS, np.int64), np.zeros(NUM_CELLS)
        num_C[self.cells], mass_C[self.cells] = self.num_tokens, self.mass
        return Tally(num_C=num_C, mass_C=mass_C)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCounts:
    """`every`: steps between probes, settled at the first step. The supervision map's cells that have tokens, by number.

    apart: the same of terms that are apart; None: there are none.
    """

    step: int
    every: int
    cells: list[int]
    num_tokens: list[int]
    mass: list[float]
    teacher_grades: GradeCounts
    apart: CellCounts | None = None

    def tally(self) -> Tally:
        return CellCounts(cells=self.cells, num_tokens=self.num_tokens, mass=self.mass).tally()

    def apart_tally(self) -> Tally:
        return Tally() if self.apart is None else self.apart.tally()


def step_counts(step: int, every: int, tally: Tally, apart: Tally, teacher_grades: GradeCounts) -> StepCounts:
    own, other = cell_counts(tally), cell_counts(apart)
    return StepCounts(
        step=step,
        every=every,
        cells=own.cells,
        num_tokens=own.num_tokens,
        mass=own.mass,
        teacher_grades=teacher_grades,
        apart=other if other.cells else None,
    )


def cell_counts(tally: Tally) -> CellCounts:
    cells = tally.num_C.nonzero()[0]
    return CellCounts(cells=cells.tolist(), num_tokens=tally.num_C[cells].tolist(), mass=tally.mass_C[cells].tolist())


Record = TypeVar("Record", LocalityRecord, StepCounts)


def kept(path: Path, kind: type[Record], num_done: int) -> list[Record]:
    """The records of the first `num_done` steps; what a killed run wrote after them is removed from the file."""
    if not path.exists():
        return []
    drop_cut_off_line(path)
    records = [record for record in read_jsonl(path, kind) if record.step < num_done]
    write_jsonl(path, records)
    return records
