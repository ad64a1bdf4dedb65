"""Items that one of base and run answers right and the other does not, with both answers: flips.jsonl. Grades nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stateshape.analysis.reading import GOLD_LOGP, secondary_scores
from stateshape.core import layout
from stateshape.core.files import read_jsonl, write_jsonl
from stateshape.core.records import EvalRow, FlippedItem
from stateshape.core.study_records import BASE
from stateshape.study.context import StudyContext, evaluated_items
from stateshape.tasks.task import Task


def write_flips(bench: StudyContext, folder: Path) -> None:
    """Every item on which the run and the base differ in being right, with both answers."""
    path = folder / layout.FLIPS
    if path.exists():
        return
    base = bench.fixed_folder(BASE)
    write_jsonl(path, [flip for task in bench.tasks for flip in flips_of(task, base, folder)])


def flips_of(task: Task, base: Path, folder: Path) -> list[FlippedItem]:
    prompts = {item.item_id: item.prompt for item in evaluated_items(task)}
    before, after = (rows_of(place, task) for place in (base, folder))
    return [
        flipped(task.name, prompts[item_id], before[item_id], row)
        for item_id, row in after.items()
        if before[item_id].is_correct != row.is_correct
    ]


def rows_of(folder: Path, task: Task) -> Mapping[str, EvalRow]:
    return {row.item_id: row for row in read_jsonl(layout.evaluation(folder, task.name), EvalRow)}


def flipped(task: str, prompt: str, before: EvalRow, after: EvalRow) -> FlippedItem:
    gold_before, gold_after = (secondary_scores(row).get(GOLD_LOGP) for row in (before, after))
    return FlippedItem(
        task=task,
        item_id=after.item_id,
        is_gained=after.is_correct,
        prompt=prompt,
        gold=after.gold,
        before=answer(before),
        after=answer(after),
        change_nats=None if gold_before is None or gold_after is None else gold_after - gold_before,
    )


def answer(row: EvalRow) -> str:
    """The whole text of an answer in free text, or the option chosen."""
    return row.completion if row.completion is not None else row.prediction or ""
