"""The findings as a table: one row per comparison, each subject's difference with its outcome. Computes nothing."""

from __future__ import annotations

from stateshape.core.study_records import BASE, Finding
from stateshape.report.drawing.palette import looks
from stateshape.report.drawing.table import Cell, Column, Table, estimate_cell
from stateshape.report.study_files import StudyFiles

NOTE = (
    "Differences on the same items; [brackets]: 95% intervals. An outcome takes at least 3 training seeds, an interval that "
    "excludes zero and p < .05; p is after Holm's correction over all rows and subjects. No difference: two one-sided tests "
    "show that it is smaller than one twentieth of what the base scores above chance."
)


def findings_table(study: StudyFiles) -> Table:
    """A run's score minus the base's, or the other's; retention is the mean of its tasks."""
    marks, labels = looks(study.plan, []), {run.name: run.label for run in study.plan.runs}
    found = by_pair(study)
    subjects = [("target", study.plan.target.label), ("retention", "mean retention")]
    columns = [Column(key="label", heading="Run"), Column(key="versus", heading="Minus")]
    for key, heading in subjects:
        columns.append(Column(key=key, heading=f"Δ {heading}", kind="estimate", is_signed=True, companion="p"))
        columns.append(Column(key=f"{key}_outcome", heading=heading[0].upper() + heading[1:]))
    columns.append(Column(key="drift_outcome", heading="Drift"))
    rows = []
    for (run, versus), by_subject in found.items():
        row = [Cell(text=labels[run], colour=marks[run].colour), Cell(text=labels.get(versus, versus))]
        for key, _ in subjects:
            one = by_subject.get(key)
            row.append(Cell() if one is None else estimate_cell(one.evidence.effect, companion=one.evidence.p_holm))
            row.append(Cell(text=None if one is None else one.outcome))
        drift = by_subject.get("drift")
        row.append(Cell(text=None if drift is None else drift.outcome))
        rows.append(row)
    return Table(
        name="findings", caption="What changed, comparison by comparison.", columns=columns, rows=rows, notes=[NOTE]
    )


def by_pair(study: StudyFiles) -> dict[tuple[str, str], dict[str, Finding]]:
    """Findings by (run, the other) and subject: runs against the base first."""
    found: dict[tuple[str, str], dict[str, Finding]] = {}
    known = study.findings.findings if study.findings else []
    for one in sorted(known, key=lambda one: one.versus != BASE):
        found.setdefault((one.run, one.versus), {})[one.subject] = one
    return found
