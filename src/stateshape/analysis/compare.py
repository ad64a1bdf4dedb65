"""One table from a study's folder: scores, paired differences, forgetting, retention and drift per run. Torch-free.

Everything is computed from the record files; a run that is not there stays in the table with None, and is named in
`missing`. Does not know what the numbers mean for the paper (verdicts.py), or how they are shown.
Definitions (arXiv:2605.22731 eq. 12): forgetting F = base - post; retention ratio = post / base; means over the
retention tasks. Beside the ratio, (post - chance) / (base - chance): at chance a score has nothing left to retain.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from stateshape.analysis.audit import audits
from stateshape.analysis.estimates import (
    answer_estimates,
    contrast,
    retention,
    score_estimate,
    secondary_differences,
)
from stateshape.analysis.findings import findings_of
from stateshape.analysis.looks import counts_as_look, finished_seeds, next_level
from stateshape.analysis.planned_claims import withdrawn_words
from stateshape.analysis.power import ALPHA
from stateshape.analysis.predictors import predictor_report, predictor_rows, too_few
from stateshape.analysis.reading import load_scores
from stateshape.analysis.scores import StudyScores
from stateshape.analysis.subjects import by_subject, subject_sizes
from stateshape.analysis.verdicts import verdicts
from stateshape.core import layout
from stateshape.core.files import read_json, write_json
from stateshape.core.manifest import rewriting
from stateshape.core.records import DriftRecord, DriftValue
from stateshape.core.sealed import COMPARED
from stateshape.core.study_records import (
    BASE,
    Comparison,
    Estimate,
    Look,
    PairedDifference,
    PlannedRun,
    RunComparison,
    RunContrast,
)


def compare(study_dir: Path) -> Comparison:
    """The study's comparison. Reads only; raises BadInput where rows cannot be paired."""
    return replace(compare_scores(load_scores(study_dir)), looks=read_looks(study_dir))


def write_comparison(study_dir: Path) -> Comparison:
    """Writes comparison.json, verdicts.json and findings.json into the study folder, audit.json if it has checkpoints, and
    predictors.json if enough runs were trained.

    Reading verdicts on more seeds than before is a look, which looks.json keeps.
    """
    study = load_scores(study_dir)
    looks = [*read_looks(study_dir), *new_look(study, read_looks(study_dir))]
    comparison = replace(compare_scores(study), looks=looks)
    level = looks[-1].level if looks else ALPHA
    with rewriting(study_dir, (*COMPARED, layout.LOOKS)):
        write_json(study_dir / layout.LOOKS, looks)
        write_json(study_dir / layout.COMPARISON, comparison)
        write_json(study_dir / layout.VERDICTS, verdicts(study, level=level))
        write_json(study_dir / layout.FINDINGS, findings_of(study, level=level))
        if any(planned.checkpoint is not None for planned in study.plan.runs):
            write_json(study_dir / layout.AUDIT, audits(study, comparison))
        rows, path = predictor_rows(study), study_dir / layout.PREDICTORS
        if too_few(rows) is None:
            write_json(path, predictor_report(study.plan.study, rows))
        else:
            path.unlink(missing_ok=True)  # of an earlier reading, with more runs
    return comparison


def read_looks(study_dir: Path) -> list[Look]:
    """Empty where the verdicts were never computed."""
    path = study_dir / layout.LOOKS
    return read_json(path, list[Look]) if os.path.exists(path) else []


def new_look(study: StudyScores, looks: list[Look]) -> list[Look]:
    """The look that computing the verdicts now is, unless it has as many seeds as the last one, or too few to decide."""
    num_seeds = finished_seeds(study)
    if not counts_as_look(num_seeds) or (looks and looks[-1].num_seeds == num_seeds):
        return []
    planned = max(num_seeds, len(study.plan.seeds))
    level = next_level(num_seeds, planned, looks)
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return [Look(date=date, num_seeds=num_seeds, planned_seeds=planned, level=level)]


def compare_scores(study: StudyScores) -> Comparison:
    return Comparison(
        study=study.plan.study,
        model=study.plan.model,
        seeds=study.plan.seeds,
        target=study.plan.target,
        retention=study.plan.retention,
        rows=[_row(study, planned) for planned in study.plan.runs],
        missing=study.missing,
        warnings=[*study.warnings, *withdrawn_words(study.plan.claims)],
        subjects=subject_sizes(study),
        contrasts=[_contrast(study, first, second) for first, second in study.plan.contrasts],
    )


def _contrast(study: StudyScores, run: str, versus: str) -> RunContrast:
    retained = contrast(study, {run: 1.0, versus: -1.0}, [task.name for task in study.plan.retention]).difference
    return RunContrast(
        run=run,
        versus=versus,
        differences=_versus(study, run, versus, [task.name for task in study.tasks()]),
        mean_retained=None if retained.value is None else retained,
    )


def _row(study: StudyScores, planned: PlannedRun) -> RunComparison:
    run, tasks = planned.name, [task.name for task in study.tasks()]
    is_base = run == BASE
    drift, drift_per_seed = _drift(study.drift, run)
    return RunComparison(
        run=run,
        label=planned.label,
        method=None if planned.method is None else planned.method.method,
        teacher=planned.teacher,
        scores={task: score_estimate(study, run, task) for task in tasks},
        versus_base={} if is_base else _versus(study, run, BASE, tasks),
        # a teacher from outside the study has no rows to pair with
        versus_teacher=_versus(study, run, planned.teacher, tasks) if planned.teacher in study.scores else {},
        start=planned.start,
        versus_start=_versus(study, run, planned.start, tasks) if planned.start in study.scores else {},
        mean_forgetting=None if is_base else _forgetting(study, run, BASE),
        mean_forgetting_since_start=_forgetting(study, run, planned.start) if planned.start in study.scores else None,
        mean_retention=None if is_base else retention(study, run, is_chance_corrected=False),
        mean_chance_corrected_retention=None if is_base else retention(study, run, is_chance_corrected=True),
        drift=drift,
        drift_per_seed=drift_per_seed,
        drift_since_start=_drift(study.drift_since_start, run)[0],
        kl=study.kl.get(run),
        by_subject=by_subject(study, run),
        checkpoint=planned.checkpoint,
        extractions=answer_estimates(study, run, study.plan.target.name),
    )


def _versus(study: StudyScores, run: str, other: str | None, tasks: list[str]) -> dict[str, PairedDifference]:
    if other is None:
        return {}
    return {
        task: replace(
            contrast(study, {run: 1.0, other: -1.0}, [task]), secondary=secondary_differences(study, run, other, task)
        )
        for task in tasks
    }


def _forgetting(study: StudyScores, run: str, other: str) -> Estimate | None:
    """Mean over the retention tasks of the other's score minus the run's."""
    estimate = contrast(study, {other: 1.0, run: -1.0}, [task.name for task in study.plan.retention]).difference
    return None if estimate.value is None else estimate


def _drift(
    drift: Mapping[str, Mapping[int, DriftRecord]], run: str
) -> tuple[dict[str, DriftValue], dict[str, dict[str, float]]]:
    """By distance: the mean over seeds, and the value of each seed."""
    records = drift.get(run, {})
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
