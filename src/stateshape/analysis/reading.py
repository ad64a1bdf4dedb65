"""Reads a study folder into StudyScores, and refuses what cannot be compared. Torch-free.

Refused, with both files named: other items, other prompts, another base model, another tokenizer, drift measured
otherwise. Said in `missing` and left out: runs that are not there or died. Computes no estimate (paired.py).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stateshape.analysis.probe_values import before_training, over_probes
from stateshape.analysis.sampled import sampled_scores
from stateshape.analysis.scores import EXTRACTIONS, DosePoint, SeedScores, StudyScores
from stateshape.core import layout
from stateshape.core.files import BadInput, iter_jsonl, read_json, read_jsonl
from stateshape.core.records import (
    DoseRecord,
    DriftRecord,
    EvalRow,
    Json,
    KlRecord,
    LocalityRecord,
    RunRecord,
    SampledRow,
)
from stateshape.core.study_records import BASE, PlanRecord, TaskRecord
from stateshape.core.wording import shown

SAME_EVERYWHERE = ("tokenizer_sha256", "weights_sha256")  # keys of a run's provenance that all runs must share


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reference:
    """The first file read for a task: its items' order and prompts, which every other file must share."""

    path: Path
    prompts: dict[str, str]  # item id -> prompt_sha256


@dataclass(kw_only=True, slots=True)
class _Known:
    """What was read first, which all that follows must agree with."""

    tasks: dict[str, _Reference] = field(default_factory=dict)
    drift: tuple[Path, DriftRecord] | None = None
    along: dict[str, tuple[Path, list[str]]] = field(default_factory=dict)  # by task: the items measured along runs
    runs: dict[str, tuple[Path, Json]] = field(default_factory=dict)


def load_scores(study_dir: Path) -> StudyScores:
    """Reads plan.json and every finished run's rows, drift, last locality, and what was measured on its way.

    Raises: BadInput, naming both files, where two runs cannot be compared.
    """
    plan = read_json(study_dir / layout.PLAN, PlanRecord)
    study, known = StudyScores(plan=plan, scores={}, drift={}, missing=[]), _Known()
    for run in [planned.name for planned in plan.runs]:
        study.scores[run], study.drift[run], study.secondary[run], study.locality[run] = {}, {}, {}, {}
        study.along[run] = {}
        for seed, folder in _finished(study_dir, run, study, known):
            _read_run(folder, run, seed, study, known)
    _add_ends(study)
    if any(study.drift.values()):  # otherwise the study did not ask for it
        study.missing.extend(
            f"{run}, seed {seed}: no drift.json"
            for run, tasks in study.scores.items()
            for seed in sorted(set().union(*tasks.values()) - study.drift[run].keys())
            if run != BASE
        )
    return study


def _read_run(folder: Path, run: str, seed: int, study: StudyScores, known: _Known) -> None:
    for task in study.tasks():
        path = layout.evaluation(folder, task.name)
        if not os.path.exists(path):
            study.missing.append(f"{run}, seed {seed}: no rows for {task.name} ({path.name})")
            continue
        rows = _aligned(path, task, known.tasks)
        if len({row.subject for row in rows}) > 1:
            study.subjects.setdefault(task.name, [row.subject or "" for row in rows])
        study.scores[run].setdefault(task.name, {})[seed] = np.array([row.scores[task.metric] for row in rows])
        sampled = layout.evaluation(folder, task.name, layout.SAMPLED)
        beside = _secondary(rows, task.metric) | _sampled(sampled, task.metric, known.tasks[task.name])
        for name, values in beside.items():
            per_task: dict[str, SeedScores] = study.secondary[run].setdefault(task.name, {})
            per_task.setdefault(name, {})[seed] = values
    if os.path.exists(folder / layout.DRIFT):
        study.drift[run][seed] = _drift(folder / layout.DRIFT, known)
    if os.path.exists(folder / layout.DRIFT_START):
        study.drift_since_start.setdefault(run, {})[seed] = read_json(folder / layout.DRIFT_START, DriftRecord)
    if os.path.exists(folder / layout.KL):
        study.kl[run] = read_json(folder / layout.KL, KlRecord)
    if os.path.exists(folder / layout.LOCALITY):
        records = read_jsonl(folder / layout.LOCALITY, LocalityRecord)
        if records:
            study.locality[run][seed] = over_probes(records)
            if (before := before_training(records)) is not None:
                study.locality_before.setdefault(run, {})[seed] = before
    if os.path.exists(folder / layout.ALONG):
        study.along[run][seed] = _along(folder, study, known)


