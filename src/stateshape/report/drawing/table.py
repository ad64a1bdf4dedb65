"""One table model, rendered as CSV, Markdown, LaTeX (booktabs) and for terminals; the HTML page draws the same model.

A number may carry a 95% interval and one companion number (a p-value, or the same distance for base vs base).
CSV holds full precision, one column each for value, lo, hi and companion, and is empty where a number is missing;
everywhere else numbers are rounded and a missing one is an en dash. Does not know what the columns mean.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from typing import Literal

from rich.table import Table as RichTable
from rich.text import Text

from stateshape.core import spreadsheet
from stateshape.core.study_records import Estimate
from stateshape.report.drawing import text

Kind = Literal["text", "estimate", "number"]  # only an estimate has lo and hi


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    key: str  # the CSV's name for it
    heading: str
    kind: Kind = "text"
    decimals: int = 3
    is_signed: bool = False
    companion: str = ""  # the CSV's suffix for the companion number; "p" is shown as a p-value
    is_shown: bool = True  # False: in the CSV only
    is_companion_shown: bool = True  # False: in the CSV only


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """Text, or a number with what belongs to it. A text's value: the number it shows, for frames."""

    text: str | None = None
    value: float | None = None
    lo: float | None = None
    hi: float | None = None
    companion: float | None = None
    colour: str | None = None  # a run's colour, for the page's swatch


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    name: str
    caption: str
    columns: list[Column]
    rows: list[list[Cell]]
    number: str = ""  # how the caption begins, e.g. "Table 2."; LaTeX counts for itself
    notes: list[str] = field(default_factory=list)

    @property
    def shown(self) -> list[int]:
        return [i for i, column in enumerate(self.columns) if column.is_shown]


def estimate_cell(estimate: Estimate | None, *, companion: float | None = None) -> Cell:
    if estimate is None:
        return Cell(companion=companion)
    return Cell(value=estimate.value, lo=estimate.lo, hi=estimate.hi, companion=companion)


def main_text(cell: Cell, column: Column) -> str:
    if column.kind == "text":
        return cell.text if cell.text else text.MISSING
    return text.number(cell.value, decimals=column.decimals, is_signed=column.is_signed)


def interval_text(cell: Cell, column: Column) -> str:
    if column.kind != "estimate" or cell.value is None:
        return ""
    return text.interval(cell.lo, cell.hi, decimals=column.decimals, is_signed=column.is_signed)


def companion_text(cell: Cell, column: Column, *, is_short: bool = False) -> str:
    """The companion in words, or short in brackets; nothing where neither the number nor its companion is there."""
    if not column.companion or not column.is_companion_shown or (cell.value is None and cell.companion is None):
        return ""
    if column.companion == "p":
        return text.p_value(cell.companion)
    companion = text.number(cell.companion, decimals=column.decimals)
    return f"({companion})" if is_short else f"{column.companion.replace('_', ' ')} {companion}"


def cell_lines(cell: Cell, column: Column) -> list[str]:
    """What a cell shows, line by line: the number, its interval, its companion."""
    texts = [main_text(cell, column), interval_text(cell, column), companion_text(cell, column)]
    return [line for line in texts if line]


def render_csv(table: Table) -> str:
    """Full precision: reading a number back gives the same float. Text never becomes a formula (core/spreadsheet.py)."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([spreadsheet.as_text(name) for column in table.columns for name in _csv_names(column)])
    for row in table.rows:
        writer.writerow([value for cell, column in zip(row, table.columns) for value in _csv_values(cell, column)])
    return out.getvalue()


def _csv_names(column: Column) -> list[str]:
    names = [column.key]
    if column.kind == "estimate":
        names += [f"{column.key}_lo", f"{column.key}_hi"]
    return [*names, f"{column.key}_{column.companion}"] if column.companion else names


def _csv_values(cell: Cell, column: Column) -> list[str]:
    if column.kind == "text":
        return [spreadsheet.as_text(text.visible(cell.text or ""))]
    return ["" if value is None else repr(float(value)) for value in _numbers(cell, column)]


def _numbers(cell: Cell, column: Column) -> list[float | None]:
    """A number, the ends of its interval and its companion, as `_csv_names` names them."""
    values = [cell.value, cell.lo, cell.hi] if column.kind == "estimate" else [cell.value]
    return [*values, cell.companion] if column.companion else values


def flat_columns(table: Table) -> list[tuple[str, list[str | float | None]]]:
    """The CSV's columns by name, with numbers as numbers and None where there is none. A text with a value is that value."""
    flat: list[tuple[str, list[str | float | None]]] = []
    for i, column in enumerate(table.columns):
        cells = [row[i] for row in table.rows]
        if column.kind == "text":
            has_values = any(cell.value is not None for cell in cells)
            flat.append((column.key, [cell.value if has_values else cell.text for cell in cells]))
        else:
            numbers = [_numbers(cell, column) for cell in cells]
            flat += [(name, [one[k] for one in numbers]) for k, name in enumerate(_csv_names(column))]
    return flat


