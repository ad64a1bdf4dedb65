"""Checkpoints on the page: their findings and KL as tables; and of any run, items that flipped, beside the base's answer.

Shows what audit.json, comparison.json and flips.jsonl hold. Does not know how an item is graded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stateshape.core.records import FlippedItem, KlValue
from stateshape.core.study_records import Audit
from stateshape.report.drawing.palette import looks
from stateshape.report.drawing.table import Cell, Column, Table, estimate_cell
from stateshape.report.parts.tables import tasks_of
from stateshape.report.study_files import StudyFiles, spread

MOST_FLIPS = 4  # of a task and direction on the page; flips.jsonl has all
MOST_CHARACTERS = 600  # of a text on the page: its end, where the question or the answer is
KL_DECIMALS = 4
OUTCOMES = {"gained": ("yes", "✓"), "lost": ("no", "✕"), "cannot tell": ("open", "?"), "not measured": ("unmet", "○")}


class FlipView(NamedTuple):
    """One item: the question, and both answers. change: of the right options' log-prob, in words; may be empty."""

    heading: str
    prompt: str
    gold: str
    before: str
    after: str


class FlipGroup(NamedTuple):
    """The shown ones of one task and direction."""

    title: str
    items: list[FlipView]


class AuditView(NamedTuple):
    audit: Audit
    colour: str
    findings: list[tuple[str, str, str]]  # css class, sign, sentence
    flips: list[FlipGroup]


def audit_views(study: StudyFiles) -> list[AuditView]:
    marks = looks(study.plan, [])
    return [
        AuditView(
            audit=audit,
            colour=marks[audit.run].colour,
            findings=[(*OUTCOMES[finding.outcome], finding.sentence) for finding in audit.findings],
            flips=flip_groups(study, study.flips.get(audit.run, [])),
        )
        for audit in study.audits
    ]


class ChangedItems(NamedTuple):
    """Of a trained run's first seed."""

    label: str
    colour: str
    groups: list[FlipGroup]


def changed_items(study: StudyFiles) -> list[ChangedItems]:
    """Of every trained run whose answers differ from the base's somewhere."""
    marks = looks(study.plan, [])
    found = [
        ChangedItems(files.run.label, marks[files.run.name].colour, flip_groups(study, study.flips[files.run.name]))
        for files in study.runs
        if files.is_trained and study.flips.get(files.run.name)
    ]
    return [one for one in found if one.groups]


def flip_groups(study: StudyFiles, flips: Sequence[FlippedItem]) -> list[FlipGroup]:
    """Lost items before gained ones, task by task."""
    groups = []
    for task in tasks_of(study.comparison):
        for is_gained in (False, True):
            found = [flip for flip in flips if flip.task == task.name and flip.is_gained == is_gained]
            if found:
                chosen = most_changed(found)
                what = "right now, wrong before" if is_gained else "wrong now, right before"
                shown = "" if len(chosen) == len(found) else f", {len(chosen)} shown"
                groups.append(
                    FlipGroup(f"{task.label}: {len(found)} {what}{shown}", [flip_view(one) for one in chosen])
                )
    return groups


def most_changed(flips: Sequence[FlippedItem]) -> list[FlippedItem]:
    """Those whose right options moved most; where there are no options, some spread over all."""
    if all(flip.change_nats is not None for flip in flips):
        return sorted(flips, key=lambda flip: -abs(flip.change_nats or 0.0))[:MOST_FLIPS]
    return [flips[i] for i in spread(len(flips), MOST_FLIPS)]


def flip_view(flip: FlippedItem) -> FlipView:
    moved = "" if flip.change_nats is None else f" · log-prob of the right answer {flip.change_nats:+.2f} nats"
    return FlipView(
        heading=f"item {flip.item_id}{moved}",
        prompt=_end(flip.prompt),
        gold=flip.gold,
        before=_end(flip.before),
        after=_end(flip.after),
    )


def _end(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"… {text[-MOST_CHARACTERS:]}"


def finding_table(study: StudyFiles) -> Table:
    """One row per checkpoint and task."""
    marks, labels = looks(study.plan, []), {task.name: task.label for task in tasks_of(study.comparison)}
    columns = [
        Column(key="label", heading="Checkpoint"),
        Column(key="task", heading="Task"),
        Column(key="outcome", heading="Outcome"),
        Column(key="difference", heading="Tuned minus base", kind="estimate", is_signed=True, companion="p"),
        Column(key="p_holm", heading="p (Holm)", kind="number"),
        Column(key="num_gained", heading="Items better", kind="number", decimals=0),
        Column(key="num_lost", heading="Items worse", kind="number", decimals=0),
    ]
    rows = [
        [
            Cell(text=audit.label, colour=marks[audit.run].colour),
            Cell(text=labels.get(finding.task, finding.task)),
            Cell(text=finding.outcome),
            estimate_cell(finding.difference, companion=finding.p),
            *[Cell(value=value) for value in (finding.p_holm, finding.num_gained, finding.num_lost)],
        ]
        for audit in study.audits
        for finding in audit.findings
    ]
    notes = ["[Brackets]: 95% intervals over items. Holm's correction is over all tasks of all checkpoints."]
    return Table(
        name="audit", caption="Checkpoints against the base, item by item.", columns=columns, rows=rows, notes=notes
    )


def kl_table(study: StudyFiles) -> Table:
    """KL between each checkpoint and the base, by task and direction."""
    marks, tasks = looks(study.plan, []), tasks_of(study.comparison)
    columns = [
        Column(key="label", heading="Checkpoint"),
        Column(key="task", heading="On prompts of"),
        *[
            Column(key=key, heading=heading, kind="estimate", decimals=KL_DECIMALS)
            for key, heading in (("forward", "KL(base || tuned), nats"), ("reverse", "KL(tuned || base), nats"))
        ],
        Column(key="states", heading="States", kind="number", decimals=0),
        Column(key="note", heading="Note"),
    ]
    rows = []
    for row in study.comparison.rows:
        for task in tasks if row.kl is not None else ():
            assert row.kl is not None
            values = [side.get(task.name) for side in (row.kl.forward, row.kl.reverse)]
            rows.append(
                [
                    Cell(text=row.label, colour=marks[row.run].colour),
                    Cell(text=task.label),
                    *[Cell() if v is None else Cell(value=v.value, lo=v.lo, hi=v.hi) for v in values],
                    Cell(value=_num_states(values[0])),
                    Cell(text="; ".join(dict.fromkeys(v.note for v in values if v is not None and v.note))),
                ]
            )
    return Table(
        name="kl",
        caption="KL divergence between each checkpoint and the base, per token, exact over the vocabulary.",
        columns=columns,
        rows=rows,
        notes=[
            "Each direction at what its first policy writes on the task's test prompts; 95% intervals over prompts."
        ],
    )


def _num_states(value: KlValue | None) -> float | None:
    return None if value is None or value.value is None else value.num_states