def _along(folder: Path, study: StudyScores, known: _Known) -> list[DosePoint]:
    """The points of one run in the order of its steps; the scores of the last one are added by _add_ends."""
    records = sorted(read_jsonl(folder / layout.ALONG, DoseRecord), key=lambda record: record.step)
    points = []
    for record in records:
        point = DosePoint(step=record.step, doses=record.doses, scores={})
        for task in study.tasks():
            path = layout.along_rows(folder, record.step, task.name)
            if os.path.exists(path):
                rows = _some_items(path, task, study, known)
                point.scores[task.name] = np.array([row.scores[task.metric] for row in rows])
                sampled = layout.along_rows(folder, record.step, task.name, layout.SAMPLED)
                greedy = _Reference(path=path, prompts={row.item_id: row.prompt_sha256 for row in rows})
                point.secondary[task.name] = _secondary(rows, task.metric) | _sampled(sampled, task.metric, greedy)
        points.append(point)
    return points


def _add_ends(study: StudyScores) -> None:
    """A run's last point is its own evaluation, on the items that were measured along runs."""
    for run, seeds in study.along.items():
        for seed, points in seeds.items():
            for task, held in study.scores[run].items() if points else ():
                if seed in held:
                    items = study.along_items.get(task, slice(None))
                    beside = study.secondary[run].get(task, {})
                    points[-1].scores[task] = held[seed][items]
                    points[-1].secondary[task] = {
                        name: values[seed][items] for name, values in beside.items() if seed in values
                    }


def _some_items(path: Path, task: TaskRecord, study: StudyScores, known: _Known) -> list[EvalRow]:
    """The rows of the items that are measured along runs, the same in every file, in the common order."""
    rows = _rows_by_item(path, task)
    every = known.tasks[task.name]
    if odd := [item_id for item_id, row in rows.items() if every.prompts.get(item_id) != row.prompt_sha256]:
        raise BadInput(f"{path} and {every.path}: item {odd[0]!r} has different prompts in the two, or is in one only")
    order = [item_id for item_id in every.prompts if item_id in rows]
    first, expected = known.along.setdefault(task.name, (path, order))
    if order != expected:
        odd_one = sorted(set(order) ^ set(expected))[0]
        raise BadInput(f"{path} and {first}: item {odd_one!r} is in one only; expected the same items along every run")
    if len(order) < len(every.prompts) and task.name not in study.along_items:
        chosen = set(order)
        study.along_items[task.name] = np.array([i for i, item in enumerate(every.prompts) if item in chosen])
    return [rows[item_id] for item_id in order]


def _finished(study_dir: Path, run: str, study: StudyScores, known: _Known) -> list[tuple[int, Path]]:
    """(seed, folder) of the runs that finished; adds to `missing` those that did not, and repeats the runs' own warnings."""
    plan, missing = study.plan, study.missing
    found, absent = [], []
    for seed in plan.seeds:
        folder = layout.run_folder(study_dir, run, seed)
        path = folder / layout.RUN
        if not os.path.exists(path):
            absent.append(seed)
            continue
        record = read_json(path, RunRecord)
        _must_agree(path, {"model": record.model, **record.provenance}, known)
        study.warnings.extend(f"{run}, seed {seed}: {warning}" for warning in record.warnings)
        data = record.provenance.get("data_sha256")
        for task, sha256 in data.items() if isinstance(data, dict) else ():
            _must_be_one(path, f"data for {task}", sha256, known, fix="compare runs on the same data only")
        if record.is_complete:
            found.append((seed, folder))
            if record.method is not None:
                study.counts.setdefault(run, {})[seed] = {
                    "steps": record.num_steps,
                    "supervised_tokens": record.num_supervised_tokens,
                    "sampled_tokens": record.num_sampled_tokens,
                }
        else:
            missing.append(f"{run}, seed {seed}: did not finish; {_progress(folder, record)}")
    if absent and not (run in study.measured_once and len(found) == 1):
        which = "any seed" if len(absent) == len(plan.seeds) else "seed " + ", ".join(map(str, absent))
        missing.append(f"{run}: no run for {which}")
    return found


def _progress(folder: Path, record: RunRecord) -> str:
    if record.num_steps:
        return f"trained {record.num_steps} steps, evaluation is incomplete"
    path = folder / layout.METRICS
    done = sum(1 for _ in iter_jsonl(path)) if os.path.exists(path) else 0
    return f"it stopped after {done} step{'s' if done > 1 else ''}" if done else "no steps were recorded"


def _must_agree(path: Path, values: dict[str, Json], known: _Known) -> None:
    for name in ("model", *SAME_EVERYWHERE):
        if values.get(name) is not None:  # older records do not say
            what = name.removesuffix("_sha256")
            _must_be_one(path, what, values[name], known, fix="compare runs of one base only")


def _must_be_one(path: Path, what: str, value: Json, known: _Known, *, fix: str) -> None:
    first, expected = known.runs.setdefault(what, (path, value))
    if value != expected:
        raise BadInput(
            f"{path} and {first}: {what}: got {shown(value)} and {shown(expected)}; expected the same in a study; {fix}"
        )


