"""A table per task that has subjects: the base's score in each, and what every run changed. Computes differences only."""

from __future__ import annotations

from stateshape.core.study_records import BASE
from stateshape.report.drawing.table import Cell, Column, Table
from stateshape.report.parts.tables import tasks_of
from stateshape.report.study_files import StudyFiles


def subject_tables(study: StudyFiles) -> list[Table]:
    labels = {task.name: task.label for task in tasks_of(study.comparison)}
    return [subject_table(study, task, labels[task]) for task in study.comparison.subjects if task in labels]


def subject_table(study: StudyFiles, task: str, label: str) -> Table:
    """Rows by subject; runs' scores minus the base's, means over seeds."""
    rows_by_run = {row.run: row for row in study.comparison.rows if row.by_subject.get(task)}
    base = rows_by_run[BASE].by_subject[task] if BASE in rows_by_run else {}
    runs = [row for run, row in rows_by_run.items() if run != BASE]
    columns = [
        Column(key="subject", heading="Subject"),
        Column(key="items", heading="Items", kind="number", decimals=0),
        Column(key="base", heading="Base", kind="number"),
        *[Column(key=row.run, heading=f"Δ {row.label}", kind="number", is_signed=True) for row in runs],
    ]
    rows = []
    for subject, size in study.comparison.subjects[task].items():
        before = base.get(subject)
        changes = [row.by_subject[task].get(subject) for row in runs]
        cells = [Cell(value=None if before is None or one is None else one - before) for one in changes]
        rows.append([Cell(text=subject.replace("_", " ")), Cell(value=float(size)), Cell(value=before), *cells])
    return Table(
        name=f"subjects_{task}",
        caption=f"{label} by subject: the base's score, and each run's minus it.",
        columns=columns,
        rows=rows,
        notes=[
            "Means over items and seeds. A subject has too few items for an interval of its own; no verdict rests on these."
        ],
    )
