"""One table from a study's folder: scores, paired differences, forgetting, retention and drift per run. Torch-free.

Everything is computed from the record files; a run that is not there stays in the table with None, and is named in
`missing`. Does not know what the numbers mean for the paper (verdicts.py), or how they are shown.
Definitions (arXiv:2605.22731 eq. 12): forgetting F = base - post; retention ratio = post / base; means over the
retention tasks. Beside the ratio, (post - chance) / (base - chance): at chance a score has nothing left to retain.
"""

from __future__ import annotations

from pathlib import Path

from stateshape.core.files import write_json
from stateshape.core.records import Comparison, DriftValue, Estimate, PairedDifference, PlannedRun, RunComparison
from stateshape.study.paired import BASE, StudyScores, contrast, load_study, retention, score_estimate
from stateshape.study.verdicts import verdicts


def compare(study_dir: Path) -> Comparison:
    """The study's comparison. Reads only; raises BadInput where rows cannot be paired."""
    return compare_scores(load_study(study_dir))


def write_comparison(study_dir: Path) -> Comparison:
    """Computes the comparison and the verdicts, and writes comparison.json and verdicts.json into the study folder."""
    study = load_study(study_dir)
    comparison = compare_scores(study)
    write_json(study_dir / "comparison.json", comparison)
    write_json(study_dir / "verdicts.json", verdicts(study))
    return comparison


def compare_scores(study: StudyScores) -> Comparison:
    return Comparison(
        study=study.plan.study,
        model=study.plan.model,
        seeds=study.plan.seeds,
        target=study.plan.target,
        retention=study.plan.retention,
        rows=[_row(study, planned) for planned in study.plan.runs],
        missing=study.missing,
    )


def _row(study: StudyScores, planned: PlannedRun) -> RunComparison:
    run, tasks = planned.name, [task.name for task in study.tasks()]
    is_base = run == BASE
    drift, drift_per_seed = _drift(study, run)
    return RunComparison(
        run=run,
        label=planned.label,
        method=None if planned.method is None else planned.method.method,
        teacher=planned.teacher,
        scores={task: score_estimate(study, run, task) for task in tasks},
        versus_base={} if is_base else _versus(study, run, BASE, tasks),
        # a teacher from outside the study has no rows to pair with
        versus_teacher=_versus(study, run, planned.teacher, tasks) if planned.teacher in study.scores else {},
        mean_forgetting=None if is_base else _forgetting(study, run),
        mean_retention=None if is_base else retention(study, run, is_chance_corrected=False),
        mean_chance_corrected_retention=None if is_base else retention(study, run, is_chance_corrected=True),
        drift=drift,
        drift_per_seed=drift_per_seed,
    )


def _versus(study: StudyScores, run: str, other: str | None, tasks: list[str]) -> dict[str, PairedDifference]:
    if other is None:
        return {}
    return {task: contrast(study, {run: 1.0, other: -1.0}, [task]) for task in tasks}


def _forgetting(study: StudyScores, run: str) -> Estimate | None:
    estimate = contrast(study, {BASE: 1.0, run: -1.0}, [task.name for task in study.plan.retention]).difference
    return None if estimate.value is None else estimate


def _drift(study: StudyScores, run: str) -> tuple[dict[str, DriftValue], dict[str, dict[str, float]]]:
    """By distance: the mean over seeds, and the value of each seed."""
    records = study.drift.get(run, {})
    names = dict.fromkeys(name for record in records.values() for name in record.distances)
    means: dict[str, DriftValue] = {}
    per_seed: dict[str, dict[str, float]] = {}
    for name in names:
        held = {seed: record.distances[name] for seed, record in records.items() if name in record.distances}
        per_seed[name] = {str(seed): v.value for seed, v in held.items() if v.value is not None}
        means[name] = DriftValue(
            value=_mean([v.value for v in held.values()]), base_vs_base=_mean([v.base_vs_base for v in held.values()])
        )
    return means, per_seed


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