def _aligned(path: Path, task: TaskRecord, references: dict[str, _Reference]) -> list[EvalRow]:
    """The task's rows in the common order."""
    rows = _rows_by_item(path, task)
    prompts = {item_id: row.prompt_sha256 for item_id, row in rows.items()}
    reference = references.setdefault(task.name, _Reference(path=path, prompts=prompts))
    _check_paired(path, prompts, reference)
    return [rows[item_id] for item_id in reference.prompts]


def _rows_by_item(path: Path, task: TaskRecord) -> dict[str, EvalRow]:
    rows = {}
    for row in read_jsonl(path, EvalRow):
        if row.item_id in rows:
            raise BadInput(f"{path}: item {row.item_id!r} appears twice")
        if task.metric not in row.scores:
            raise BadInput(f"{path}: item {row.item_id!r} has no score {task.metric!r}, only {sorted(row.scores)}")
        rows[row.item_id] = row
    if not rows:
        raise BadInput(f"{path}: no rows")
    return rows


def _check_paired(path: Path, prompts: dict[str, str], reference: _Reference) -> None:
    """Raises BadInput where a file has other items or prompts than the first one read."""
    if odd := sorted(prompts.keys() ^ reference.prompts.keys()):
        raise BadInput(f"{path} and {reference.path}: {len(odd)} items are in one only, e.g. {odd[0]!r}; cannot pair")
    if differ := [item_id for item_id, sha in reference.prompts.items() if prompts[item_id] != sha]:
        raise BadInput(f"{path} and {reference.path}: item {differ[0]!r} has different prompts in the two; cannot pair")


def _sampled(path: Path, metric: str, reference: _Reference) -> dict[str, np.ndarray]:
    """By name, the scores of an evaluation on several samples per item (sampled.py); empty where there is none."""
    if not os.path.exists(path):
        return {}
    rows = {row.item_id: row for row in read_jsonl(path, SampledRow)}
    _check_paired(path, {item_id: row.prompt_sha256 for item_id, row in rows.items()}, reference)
    if bare := [row.item_id for row in rows.values() if not row.strict or len(row.strict) != len(row.flexible)]:
        raise BadInput(f"{path}: item {bare[0]!r}: expected one or more samples, each graded both ways")
    found = [sampled_scores(rows[item_id], metric) for item_id in reference.prompts]
    if len({tuple(scores) for scores in found}) > 1:
        raise BadInput(f"{path}: got several temperatures; expected one for all items")
    return {name: np.array([scores[name] for scores in found]) for name in found[0]}


def _secondary(rows: Sequence[EvalRow], metric: str) -> dict[str, np.ndarray]:
    """By name: one value per row. A score that a row lacks is left out for the whole task: means must be over all items."""
    found = [secondary_scores(row) for row in rows]
    names = set.intersection(*(set(scores) for scores in found)) - {metric}
    return {name: np.array([scores[name] for scores in found]) for name in sorted(names)}


def _drift(path: Path, known: _Known) -> DriftRecord:
    record = read_json(path, DriftRecord)
    if known.drift is None:
        known.drift = (path, record)
    first, expected = known.drift
    for name in ("task", "features", "num_prompts"):
        got, wanted = getattr(record, name), getattr(expected, name)
        if got != wanted:
            raise BadInput(f"{path} and {first}: {name}: got {shown(got)} and {shown(wanted)}; cannot compare drift")
    return record


GOLD_LOGP = "gold_logp_nats"


GOLD_MASS = "gold_mass"


def secondary_scores(row: EvalRow) -> dict[str, float]:
    """gold_logp_nats: log of the gold options' summed probability, in nats, not length-normalised. gold_mass: their share
    of all options' probability; MC2 where the task has it, since true options outside MC1 are not named in the row.
    strict, flexible: of answers in free text, by either extraction.

    Empty where the row has neither, or none of its options is the gold one.
    Source: arXiv:2109.07958 (MC2); arXiv:2406.04391 (each step from log-likelihood to accuracy loses information).
    """
    if not row.options or row.option_logps is None or len(row.options) != len(row.option_logps):
        return {name: row.scores[name] for name in EXTRACTIONS if name in row.scores}
    texts = [text.strip() for text in row.options]
    golds = [row.gold] if row.gold in texts else row.gold.split(" | ")
    gold = [logp for text, logp in zip(texts, row.option_logps) if text in golds]
    if not gold:
        return {}
    gold_logp = _log_sum(gold)
    mass = row.scores.get("mc2", math.exp(gold_logp - _log_sum(row.option_logps)))
    return {GOLD_LOGP: gold_logp, GOLD_MASS: mass}


def _log_sum(logps: list[float]) -> float:
    highest = max(logps)
    return highest + math.log(sum(math.exp(logp - highest) for logp in logps))
