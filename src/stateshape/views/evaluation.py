"""The rows of an evaluation as a list that shows itself briefly and can be taken as a frame. Computes no mean."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from stateshape.core import html
from stateshape.core.files import plain
from stateshape.core.records import EvalRow
from stateshape.views.frame import Tabular

SHOWN = 5  # rows in a notebook


class Evaluation(list[EvalRow], Tabular):
    """A list of EvalRow, one per item, in the task's order. `summarise` gives their means."""

    def __init__(self, rows: Sequence[EvalRow], *, task: str) -> None:
        super().__init__(rows)
        self.task = task

    def to_arrow(self) -> pa.Table:
        """As a pyarrow table: a column per field, and per score as score_NAME."""
        rows = []
        for row in self:
            fields = plain(row)
            scores = fields.pop("scores")
            rows.append(fields | {f"score_{name}": value for name, value in scores.items()})
        return pa.Table.from_pylist(rows)

    def __repr__(self) -> str:
        return f"<Evaluation of {self.task}: {len(self)} items, {self._right()} right; to_pandas(), to_polars(), to_arrow()>"

    def _right(self) -> int:
        return sum(row.is_correct for row in self)

    def _repr_html_(self) -> str:
        headings = ["item", "right", "predicted", "answer", "written"]
        rows = [
            [row.item_id, "yes" if row.is_correct else "no", row.prediction, row.gold, row.completion] for row in self
        ]
        caption = f"{self.task}: {self._right()} of {len(self)} items right"
        notes = [f"the first {SHOWN} of {len(self)} items; to_pandas() has all"] if len(rows) > SHOWN else []
        return html.table(headings, rows[:SHOWN], caption=caption, notes=notes)
