"""A study folder as the report sees it: every record file that is there, and in words what is not.

A run that has not started, a file that is absent and a file that cannot be read are all normal in a study that is still
going: they are listed, never filled in. Only plan.json must exist. Does not know how anything is shown.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from stateshape.core import layout
from stateshape.core.dose_records import DoseReport
from stateshape.core.files import BadInput, iter_jsonl, parse, read_json, read_jsonl
from stateshape.core.manifest import has_manifest, read_manifest
from stateshape.core.records import (
    DriftRecord,
    EvalStep,
    FlippedItem,
    LocalityRecord,
    RunRecord,
    StateSample,
    StepRecord,
    SupervisionMap,
)
from stateshape.core.study_records import (
    Audit,
    Comparison,
    Findings,
    PlannedRun,
    PlanRecord,
    PredictorReport,
    RunComparison,
    StateMap,
    Verdict,
)

T = TypeVar("T")
MAX_SAMPLES = 3  # of each kind and run: enough to see what the states look like, little enough to keep one page


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedFiles:
    seed: int
    record: RunRecord | None
    steps: list[StepRecord]
    states: list[StateSample]  # a few, spread evenly over training
    rollouts: list[StateSample]  # a few
    drift: DriftRecord | None
    locality: list[LocalityRecord]
    supervision: SupervisionMap | None
    evals: list[EvalStep] = field(default_factory=list)  # while it trained


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFiles:
    run: PlannedRun
    seeds: list[SeedFiles]

    @property
    def is_trained(self) -> bool:
        return self.run.method is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyFiles:
    plan: PlanRecord
    comparison: Comparison
    verdicts: list[Verdict]
    runs: list[RunFiles]
    state_map: StateMap | None
    predictors: PredictorReport | None
    dose: DoseReport | None  # None: no run was measured on its way
    missing: list[str]  # in words
    accepted: list[str] = field(default_factory=list)  # changes of finished files, in words
    unsealed: list[str] = field(default_factory=list)  # finished runs in which a change can't be noticed
    audits: list[Audit] = field(default_factory=list)  # of checkpoints
    flips: dict[str, list[FlippedItem]] = field(default_factory=dict)  # by run, of its first seed that has any
    findings: Findings | None = None  # of trained runs

    @property
    def num_trained(self) -> int:
        return sum(files.is_trained for files in self.runs)

    def without(self, field: str) -> list[str]:
        """Labels of the trained runs in which no seed has `field` of SeedFiles."""
        trained = [files for files in self.runs if files.is_trained]
        return [files.run.label for files in trained if not any(getattr(seed, field) for seed in files.seeds)]


def read_study_folder(study_dir: Path) -> StudyFiles:
    """Raises BadInput only where plan.json is missing or unreadable."""
    plan = read_json(study_dir / layout.PLAN, PlanRecord)
    problems: list[str] = []
    comparison = _optional(study_dir, layout.COMPARISON, Comparison, problems, is_expected=True)
    verdicts = _verdicts(study_dir, problems)
    runs = [_run_files(study_dir, run, plan.seeds, problems) for run in plan.runs]
    state_map = _optional(study_dir, layout.STATE_MAP, StateMap, problems)
    predictors = _optional(study_dir, layout.PREDICTORS, PredictorReport, problems)
    dose = _optional(study_dir, layout.DOSES, DoseReport, problems)
    if comparison is None:
        comparison = empty_comparison(plan)
        absent = [problem for run in runs for problem in _absent(run)]
    else:
        compared = {row.run for row in comparison.rows}
        absent = [f"{run.label}: not in comparison.json" for run in plan.runs if run.name not in compared]
    accepted = _accepted(study_dir, plan, problems)
    audits = _optional(study_dir, layout.AUDIT, list[Audit], problems) or []
    flips = {run.name: _flips(study_dir, run, plan.seeds, problems) for run in plan.runs}
    findings = _optional(study_dir, layout.FINDINGS, Findings, problems)
    missing = list(dict.fromkeys([*comparison.missing, *absent, *problems]))
    return StudyFiles(
        plan=plan,
        comparison=comparison,
        verdicts=verdicts,
        runs=runs,
        state_map=state_map,
        predictors=predictors,
        dose=dose,
        missing=missing,
        accepted=accepted,
        audits=audits,
        flips=flips,
        findings=findings,
        unsealed=[
            f"{files.run.label}, seed {seed.seed}"
            for files in runs
            for seed in files.seeds
            if seed.record is not None
            and seed.record.is_complete
            and not has_manifest(_place(study_dir, files.run, seed.seed))
        ],
    )


def _place(study_dir: Path, run: PlannedRun, seed: int) -> Path:
    return layout.run_folder(study_dir, run.name, seed)


def _accepted(study_dir: Path, plan: PlanRecord, problems: list[str]) -> list[str]:
    """What --accept-changes let pass, in the study's own files and in those of its runs."""
    lines = []
    for folder in (study_dir, *(_place(study_dir, run, seed) for run in plan.runs for seed in plan.seeds)):
        try:
            accepted = read_manifest(folder).accepted
        except BadInput as error:
            problems.append(_problem(study_dir, error))
            continue
        for change in accepted:
            path = (folder / change.file).relative_to(study_dir).as_posix()
            how = "gone" if change.now is None else "changed"
            lines.append(f"{path}: {how} after it was finished, accepted on {change.date} by: {change.command}")
    return lines


