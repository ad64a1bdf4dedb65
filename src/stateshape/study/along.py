"""Measurements of a trained run on its way: at each kept step its tasks' rows and its distance from the base.

along/step<k>/<task>.jsonl, then a line of along.jsonl: a point is done when its line is there. The last point is the run's own
evaluation, of which only the distance is measured here. Where points are chosen by KL, the distance of every candidate comes
first (along_candidates.jsonl): roughly, and of those around a distance that was asked for once more, on all states. Does not
know how doses are compared.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from stateshape.core import layout
from stateshape.core.files import BadInput, read_jsonl, write_jsonl
from stateshape.core.records import DoseRecord
from stateshape.evals.evaluate import evaluate
from stateshape.locality.doses import FORWARD_KL, DoseStates, doses, some_rollouts
from stateshape.policy.policy import Policy
from stateshape.study.context import StudyContext
from stateshape.study.measuring import MeasurementStep, sampled_rows
from stateshape.study.study_file import AlongChoice, SampleChoice
from stateshape.tasks.harness import HarnessTask
from stateshape.tasks.mmlu import stratified, stratified_ids
from stateshape.tasks.task import GenerationTask, Task

PHASE = "along"
AT_STEP = "along"  # the adapter's name while it is measured
CANDIDATE_ROLLOUTS = 8  # one in so many of the base's rollouts says roughly how far a candidate is


class Way(NamedTuple):
    """A run that is measured on its way."""

    bench: StudyContext
    folder: Path
    run: str
    seed: int
    choice: AlongChoice


def along_run(
    bench: StudyContext, policy: Policy, folder: Path, run: str, seed: int, num_steps: int, choice: AlongChoice
) -> list[MeasurementStep]:
    """The parts of one run in order. policy: as it is after the last step."""
    at = Way(bench, folder, run, seed, choice)
    *earlier, last = choice.steps(num_steps)
    if choice.spacing == "kl":
        work: list[Callable[[], None]] = [
            *(partial(candidate_at, bench, folder, step) for step in earlier),
            partial(candidate_at, bench, folder, last, policy),
            *(partial(enclose, at, last, policy, distance) for distance in choice.around),
            partial(drop_others, at, earlier),
            *(partial(point_by_kl, at, number) for number in range(choice.most)),
        ]
    else:
        work = [one for step in earlier for one in point_at(at, step)]
    work.append(partial(write_dose, bench, folder, last, policy))
    return [(PHASE, one) for one in work]


def point_at(way: Way, step: int) -> list[Callable[[], None]]:
    """The parts of a point before the last step: each task's rows, the distance, and the adapter's end."""
    bench, choice = way.bench, way.choice
    parts: list[Callable[[], None]] = [
        partial(rows_at, way, step, some_items(task, choice.limit)) for task in bench.tasks
    ]
    for task in bench.tasks if choice.samples else ():
        samples = bench.choice_of(task).samples
        if samples is not None and isinstance(task, GenerationTask):
            fewer = replace(task, test=task.test[: choice.limit])
            parts.append(partial(samples_at, way, step, fewer, samples))
    parts.append(partial(dose_at, bench, way.folder, step))
    if not choice.keep:
        parts.append(partial(shutil.rmtree, layout.kept_checkpoint(way.folder, step), ignore_errors=True))
    return parts


def chosen_by_kl(candidates: Sequence[DoseRecord], points: int, around: Sequence[float] = ()) -> list[int]:
    """Steps before the last candidate, in order: the first to reach each of equally spaced roots of the KL, at most points - 1,
    and those that enclose each of the KLs `around`.

    The largest of those roots is that of the farthest candidate. Candidates without a KL are passed over.
    """
    roots = [(record.step, math.sqrt(record.doses[FORWARD_KL])) for record in candidates if FORWARD_KL in record.doses]
    farthest = max((root for _, root in roots), default=0.0)
    if farthest == 0:
        return []
    # times a share, so that the last level is the farthest to the bit
    levels = [farthest * (number / points) for number in range(1, points + 1)]
    last = candidates[-1].step
    firsts = {next(step for step, root in roots if root >= level) for level in levels}
    enclosing = {record.step for distance in around for record in enclosed(candidates, distance)}
    return sorted({*sorted(firsts - {last})[: points - 1], *(enclosing - {last})})


def enclosed(candidates: Sequence[DoseRecord], distance: float) -> list[DoseRecord]:
    """The first candidate that is as far as the distance and the one before it, the latter first; none where none is."""
    known = [record for record in candidates if FORWARD_KL in record.doses]
    reached = next((i for i, record in enumerate(known) if record.doses[FORWARD_KL] >= distance), None)
    return [] if reached is None else known[max(reached - 1, 0) : reached + 1]


def read_candidates(folder: Path) -> list[DoseRecord]:
    path = folder / layout.ALONG_CANDIDATES
    return read_jsonl(path, DoseRecord) if path.exists() else []


def candidate_at(bench: StudyContext, folder: Path, step: int, policy: Policy | None = None) -> None:
    """Adds the candidate's line, unless it is there: a rough distance. policy: where it is loaded already."""
    if all(record.step != step for record in read_candidates(folder)):
        rough = some_rollouts(bench.dose_states, every=CANDIDATE_ROLLOUTS)
        add_candidate(bench, folder, step, policy, rough)


