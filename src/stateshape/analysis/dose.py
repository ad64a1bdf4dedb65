"""Runs compared at equal distance from the base: their scores at a dose, from what was measured on their way. Torch-free.

A dose is a measure of distance from the base (docs/dose.md); the base itself is at dose 0. Between two measured points an
item's score is taken to change linearly with the dose. Does not know how doses are measured, nor which contrasts matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from stateshape.analysis.scores import DosePoint, SeedScores, StudyScores
from stateshape.core.files import BadInput
from stateshape.core.study_records import BASE
from stateshape.core.wording import shown

Way = list[tuple[float, dict[str, np.ndarray]]]  # dose and scores by task, from the base on


class Bracket(NamedTuple):
    """The neighbouring points of a run around a dose: scores [N] by task at both, and the share of the way between them."""

    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]
    share: float


def scores_at_dose(study: StudyScores, run: str, measure: str, dose: float) -> dict[str, SeedScores]:
    """By task and seed, the scores [N] per item at a dose, on the items that were measured along runs.

    First crossing: a run's points are followed in the order of its steps, from the base on, to the first whose dose is at least
    the one asked for; scores are interpolated linearly in the dose between it and the point before. What the run does later, as
    where it goes back and comes this far once more, is not looked at. Seeds that never come so far are absent. Points without
    the measure are passed over.

    Raises: BadInput where no point of the study has the measure, or the dose is below 0 or no number.
    """
    check_measure(study, measure)
    if not 0 <= dose < np.inf:
        raise BadInput(f"dose: got {dose}; expected a number from 0")
    found: dict[str, SeedScores] = {}
    for seed, points in study.along.get(run, {}).items():
        around = _bracket(_from_base(study, seed, points, measure), dose)
        if around is None:
            continue
        for task in around.before.keys() & around.after.keys():
            before_N, after_N = around.before[task], around.after[task]
            found.setdefault(task, {})[seed] = before_N + around.share * (after_N - before_N)
    return {task: found[task] for task in sorted(found)}


def interpolation_error(study: StudyScores, run: str, measure: str, dose: float, tasks: Sequence[str]) -> float:
    """How far a run's mean score over tasks, seeds and items may be from the straight line between its measured points.

    The absolute mean over seeds and tasks of 2 s (1 - s) (after - before), where before and after are the mean scores at the
    two points around the dose and s is the share of the way between them: 0 at a point, half of the change at half-way. That
    is the farthest that a score which only rises, or only falls, can be from the middle of the line. A score that does both
    between the two points is not covered.
    """
    errors = [
        2 * around.share * (1 - around.share) * float(around.after[task].mean() - around.before[task].mean())
        for seed, points in study.along.get(run, {}).items()
        if (around := _bracket(_from_base(study, seed, points, measure), dose)) is not None
        for task in tasks
        if task in around.before and task in around.after
    ]
    return abs(float(np.mean(errors))) if errors else 0.0


def common_dose(study: StudyScores, runs: Sequence[str], measure: str) -> float | None:
    """The largest dose that every seed of every named run reaches: the least, over runs and seeds, of the largest on its way.

    None where a run was not measured on its way, as the base was not. Raises BadInput as scores_at_dose does.
    """
    check_measure(study, measure)
    reached = [reach(study, run, measure) for run in runs]
    known = [dose for dose in reached if dose is not None]
    return min(known) if known and len(known) == len(reached) else None


def reach(study: StudyScores, run: str, measure: str) -> float | None:
    """The largest dose that every seed of the run reaches; None where some seed has no point with the measure."""
    largest = [
        max((point.doses[measure] for point in points if measure in point.doses), default=None)
        for points in study.along.get(run, {}).values()
    ]
    known = [dose for dose in largest if dose is not None]
    return min(known) if known and len(known) == len(largest) else None


def reaching(study: StudyScores, runs: Sequence[str], measure: str, dose: float) -> StudyScores:
    """The study with those seeds of the named runs alone that come as far as a dose in every one of them."""
    ways = {run: study.along.get(run, {}) for run in runs}
    far = [
        {seed for seed, points in seeds.items() if any(point.doses.get(measure, 0.0) >= dose for point in points)}
        for seeds in ways.values()
    ]
    kept = set.intersection(*far) if far else set()
    some = {run: {seed: points for seed, points in seeds.items() if seed in kept} for run, seeds in ways.items()}
    return replace(study, along=study.along | some)


def first_measured(study: StudyScores, run: str, measure: str) -> float | None:
    """The least dose at which every seed of the run was measured: the largest, over seeds, of its first point's.

    Below it, a score is interpolated from the base's, which has no noise of training: its interval is too narrow.
    None where some seed has no point with the measure.
    """
    first = [
        next((point.doses[measure] for point in points if measure in point.doses), None)
        for points in study.along.get(run, {}).values()
    ]
    known = [dose for dose in first if dose is not None]
    return max(known) if known and len(known) == len(first) else None


def matched(study: StudyScores, runs: Sequence[str], measure: str, dose: float) -> StudyScores:
    """The study as it would be, had the named runs stopped at a dose: every contrast can be made on it.

    All other scores are cut to the items that were measured along runs, so that everything is still paired by item. What is
    known of the named runs only at their end (secondary scores, drift, locality) is left out for them. Seeds that never come so
    far are absent. Raises BadInput as scores_at_dose does, and for a run that was not measured on its way.
    """
    if missing := [run for run in runs if not study.along.get(run)]:
        measured = ", ".join(run for run, seeds in study.along.items() if seeds) or "none in this study"
        raise BadInput(f"run: got {shown(missing[0])}; expected one that was measured on its way: {measured}")
    at_dose = {run: scores_at_dose(study, run, measure, dose) for run in runs}
    others = {
        run: {task: _some(study, task, seeds) for task, seeds in tasks.items()} for run, tasks in study.scores.items()
    }
    secondary = {
        run: {task: {name: _some(study, task, seeds) for name, seeds in names.items()} for task, names in tasks.items()}
        for run, tasks in study.secondary.items()
    }
    nothing: dict[str, dict] = {run: {} for run in runs}
    return replace(
        study,
        scores=others | at_dose,
        secondary=secondary | nothing,
        drift=study.drift | nothing,
        locality=study.locality | nothing,
        along=study.along | nothing,
        along_items={},
    )


def check_measure(study: StudyScores, measure: str) -> None:
    """Raises BadInput where no point of the study has the measure."""
    if measure not in (known := measures(study)):
        raise BadInput(
            f"measure: got {shown(measure)}; expected one that the runs' along.jsonl hold: {', '.join(known) or 'none'}"
        )


def measures(study: StudyScores) -> list[str]:
    """Names of the distances that some point has, in the files' order."""
    points = [point for seeds in study.along.values() for along in seeds.values() for point in along]
    return list(dict.fromkeys(name for point in points for name in point.doses))


