"""The verdicts as a table: a row per claim. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

from stateshape.core.study_records import Verdict
from stateshape.report.drawing.table import Cell, Column, Table

COLUMNS = ("claim_id", "claim", "outcome", "sentence", "family", "written")


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """A row per claim, in order: its outcome, and the verdict in words with its numbers."""
    headings = ["Claim", "What is claimed", "Outcome", "Verdict", "Family", "Written"]
    columns = [Column(key=key, heading=heading) for key, heading in zip(COLUMNS, headings)]
    rows = [[Cell(text=getattr(one, key)) for key in COLUMNS] for one in verdicts]
    return Table(name="verdicts", caption="Verdicts", columns=columns, rows=rows)