def enclose(way: Way, last: int, policy: Policy, distance: float) -> None:
    """Measures on all states until the two candidates that enclose the distance are known. policy: of the last step."""
    states = way.bench.dose_states
    while rough := [
        record.step
        for record in enclosed(read_candidates(way.folder), distance)
        if record.num_states < len(states.states)
    ]:
        add_candidate(way.bench, way.folder, rough[0], policy if rough[0] == last else None, states)


def add_candidate(bench: StudyContext, folder: Path, step: int, policy: Policy | None, reference: DoseStates) -> None:
    """In the order of steps, in the place of what was known of this step."""
    found = dose_record(reference, step, policy or policy_at(bench, folder, step))
    others = [record for record in read_candidates(folder) if record.step != step]
    write_jsonl(folder / layout.ALONG_CANDIDATES, in_order([*others, found]))


def in_order(records: Sequence[DoseRecord]) -> list[DoseRecord]:
    return sorted(records, key=lambda record: record.step)


def chosen_points(way: Way) -> list[int]:
    return chosen_by_kl(read_candidates(way.folder), way.choice.points, way.choice.around)


def drop_others(way: Way, candidates: Sequence[int]) -> None:
    """Deletes the adapters that no point needs."""
    for step in set(candidates) - set(chosen_points(way)):
        shutil.rmtree(layout.kept_checkpoint(way.folder, step), ignore_errors=True)


def point_by_kl(way: Way, number: int) -> None:
    """The point of a number among those before the last step; nothing where there are fewer."""
    chosen = chosen_points(way)
    for part in point_at(way, chosen[number]) if number < len(chosen) else ():
        part()


def some_items(task: Task, limit: int | None) -> Task:
    """The task with fewer items, those that a limit of its own would give: the first, of an exam some of each subject."""
    if isinstance(task, HarnessTask) and len(task.tasks) > 1:
        kept = stratified_ids([(item.item_id, item.tag or "") for item in task.test], limit)
        return replace(task, test=tuple(item for item in task.test if item.item_id in kept))
    if isinstance(task, GenerationTask):
        return replace(task, test=task.test[:limit])
    return replace(task, items=stratified(task.items, limit) if task.is_lettered else task.items[:limit])


def rows_at(way: Way, step: int, task: Task) -> None:
    path = layout.along_rows(way.folder, step, task.name)
    if path.exists():
        return
    policy = policy_at(way.bench, way.folder, step)
    told = f"evaluate {way.run} at step {step} on {task.name}"
    tick = way.bench.reporter.track(told, "items", policy.weights.meter)
    write_jsonl(path, evaluate(policy, task, progress=tick))


def samples_at(way: Way, step: int, task: GenerationTask, samples: SampleChoice) -> None:
    """With the random numbers of the run's end, so that a score does not change by chance alone."""
    path = layout.along_rows(way.folder, step, task.name, layout.SAMPLED)
    if path.exists():
        return
    policy = policy_at(way.bench, way.folder, step)
    told = f"sample {way.run} at step {step} on {task.name}"
    write_jsonl(path, sampled_rows(way.bench, policy, task, samples, seed=way.seed, told=told))


def dose_at(bench: StudyContext, folder: Path, step: int) -> None:
    if step not in measured_steps(folder):
        write_dose(bench, folder, step, policy_at(bench, folder, step))


def write_dose(bench: StudyContext, folder: Path, step: int, policy: Policy) -> None:
    """Adds the line of a step, unless it is there."""
    if step in measured_steps(folder):
        return
    write_jsonl(folder / layout.ALONG, [*read_along(folder), dose_record(bench.dose_states, step, policy)])


def dose_record(reference: DoseStates, step: int, policy: Policy) -> DoseRecord:
    return DoseRecord(step=step, doses=doses(policy, reference), num_states=len(reference.states))


def measured_steps(folder: Path) -> set[int]:
    return {record.step for record in read_along(folder)}


def read_along(folder: Path) -> list[DoseRecord]:
    path = folder / layout.ALONG
    return read_jsonl(path, DoseRecord) if path.exists() else []


def policy_at(bench: StudyContext, folder: Path, step: int) -> Policy:
    """The run as it was after `step` completed steps, until the next call. Raises BadInput where its adapter is gone.

    Steps of one run take turns in one adapter, which is much faster than to make another each time; see let_go.
    """
    place = layout.kept_checkpoint(folder, step)
    if not place.is_dir():
        raise BadInput(
            f"{place}: is gone before it was measured; expected the adapter after step {step}; put it back, or delete {folder} "
            "to run it again"
        )
    if bench.weights.has_adapter(AT_STEP):
        bench.weights.fill_adapter(AT_STEP, place)
    else:
        bench.weights.load_adapter(AT_STEP, place)
    return Policy(bench.weights, AT_STEP)


def let_go(bench: StudyContext) -> None:
    """Removes what policy_at has loaded: the next run's adapters may have another shape."""
    if bench.weights.has_adapter(AT_STEP):
        bench.weights.remove_adapter(AT_STEP)
