"""A table of results as an object: shown in a notebook as the report shows it, and taken as arrow, pandas or polars.

pandas and polars are not dependencies: a table is arrow until one of them is asked for. Does not know what the columns mean.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from stateshape.core import html
from stateshape.core.files import BadInput
from stateshape.report.drawing.table import Cell, Column, Table, cell_lines, flat_columns, render_markdown

if TYPE_CHECKING:
    import pandas
    import polars


class Tabular:
    """What can be taken as a table. A subclass says how, by `to_arrow`."""

    def to_arrow(self) -> pa.Table:
        """As a pyarrow table."""
        raise NotImplementedError

    def to_pandas(self) -> pandas.DataFrame:
        """As a pandas data frame. Raises BadInput where pandas is not installed."""
        optional("pandas", "to_pandas()")
        return self.to_arrow().to_pandas()

    def to_polars(self) -> polars.DataFrame:
        """As a polars data frame. Raises BadInput where polars is not installed."""
        frames: Any = optional("polars", "to_polars()")
        return frames.from_arrow(self.to_arrow())


class Frame(Tabular):
    """A table with full precision. In a notebook it shows itself, rounded; `print` gives Markdown."""

    def __init__(self, name: str, arrow: pa.Table, drawn: Table | None = None) -> None:
        self.name = name
        self._arrow = arrow
        self._drawn = drawn

    @staticmethod
    def of(table: Table) -> Frame:
        """A table of the report: one column each for a number, the ends of its interval, and its companion."""
        names, columns = zip(*flat_columns(table)) if table.columns else ((), ())
        arrays = [pa.array(column) for column in columns]
        arrays = [one.cast(pa.string()) if pa.types.is_null(one.type) else one for one in arrays]
        return Frame(table.name, pa.Table.from_arrays(arrays, names=list(names)), table)

    @property
    def columns(self) -> list[str]:
        """Names of all columns, those that are not shown included."""
        return list(self._arrow.column_names)

    def __len__(self) -> int:
        return int(self._arrow.num_rows)

    def to_arrow(self) -> pa.Table:
        """As a pyarrow table."""
        return self._arrow

    def __repr__(self) -> str:
        return (
            f"<Frame {self.name}: {len(self)} rows x {len(self.columns)} columns; to_pandas(), to_polars(), to_arrow()>"
        )

    def __str__(self) -> str:
        return repr(self) if self._drawn is None else render_markdown(self._drawn)

    def _repr_html_(self) -> str:
        drawn = self._drawn
        if drawn is None:
            rows = list(zip(*(column.slice(0, html.MAX_ROWS + 1).to_pylist() for column in self._arrow.columns)))
            notes = [f"{len(self):,} rows"] if len(self) > html.MAX_ROWS else []
            return html.table(self.columns, rows[: html.MAX_ROWS], caption=self.name, notes=notes)
        cells = [[shown_cell(row[i], drawn.columns[i]) for i in drawn.shown] for row in drawn.rows]
        headings = [drawn.columns[i].heading for i in drawn.shown]
        return html.table(headings, cells, caption=drawn.caption, notes=drawn.notes)


def shown_cell(cell: Cell, column: Column) -> str:
    """Line by line; a number and its interval are not broken."""
    text = "\n".join(cell_lines(cell, column))
    return text if column.kind == "text" else text.replace(" ", "\u00a0")


def optional(name: str, asked: str) -> object:
    """A library that is not a dependency. Raises BadInput."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise BadInput(
            f"{name}: is not installed; expected it for {asked}; pip install {name}, or take to_arrow()"
        ) from None
