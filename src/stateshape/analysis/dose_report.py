"""dose.json: score and retention of a study's runs against their distance from the base, and every run at the common dose.

Written where runs were measured on their way, and gone where they were not. Torch-free. Does not know how it is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from stateshape.analysis.dose import (
    base_scores,
    common_dose,
    interpolation_error,
    matched,
    measures,
    reach,
    scores_at_dose,
)
from stateshape.analysis.estimates import contrast, score_estimate, wider
from stateshape.analysis.reading import load_scores
from stateshape.analysis.scores import StudyScores
from stateshape.core import layout
from stateshape.core.dose_records import (
    Band,
    DoseArm,
    DoseMean,
    DoseMeasure,
    DosePlace,
    DoseReport,
    DoseRow,
    SeedCurve,
)
from stateshape.core.files import write_json
from stateshape.core.manifest import rewriting
from stateshape.core.study_records import BASE

GRID = 24  # doses at which the mean over seeds is taken: a line between two points has no corner that this would miss by much
MIN_SEEDS = 3  # fewer give no t interval worth drawing: the band is then their range


def write_dose_report(study_dir: Path) -> DoseReport | None:
    """Writes dose.json into the study folder; where no run was measured on its way, there is none."""
    path = study_dir / layout.DOSES
    has_along = any((folder / layout.ALONG).exists() for folder in layout.run_folders(study_dir))
    report = dose_report(load_scores(study_dir)) if has_along else None
    with rewriting(study_dir, [layout.DOSES]):
        if report is None:
            path.unlink(missing_ok=True)  # of an earlier reading
        else:
            write_json(path, report)
    return report


def dose_report(study: StudyScores) -> DoseReport | None:
    """None where no run was measured on its way, or the base was not evaluated."""
    target, retention = study.plan.target.name, [task.name for task in study.plan.retention]
    base = _means(next(iter(_bases(study)), {}), target, retention)
    names = measures(study)
    if base is None or not names:
        return None
    runs = [run for run, seeds in study.along.items() if any(seeds.values())]
    num_seeds = min(len(study.along[run]) for run in runs)
    scores = base_scores(study, next(iter(study.scores[BASE][target])))
    return DoseReport(
        target=study.plan.target,
        retention=study.plan.retention,
        base_target=base.target,
        base_retained=base.retained,
        num_items={task: len(scores_N) for task, scores_N in scores.items()},
        band=_band(num_seeds),
        curves={run: _curves(study, run, target, retention) for run in runs},
        measures=[_measure(study, runs, name, target, retention) for name in names],
    )


class _Means(NamedTuple):
    """Means over items."""

    target: float
    retained: float | None


def _means(scores: dict[str, np.ndarray], target: str, retention: Sequence[str]) -> _Means | None:
    """None where the target, or a retention task, has no rows."""
    if target not in scores or any(task not in scores for task in retention):
        return None
    retained = float(np.mean([scores[task].mean() for task in retention])) if retention else None
    return _Means(float(scores[target].mean()), retained)


def _bases(study: StudyScores) -> list[dict[str, np.ndarray]]:
    seeds = study.scores.get(BASE, {}).get(study.plan.target.name, {})
    return [base_scores(study, seed) for seed in seeds]


def _curves(study: StudyScores, run: str, target: str, retention: Sequence[str]) -> list[SeedCurve]:
    found = []
    for seed, points in study.along[run].items():
        places = [
            DosePlace(step=point.step, doses=point.doses, target=means.target, retained=means.retained)
            for point in points
            if (means := _means(point.scores, target, retention)) is not None
        ]
        found.append(SeedCurve(seed=seed, places=places))
    return found


def _measure(
    study: StudyScores, runs: Sequence[str], measure: str, target: str, retention: Sequence[str]
) -> DoseMeasure:
    reached = {run: dose for run in runs if (dose := reach(study, run, measure)) is not None}
    common = common_dose(study, runs, measure)
    limiting = min(reached, key=lambda run: reached[run], default=None)
    return DoseMeasure(
        measure=measure,
        common=common,
        arms=[
            DoseArm(
                run=run,
                label=study.label(run),
                reach=dose,
                means=_mean_curve(study, run, measure, dose, target, retention),
            )
            for run, dose in reached.items()
        ],
        rows=[] if common is None else _rows(study, reached, measure, common, target, retention),
        limited_by=None if limiting is None else study.label(limiting),
    )


def _rows(
    study: StudyScores,
    reached: dict[str, float],
    measure: str,
    common: float,
    target: str,
    retention: Sequence[str],
) -> list[DoseRow]:
    """The base, then every run at the common dose; intervals include how far interpolation may be off."""
    at_dose = matched(study, list(reached), measure, common)
    rows = []
    for run in (BASE, *reached):
        weights = {run: 1.0, BASE: -1.0}
        off_by = partial(interpolation_error, study, run, measure, common)
        retained = None
        if retention and run != BASE:
            retained = wider(contrast(at_dose, weights, retention).difference, off_by(retention))
        rows.append(
            DoseRow(
                run=run,
                label=study.label(run),
                scores={
                    task.name: wider(score_estimate(at_dose, run, task.name), off_by([task.name]))
                    for task in study.tasks()
                },
                gain=None if run == BASE else wider(contrast(at_dose, weights, [target]).difference, off_by([target])),
                retained=retained,
                reach=0.0 if run == BASE else reached[run],
                first=0.0 if run == BASE else _first(study, run, measure),
            )
        )
    return rows


def _first(study: StudyScores, run: str, measure: str) -> float:
    """The least dose, over seeds, of a seed's first point."""
    ways = [[p.doses[measure] for p in points if measure in p.doses] for points in study.along[run].values()]
    return min(way[0] for way in ways)


def _mean_curve(
    study: StudyScores, run: str, measure: str, end: float, target: str, retention: Sequence[str]
) -> list[DoseMean]:
    """From dose 0 to `end`, closer together near the base, where a run changes most per unit of dose."""
    found = []
    for dose in sorted({end * (i / GRID) ** 2 for i in range(GRID + 1)}):
        by_task = scores_at_dose(study, run, measure, dose)
        seeds = [
            means
            for seed in study.along[run]
            if (means := _means({t: held[seed] for t, held in by_task.items() if seed in held}, target, retention))
        ]
        if not seeds:
            continue
        (at, lo, hi), kept = _banded([m.target for m in seeds]), [m.retained for m in seeds if m.retained is not None]
        retained, kept_lo, kept_hi = _banded(kept) if kept else (None, None, None)
        found.append(
            DoseMean(
                dose=dose,
                target=at,
                target_lo=lo,
                target_hi=hi,
                retained=retained,
                retained_lo=kept_lo,
                retained_hi=kept_hi,
            )
        )
    return found


def _banded(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean and band over seeds: the 95% t interval, the range of two, nothing around one."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, None, None
    if len(values) < MIN_SEEDS:
        return mean, min(values), max(values)
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def _band(num_seeds: int) -> Band:
    if num_seeds == 1:
        return "none: one seed"
    return "range over seeds" if num_seeds < MIN_SEEDS else "t interval over seeds"
