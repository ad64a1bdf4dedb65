"""How far a study is, from its files alone: which runs are done, running where and at which step, waiting or failed.

Reads while others write, takes no lock and changes nothing. Torch-free. Does not know how anything is shown.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from stateshape.core import layout
from stateshape.core.files import BadInput, read_json
from stateshape.core.locks import Claim, claim_on
from stateshape.core.records import RunRecord
from stateshape.core.study_records import BASE, FailedRun, PlannedRun, PlanRecord

State = Literal["done", "running", "silent", "stopped", "waiting", "failed"]
TAIL_BYTES = 65_536  # of metrics.jsonl, read from its end: more than any one line


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStatus:
    """One run and seed. silent: its worker gives no sign of life. stopped: begun, and nobody works on it."""

    run: str
    seed: int
    state: State
    step: int | None = None  # completed steps
    num_steps: int | None = None  # None where the study gives epochs, until the run is trained
    host: str | None = None
    pid: int | None = None
    since: str | None = None  # when the worker claimed the folder
    silent_s: float | None = None
    seconds: float | None = None  # that a finished run took
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyStatus:
    study: str
    runs: list[RunStatus]
    worker: RunStatus | None  # the study's own process: it hands out runs
    seconds_left: float | None  # None until a run is finished, and where nothing runs

    def count(self, state: State) -> int:
        return sum(run.state == state for run in self.runs)


def study_status(folder: Path) -> StudyStatus:
    """Raises BadInput where there is no study."""
    if not (folder / layout.PLAN).exists():
        raise BadInput(
            f"folder: got {str(folder)!r}, which holds no plan.json; expected the folder of a study that has begun"
        )
    plan = read_json(folder / layout.PLAN, PlanRecord)
    failed = {(one.run, one.seed): one.reason for one in _failed(folder)}
    runs = [_run_status(folder, run, seed, failed.get((run.name, seed))) for run, seed in _planned(plan)]
    claim = claim_on(folder)
    worker = None if claim is None else _claimed(BASE, plan.seeds[0], claim)
    return StudyStatus(study=plan.study, runs=runs, worker=worker, seconds_left=_seconds_left(runs))


def _planned(plan: PlanRecord) -> Iterator[tuple[PlannedRun, int]]:
    """The base and checkpoints have no seed of their own."""
    for seed in plan.seeds:
        for run in plan.runs:
            if seed == plan.seeds[0] or not (run.name == BASE or run.checkpoint is not None):
                yield run, seed


def _failed(folder: Path) -> list[FailedRun]:
    return read_json(folder / layout.FAILED, list[FailedRun]) if (folder / layout.FAILED).exists() else []


def _run_status(study: Path, run: PlannedRun, seed: int, reason: str | None) -> RunStatus:
    fixed = run.name == BASE or run.checkpoint is not None
    there = layout.seed_folders(study, run.name) if fixed else []
    folder = there[0] if there else layout.run_folder(study, run.name, seed)
    record = read_json(folder / layout.RUN, RunRecord) if (folder / layout.RUN).exists() else None
    if record is not None and record.is_complete:
        took = sum(record.seconds.values())
        return RunStatus(
            run=run.name, seed=seed, state="done", step=record.num_steps, num_steps=record.num_steps, seconds=took
        )
    step, num_steps = _last_step(folder / layout.METRICS), _steps_planned(run)
    claim = claim_on(folder)
    if claim is not None and claim.is_alive:
        return _claimed(run.name, seed, claim, step, num_steps)
    if reason is not None:
        return RunStatus(run=run.name, seed=seed, state="failed", step=step, num_steps=num_steps, reason=reason)
    if claim is not None:
        return _claimed(run.name, seed, claim, step, num_steps)
    state: State = "waiting" if record is None and step is None else "stopped"
    return RunStatus(run=run.name, seed=seed, state=state, step=step, num_steps=num_steps)


def _claimed(run: str, seed: int, claim: Claim, step: int | None = None, num_steps: int | None = None) -> RunStatus:
    return RunStatus(
        run=run,
        seed=seed,
        state="running" if claim.is_alive else "silent",
        step=step,
        num_steps=num_steps,
        host=claim.host,
        pid=claim.pid,
        since=claim.since,
        silent_s=claim.silent_s,
    )


def _steps_planned(run: PlannedRun) -> int | None:
    train = run.settings.get("train")
    steps = train.get("steps") if isinstance(train, dict) else None
    return steps if isinstance(steps, int) else None


def _last_step(path: Path) -> int | None:
    """Completed steps, from the last whole line."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES), os.SEEK_SET)
            lines = file.read().rpartition(b"\n")[0].splitlines()
        return int(json.loads(lines[-1])["step"]) + 1
    except (OSError, IndexError, ValueError, KeyError, TypeError):
        return None


def _seconds_left(runs: list[RunStatus]) -> float | None:
    """What runs still take, shared by as many workers as there are now.

    A run takes what finished runs of its name did, else the mean of all; of one that runs, the steps that are done are
    taken off (measuring after the last step is not seen, so that it is estimated too short then).
    """
    took: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        if run.seconds is not None and run.run != BASE:
            took[run.run].append(run.seconds)
    num_workers = sum(run.state == "running" for run in runs)
    everything = [seconds for several in took.values() for seconds in several]
    if not everything or not num_workers:
        return None
    left = 0.0
    for run in runs:
        if run.state not in ("done", "failed"):
            share = 1.0 if not run.step or not run.num_steps else 1 - min(run.step, run.num_steps) / run.num_steps
            left += share * fmean(took[run.run] or everything)
    return left / num_workers
