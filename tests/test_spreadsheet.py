"""Text that a spreadsheet would run stays text; numbers stay numbers."""

from __future__ import annotations

import csv
import io

import pytest

from stateshape.cli.states import print_answer
from stateshape.core.spreadsheet import as_text
from stateshape.record.query import Answer
from stateshape.report.drawing.table import Cell, Column, Table, render_csv

FORMULAS = [
    "=1+1",
    '=HYPERLINK("http://x")',
    "+1+1",
    "-1+cmd|' /C calc'!A0",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "＝1+1",
]
FORMULAS += ["-", "+", "-inf", "--1", "+a", "-1,5"]
KEPT = ["", "text", "a=b", " =1", "-0.5", "+3", "-1e-4", "+.5", "-3.", "0", "'quoted", "–"]


@pytest.mark.parametrize("cell", FORMULAS)
def test_a_formula_gets_a_quote(cell: str) -> None:
    assert as_text(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", KEPT)
def test_other_text_and_numbers_stay(cell: str) -> None:
    assert as_text(cell) == cell


def test_no_table_holds_a_formula() -> None:
    columns = [Column(key="=run", heading="run"), Column(key="gain", heading="gain", kind="number")]
    table = Table(name="t", caption="c", columns=columns, rows=[[Cell(text="@SUM(A1)"), Cell(value=-0.5)]])
    assert list(csv.reader(io.StringIO(render_csv(table)))) == [["'=run", "gain"], ["'@SUM(A1)", "-0.5"]]


def test_nor_does_an_answer_about_states(capsys: pytest.CaptureFixture[str]) -> None:
    print_answer(Answer(["=a", "b"], [("+1+1", -2.0), (None, 3)]), csv=True, json_output=False)
    assert capsys.readouterr().out == "'=a,b\n'+1+1,-2.0\n,3\n"