def _absent(files: RunFiles) -> list[str]:
    if not files.is_trained and any(seed.record for seed in files.seeds):
        return []  # one folder is enough for the untrained base: training seeds do not touch it
    return [f"{files.run.label}, seed {seed.seed}: no run.json" for seed in files.seeds if seed.record is None]


def empty_comparison(plan: PlanRecord) -> Comparison:
    """A comparison in which every number is missing, for a study that has not been compared yet."""
    rows = [empty_row(run) for run in plan.runs]
    return Comparison(
        study=plan.study,
        model=plan.model,
        seeds=plan.seeds,
        target=plan.target,
        retention=plan.retention,
        rows=rows,
        missing=[],
    )


def empty_row(run: PlannedRun) -> RunComparison:
    return RunComparison(
        run=run.name,
        label=run.label,
        method=run.method.method if run.method else None,
        teacher=run.teacher,
        scores={},
        versus_base={},
        versus_teacher={},
        mean_forgetting=None,
        mean_retention=None,
        mean_chance_corrected_retention=None,
        drift={},
        drift_per_seed={},
    )


def ordered_rows(plan: PlanRecord, comparison: Comparison) -> list[RunComparison]:
    """One row per planned run in the plan's order, missing ones empty; then rows the plan does not know (any more)."""
    row_of = {row.run: row for row in comparison.rows}
    planned = {run.name for run in plan.runs}
    return [row_of.get(run.name) or empty_row(run) for run in plan.runs] + [
        row for row in comparison.rows if row.run not in planned
    ]


def _optional(study_dir: Path, name: str, kind: type[T], problems: list[str], *, is_expected: bool = False) -> T | None:
    path = study_dir / name
    if not os.path.exists(path):
        if is_expected:
            problems.append(f"{name}: no such file")
        return None
    try:
        return read_json(path, kind)
    except BadInput as error:
        problems.append(_problem(study_dir, error))
        return None


def _verdicts(study_dir: Path, problems: list[str]) -> list[Verdict]:
    return _optional(study_dir, layout.VERDICTS, list[Verdict], problems, is_expected=True) or []


def _run_files(study_dir: Path, run: PlannedRun, seeds: list[int], problems: list[str]) -> RunFiles:
    read = []
    for seed in seeds:
        folder = f"runs/{run.name}/seed{seed}"
        read.append(
            SeedFiles(
                seed=seed,
                record=_optional(study_dir, f"{folder}/run.json", RunRecord, problems),
                steps=_rows(study_dir, f"{folder}/metrics.jsonl", StepRecord, problems),
                states=_samples(study_dir, f"{folder}/states.jsonl", problems),
                rollouts=_samples(study_dir, f"{folder}/rollouts.jsonl", problems),
                drift=_optional(study_dir, f"{folder}/drift.json", DriftRecord, problems),
                locality=_rows(study_dir, f"{folder}/locality.jsonl", LocalityRecord, problems),
                supervision=_optional(study_dir, f"{folder}/supervision.json", SupervisionMap, problems),
                evals=_rows(study_dir, f"{folder}/{layout.EVAL_STEPS}", EvalStep, problems),
            )
        )
    return RunFiles(run=run, seeds=read)


def _rows(study_dir: Path, name: str, kind: type[T], problems: list[str]) -> list[T]:
    path = study_dir / name
    if not os.path.exists(path):
        return []
    try:
        return read_jsonl(path, kind)
    except BadInput as error:
        problems.append(_problem(study_dir, error))
        return []


def _flips(study_dir: Path, run: PlannedRun, seeds: list[int], problems: list[str]) -> list[FlippedItem]:
    """Of the first seed that has any."""
    for seed in seeds:
        if found := _rows(study_dir, f"runs/{run.name}/seed{seed}/{layout.FLIPS}", FlippedItem, problems):
            return found
    return []


def _samples(study_dir: Path, name: str, problems: list[str]) -> list[StateSample]:
    path = study_dir / name
    if not os.path.exists(path):
        return []
    try:
        values = list(iter_jsonl(path))
        picked = [values[i] for i in spread(len(values), MAX_SAMPLES)]
        return [parse(value, StateSample, where=f"{path}:{number}") for number, value in picked]
    except BadInput as error:
        problems.append(_problem(study_dir, error))
        return []


def spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` indices spread evenly over range(count), first and last included."""
    if count <= wanted:
        return list(range(count))
    return [round(i * (count - 1) / (wanted - 1)) for i in range(wanted)]


def _problem(study_dir: Path, error: BadInput) -> str:
    """The complaint with paths relative to the study: the same study gives the same report wherever its folder is."""
    return str(error).replace(f"{study_dir}/", "")
