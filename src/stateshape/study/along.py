"""Measurements of a trained run on its way: at each kept step its tasks' rows and its distance from the base.

along/step<k>/<task>.jsonl, then a line of along.jsonl: a point is done when its line is there. The last point is the run's own
evaluation, of which only the distance is measured here. Does not know how steps are chosen or how doses are compared.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from stateshape.core import layout
from stateshape.core.files import BadInput, read_jsonl, write_jsonl
from stateshape.core.records import DoseRecord
from stateshape.evals.evaluate import evaluate
from stateshape.locality.doses import doses
from stateshape.policy.policy import Policy
from stateshape.study.context import StudyContext
from stateshape.study.measuring import MeasurementStep
from stateshape.study.plan import AlongChoice
from stateshape.tasks.harness import HarnessTask
from stateshape.tasks.mmlu import stratified, stratified_ids
from stateshape.tasks.task import GenerationTask, Task
from stateshape.train.kept_adapters import kept_steps

PHASE = "along"
AT_STEP = "along"  # the adapter's name while it is measured


def along_run(
    bench: StudyContext, policy: Policy, folder: Path, run: str, num_steps: int, choice: AlongChoice
) -> list[MeasurementStep]:
    """The parts of one run in order. policy: as it is after the last step."""
    *earlier, last = kept_steps(num_steps, choice.points, choice.spacing)
    parts: list[MeasurementStep] = []
    for step in earlier:
        parts += [
            (PHASE, partial(rows_at, bench, folder, run, step, some_items(task, choice.limit))) for task in bench.tasks
        ]
        parts.append((PHASE, partial(dose_at, bench, folder, step)))
        if not choice.keep:
            parts.append((PHASE, partial(shutil.rmtree, layout.kept_checkpoint(folder, step), ignore_errors=True)))
    return [*parts, (PHASE, partial(write_dose, bench, folder, last, policy))]


def some_items(task: Task, limit: int | None) -> Task:
    """The task with fewer items, those that a limit of its own would give: the first, of an exam some of each subject."""
    if isinstance(task, HarnessTask) and len(task.tasks) > 1:
        kept = stratified_ids([(item.item_id, item.tag or "") for item in task.test], limit)
        return replace(task, test=tuple(item for item in task.test if item.item_id in kept))
    if isinstance(task, GenerationTask):
        return replace(task, test=task.test[:limit])
    return replace(task, items=stratified(task.items, limit) if task.is_lettered else task.items[:limit])


def rows_at(bench: StudyContext, folder: Path, run: str, step: int, task: Task) -> None:
    path = layout.along_rows(folder, step, task.name)
    if path.exists():
        return
    with policy_at(bench, folder, step) as policy:
        tick = bench.reporter.track(f"evaluate {run} at step {step} on {task.name}", "items", policy.weights.meter)
        write_jsonl(path, evaluate(policy, task, progress=tick))


def dose_at(bench: StudyContext, folder: Path, step: int) -> None:
    if step not in measured_steps(folder):
        with policy_at(bench, folder, step) as policy:
            write_dose(bench, folder, step, policy)


def write_dose(bench: StudyContext, folder: Path, step: int, policy: Policy) -> None:
    """Adds the line of a step, unless it is there."""
    if step in measured_steps(folder):
        return
    reference = bench.dose_states
    record = DoseRecord(step=step, doses=doses(policy, reference), num_states=len(reference.states))
    write_jsonl(folder / layout.ALONG, [*read_along(folder), record])


def measured_steps(folder: Path) -> set[int]:
    return {record.step for record in read_along(folder)}


def read_along(folder: Path) -> list[DoseRecord]:
    path = folder / layout.ALONG
    return read_jsonl(path, DoseRecord) if path.exists() else []


@contextlib.contextmanager
def policy_at(bench: StudyContext, folder: Path, step: int) -> Iterator[Policy]:
    """The run as it was after `step` completed steps. Raises BadInput where its adapter is gone."""
    place = layout.kept_checkpoint(folder, step)
    if not place.is_dir():
        raise BadInput(
            f"{place}: is gone before it was measured; expected the adapter after step {step}; put it back, or delete {folder} "
            "to run it again"
        )
    bench.weights.load_adapter(AT_STEP, place)
    try:
        yield Policy(bench.weights, AT_STEP)
    finally:
        bench.weights.remove_adapter(AT_STEP)