def render_markdown(table: Table) -> str:
    columns = [table.columns[i] for i in table.shown]
    lines = [
        f"**{text.markdown(table.caption)}**",
        "",
        _markdown_row([text.markdown(column.heading) for column in columns]),
        _markdown_row([":--" if column.kind == "text" else "--:" for column in columns]),
    ]
    for row in table.rows:
        lines.append(_markdown_row([_markdown_cell(row[i], table.columns[i]) for i in table.shown]))
    lines += [f"\n{text.markdown(note)}" for note in table.notes]
    return "\n".join(lines) + "\n"


def _markdown_cell(cell: Cell, column: Column) -> str:
    """On one line, for terminals and converters: `0.184 [0.152, 0.220], p = 0.031`. Only what others wrote is escaped."""
    main, beneath, companion = main_text(cell, column), interval_text(cell, column), companion_text(cell, column)
    number = " ".join(part for part in (text.markdown(main), beneath) if part)
    return ", ".join(part for part in (number, companion) if part)


def _markdown_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def render_tex(table: Table) -> str:
    """A booktabs table; a number's interval is below it in a small size, its companion in round brackets."""
    columns = [table.columns[i] for i in table.shown]
    layout = "".join("l" if column.kind == "text" else "r" for column in columns)
    rows = [" & ".join(_tex_cell(row[i], table.columns[i]) for i in table.shown) for row in table.rows]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering\footnotesize\setlength{\tabcolsep}{2.5pt}",
            rf"\caption{{{text.tex(table.caption.removeprefix(table.number).strip())}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{@{{}}{layout}@{{}}}}",
            r"\toprule",
            " & ".join(_tex_heading(column) for column in columns) + r" \\",
            r"\midrule",
            *[row + r" \\" for row in rows],
            r"\bottomrule",
            r"\end{tabular}",
            *[rf"\par\smallskip\parbox{{\linewidth}}{{\scriptsize {text.tex(note)}}}" for note in table.notes],
            r"\end{table}",
            "",
        ]
    )


def _tex_heading(column: Column) -> str:
    """Numbers are narrow: their headings break at every word."""
    words = [column.heading] if column.kind == "text" else column.heading.split()
    return _tex_stack([text.tex(word) for word in words], place="b")


def _tex_cell(cell: Cell, column: Column) -> str:
    beneath = [interval_text(cell, column), companion_text(cell, column, is_short=True)]
    small = [rf"{{\scriptsize {text.tex(line)}}}" for line in beneath if line]
    return _tex_stack([text.tex(main_text(cell, column)), *small], place="t")


def _tex_stack(lines: list[str], *, place: str) -> str:
    if len(lines) == 1:
        return lines[0]
    stacked = r"\\".join(lines)
    return rf"\begin{{tabular}}[{place}]{{@{{}}r@{{}}}}{stacked}\end{{tabular}}"


def render_text(table: Table) -> RichTable:
    """For terminals. Cells are plain text: a label that looks like rich markup stays a label."""
    drawn = RichTable(title=Text(text.one_line(table.caption)), caption=Text(" ".join(table.notes)), show_lines=False)
    for i in table.shown:
        column = table.columns[i]
        drawn.add_column(Text(text.one_line(column.heading)), justify="left" if column.kind == "text" else "right")
    for row in table.rows:
        cells = [cell_lines(row[i], table.columns[i]) for i in table.shown]
        drawn.add_row(*[Text("\n".join(text.one_line(line) for line in cell)) for cell in cells])
    return drawn
