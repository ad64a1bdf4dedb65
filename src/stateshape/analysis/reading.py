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

from stateshape.analysis.scores import SeedScores, StudyScores
from stateshape.core import layout
from stateshape.core.files import BadInput, iter_jsonl, read_json, read_jsonl
from stateshape.core.records import DriftRecord, EvalRow, Json, LocalityRecord, RunRecord
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
    runs: dict[str, tuple[Path, Json]] = field(default_factory=dict)


def load_scores(study_dir: Path) -> StudyScores:
    """Reads plan.json and every finished run's rows, drift and last locality.

    Raises: BadInput, naming both files, where two runs cannot be compared.
    """
    plan = read_json(study_dir / layout.PLAN, PlanRecord)
    study, known = StudyScores(plan=plan, scores={}, drift={}, missing=[]), _Known()
    for run in [planned.name for planned in plan.runs]:
        study.scores[run], study.drift[run], study.secondary[run], study.locality[run] = {}, {}, {}, {}
        for seed, folder in _finished(study_dir, run, study, known):
            _read_run(folder, run, seed, study, known)
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
        study.scores[run].setdefault(task.name, {})[seed] = np.array([row.scores[task.metric] for row in rows])
        beside = _secondary(rows)
        for name, values in beside.items():
            per_task: dict[str, SeedScores] = study.secondary[run].setdefault(task.name, {})
            per_task.setdefault(name, {})[seed] = values
    if os.path.exists(folder / layout.DRIFT):
        study.drift[run][seed] = _drift(folder / layout.DRIFT, known)
    if os.path.exists(folder / layout.LOCALITY):
        records = read_jsonl(folder / layout.LOCALITY, LocalityRecord)
        if records:
            study.locality[run][seed] = max(records, key=lambda record: record.step)


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
        else:
            missing.append(f"{run}, seed {seed}: did not finish; {_progress(folder, record)}")
    if absent and not (run == BASE and len(found) == 1):
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
    rows = {}
    for row in read_jsonl(path, EvalRow):
        if row.item_id in rows:
            raise BadInput(f"{path}: item {row.item_id!r} appears twice")
        if task.metric not in row.scores:
            raise BadInput(f"{path}: item {row.item_id!r} has no score {task.metric!r}, only {sorted(row.scores)}")
        rows[row.item_id] = row
    if not rows:
        raise BadInput(f"{path}: no rows")
    prompts = {item_id: row.prompt_sha256 for item_id, row in rows.items()}
    reference = references.setdefault(task.name, _Reference(path=path, prompts=prompts))
    if odd := sorted(prompts.keys() ^ reference.prompts.keys()):
        raise BadInput(f"{path} and {reference.path}: {len(odd)} items are in one only, e.g. {odd[0]!r}; cannot pair")
    if differ := [item_id for item_id, sha in reference.prompts.items() if prompts[item_id] != sha]:
        raise BadInput(f"{path} and {reference.path}: item {differ[0]!r} has different prompts in the two; cannot pair")
    return [rows[item_id] for item_id in reference.prompts]


def _secondary(rows: Sequence[EvalRow]) -> dict[str, np.ndarray]:
    """By name: one value per row. A score that a row lacks is left out for the whole task: means must be over all items."""
    found = [secondary_scores(row) for row in rows]
    names = set.intersection(*(set(scores) for scores in found))
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

    Empty where the row has no options, or none of them is the gold one.
    Source: arXiv:2109.07958 (MC2); arXiv:2406.04391 (each step from log-likelihood to accuracy loses information).
    """
    if not row.options or row.option_logps is None or len(row.options) != len(row.option_logps):
        return {}
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
