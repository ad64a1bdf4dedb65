"""The states on record of a run or a study, as a frame, and SQL over them. See docs/states.md for the columns."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from stateshape.record.query import Answer, StatesView, dataset_of
from stateshape.record.reading import recorded_runs
from stateshape.views.frame import Frame, Tabular


class States(Tabular):
    """The trajectories that runs trained on, one row each. Nothing is read before it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        recorded_runs(folder)  # refuses a folder without any

    def to_arrow(self) -> pa.Table:
        """All rows as a pyarrow table, of a study with the columns run and seed."""
        runs = recorded_runs(self.folder)
        return dataset_of(runs, is_study=runs[0].run is not None).to_table()

    def select(self, sql: str) -> Frame:
        """The answer to one SELECT over the view `states`, e.g. "SELECT run, count(*) FROM states GROUP BY run".

        `text_of(ids)` is the text of token ids. Raises BadInput with DuckDB's reason.
        """
        with StatesView(self.folder) as view:
            return framed("states", view.select(sql))

    def summary(self) -> Frame:
        """A row per run and term: rows, tokens, who wrote them, bytes per token, and the steps."""
        with StatesView(self.folder) as view:
            return framed("states", view.summary())

    def __repr__(self) -> str:
        return f"<States of {self.folder}; select(sql), summary(), to_pandas(), to_polars(), to_arrow()>"

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def framed(name: str, answer: Answer) -> Frame:
    columns = list(zip(*answer.rows)) if answer.rows else [()] * len(answer.columns)
    return Frame(name, pa.Table.from_arrays([pa.array(list(one)) for one in columns], names=answer.columns))
