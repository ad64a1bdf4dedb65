"""`stateshape states`: the states a run trained on, as text by writer, as answers to SQL, or as a summary. Loads no "
"weights."""

from __future__ import annotations

import csv as csv_format
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from stateshape.core.files import BadInput, plain
from stateshape.core.spreadsheet import as_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from stateshape.core.records import Span
    from stateshape.record.query import Answer, StatesView

COLOURS = {
    "prompt": "dim",
    "dataset": "green",
    "learner": "cyan",
    "teacher": "magenta",
    "environment": "yellow",
    "mixture": "blue",
}
SHOWN_CELL = 60  # characters of a table's cell; --csv and --json give all
PIPED_WIDTH = 10_000  # a table that is not on a terminal is as wide as it needs
VISIBLE = {c: f"\\x{c:02x}" for c in [*range(32), *range(127, 160)] if chr(c) not in "\n\t"}  # never sent to a terminal


def states(
    folder: tyro.conf.Positional[str],
    *,
    step: int | None = None,
    item: str | None = None,
    origin: str | None = None,
    finish: str | None = None,
    min_reward: float | None = None,
    term: str | None = None,
    limit: int = 10,
    sql: str | None = None,
    summary: bool = False,
    csv: bool = False,
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Browse the states a run trained on, with text marked by its writer, or query them with SQL. See docs/states.md.

    Args:
        folder: A run folder or a study folder.
        step: Only rows of this step, counted from 0.
        item: Only rows of this item id.
        origin: Only rows with tokens of this writer: prompt, dataset, learner, teacher, environment,
            mixture.
        finish: Only rows that ended in this way: eos, stop, length, dataset.
        min_reward: Only rows with at least this reward.
        term: Only rows of this method, where the run combined several.
        limit: Print at most this many rows.
        sql: One SELECT over the view `states`, which has one row per trajectory.
        summary: Print counts of rows and tokens, tokens by writer, and bytes per token, instead of the rows.
        csv: Print the answer to --sql, or the summary, as CSV. Text like =1+1 gets a leading ' to keep it text.
        json_output: Print JSON.
    """
    from stateshape.record.query import StatesView

    filters = {
        "step": step, "item": item, "origin": origin, "finish": finish, "min_reward": min_reward, "term": term,
    }  # fmt: skip
    check_flags(filters, limit=limit, sql=sql, summary=summary, csv=csv, json_output=json_output)
    try:
        with StatesView(Path(folder)) as view:
            if sql is not None or summary:
                answer = view.summary() if sql is None else view.select(sql)
                print_answer(answer, csv=csv, json_output=json_output)
            else:
                browse(view, filters, limit=limit, json_output=json_output)
    except FileNotFoundError as error:
        raise BadInput(f"states: {error}; a run in progress has moved its files meanwhile; try again") from None


def check_flags(
    filters: Mapping[str, object], *, limit: int, sql: str | None, summary: bool, csv: bool, json_output: bool
) -> None:
    used_filters = [name for name, value in filters.items() if value is not None]
    if sql is not None and summary:
        raise BadInput("sql, summary: got both; expected one of them")
    if used_filters and (sql is not None or summary):
        other = "summary" if summary else "sql"
        raise BadInput(
            f"{used_filters[0]}: got it together with --{other}; expected one of them; write it in --sql as a WHERE"
        )
    if csv and json_output:
        raise BadInput("csv, json: got both; expected one of them")
    if csv and sql is None and not summary:
        raise BadInput("csv: got it without --sql or --summary; expected one of them; for rows of text use --json")
    if filters["origin"] not in (None, *COLOURS):
        raise BadInput(f"origin: got {filters['origin']!r}; expected one of {', '.join(COLOURS)}")
    if limit < 1:
        raise BadInput(f"limit: got {limit}; expected a number above 0")


def browse(view: StatesView, filters: Mapping[str, Any], *, limit: int, json_output: bool) -> None:
    from rich.console import Console

    from stateshape.record.schema import ORIGINS
    from stateshape.record.text import open_decoder, spans_of

    tests = {
        "step": "step = ?", "item": "item_id = ?", "origin": "list_contains(origins, ?)", "finish": "finish = ?",
        "min_reward": "reward >= ?", "term": "term = ?",
    }  # fmt: skip
    chosen = {name: value for name, value in filters.items() if value is not None}
    values = [ORIGINS.index(value) if name == "origin" else value for name, value in chosen.items()]
    where = " AND ".join(tests[name] for name in chosen) or "true"
    place = "run, seed, " if view.is_study else ""
    total = view.select(f"SELECT count(*) FROM states WHERE {where}", values).rows[0][0]
    columns, rows = view.select(
        f"SELECT * FROM states WHERE {where} ORDER BY {place}step, term, row LIMIT {limit}", values
    )
    decoders = {(run.run, run.seed): open_decoder(run.recording.source) for run in view.runs} if rows else {}
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    is_coloured = console.color_system is not None and not console.no_color
    if rows and is_coloured and not json_output:
        console.print(legend())
    for values_ in rows:
        row: dict[str, Any] = dict(zip(columns, values_, strict=True))
        decoder = decoders[row.get("run"), row.get("seed")]
        spans = spans_of(row["ids"], row["origins"], row["supervised"], decoder)
        if json_output:
            print(json.dumps(row | {"spans": plain(spans)}, ensure_ascii=False))
        else:
            print_row(console, row, spans, is_coloured=is_coloured)
    if not json_output and total != len(rows):
        print(f"{len(rows)} of {total} rows; --limit {total} shows all", file=sys.stderr)
    if not total:
        print("no recorded row matches; --summary shows the contents", file=sys.stderr)


def legend() -> Text:
    from rich.text import Text

    parts = [Text(name, style=style) for name, style in COLOURS.items()]
    return Text("  ").join([*parts, Text("supervised", style="underline")])


def print_row(console: Console, row: Mapping[str, Any], spans: list[Span], *, is_coloured: bool) -> None:
    """A line about the row, then its text: coloured by writer, or with each writer named where there is no colour."""
    from rich.text import Text

    names = {"run": "run", "seed": "seed", "step": "step", "term": "term", "row": "row", "item_id": "item"}
    names |= {"finish": "finish", "reward": "reward", "policy_version": "policy version", "teacher": "teacher"}
    told = [f"{name} {row[key]}" for key, name in names.items() if row.get(key) not in (None, "")]
    if row["cut"] is not None:
        told.append(f"cut {row['cut']}")
    told.append(f"tokens {len(row['ids'])}, supervised {sum(row['supervised'])}")
    console.print(Text(visible(" | ".join(told)), style="bold" if is_coloured else ""))
    body = Text()
    for span in spans:
        if is_coloured:
            body.append(visible(span.text), style=COLOURS[span.origin] + (" underline" if span.is_supervised else ""))
        else:
            body.append(f"[{span.origin}{', supervised' if span.is_supervised else ''}] {visible(span.text)}\n")
    console.print(body, end="\n\n" if is_coloured else "\n")


def visible(text: str) -> str:
    """Control characters as \\xNN: text from a model must not control a terminal."""
    return text.translate(VISIBLE)


def print_answer(answer: Answer, *, csv: bool, json_output: bool) -> None:
    if json_output:
        rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
        print(json.dumps(rows, indent=1, ensure_ascii=False, default=str))
    elif csv:
        writer = csv_format.writer(sys.stdout, lineterminator="\n")
        writer.writerow([as_text(name) for name in answer.columns])
        writer.writerows([[as_text(cell) if isinstance(cell, str) else cell for cell in row] for row in answer.rows])
    else:
        print_table(answer)


def print_table(answer: Answer) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for k, name in enumerate(answer.columns):
        is_number = all(isinstance(row[k], int | float) for row in answer.rows if row[k] is not None)
        table.add_column(Text(name), justify="right" if is_number else "left", no_wrap=True)
    for row in answer.rows:
        table.add_row(*(Text(cell(value)) for value in row))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    if Measurement.get(console, console.options.update(max_width=PIPED_WIDTH), table).maximum > console.width:
        print_down(answer)
        return
    lines = console.render_lines(table, pad=False)
    print("\n".join("".join(segment.text for segment in line).rstrip() for line in lines[1:-1]))


def print_down(answer: Answer) -> None:
    """One line per value, where the columns do not fit side by side."""
    width = max(map(len, answer.columns))
    for number, row in enumerate(answer.rows, 1):
        print(f"{f'─ {number} ':─<{width + 20}}")
        for name, value in zip(answer.columns, row, strict=True):
            print(f"{name:{width}}  {cell(value)}")


def cell(value: object) -> str:
    """A value on one line: a dash if it is missing, a number with six digits."""
    if value is None:
        return "–"
    text = f"{value:.6g}" if isinstance(value, float) else visible(str(value)).replace("\n", "\\n")
    return text if len(text) <= SHOWN_CELL else f"{text[: SHOWN_CELL - 1]}…"