def base_scores(study: StudyScores, seed: int) -> dict[str, np.ndarray]:
    """By task, the untrained base's scores [N] on the items that were measured along runs; evaluated once, for all seeds."""
    found = {}
    for task, seeds in study.scores.get(BASE, {}).items():
        held = _some(study, task, seeds)
        if seed in held or len(held) == 1:
            found[task] = held[seed] if seed in held else next(iter(held.values()))
    return found


def _from_base(study: StudyScores, seed: int, points: Sequence[DosePoint], measure: str) -> Way:
    """The way of one seed, from the base on."""
    measured = [(point.doses[measure], point.scores) for point in points if measure in point.doses]
    return [(0.0, base_scores(study, seed)), *measured]


def _some(study: StudyScores, task: str, seeds: SeedScores) -> SeedScores:
    items = study.along_items.get(task)
    return seeds if items is None else {seed: scores_N[items] for seed, scores_N in seeds.items()}


def _bracket(way: Way, dose: float) -> Bracket | None:
    """The first place where the dose is reached; None: it never is."""
    after = next((i for i, (there, _) in enumerate(way) if there >= dose), None)
    if after is None:
        return None
    high, scores = way[after]
    if after == 0:
        return Bracket(scores, scores, 1.0)
    low, before = way[after - 1]
    return Bracket(before, scores, (dose - low) / (high - low))  # low < dose <= high: the point before did not reach it
