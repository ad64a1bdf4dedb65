"""Measurements of a trained policy: the tasks, its rollouts, their drift. A part is done when its file is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from stateshape.core import layout
from stateshape.core.files import read_jsonl, write_json
from stateshape.core.records import EvalRow, RunRecord
from stateshape.core.study_records import BASE
from stateshape.drift.measure import measure
from stateshape.evals.evaluate import evaluate, read_summaries, summarise, write_evaluation
from stateshape.policy.open import Resolved
from stateshape.policy.policy import Policy
from stateshape.study.context import StudyContext
from stateshape.study.drift_rollouts import read_rollouts, sample_rollouts, write_rollouts
from stateshape.study.evaluation import on_machine, planned_evaluation
from stateshape.tasks.task import Task

MeasurementStep = tuple[str, Callable[[], None]]  # the phase it belongs to, and the work


def measured(bench: StudyContext, record: RunRecord, folder: Path, parts: Sequence[MeasurementStep]) -> RunRecord:
    """Does one part after another. What it cost is written down each time: a kill loses the cost of one part at most."""
    costs = dict(record.costs)
    for phase, work in parts:
        with bench.weights.meter.phase(phase, costs):
            work()
        record = record.measured(costs)
        write_json(folder / layout.RUN, record)
    return record


def evaluations(bench: StudyContext, policy: Policy, folder: Path, run: str) -> list[MeasurementStep]:
    return [("evaluation", partial(evaluate_one, bench, policy, folder, run, task)) for task in bench.tasks]


def evaluate_one(bench: StudyContext, policy: Policy, folder: Path, run: str, task: Task) -> None:
    path = layout.evaluation(folder, task.name)
    if not path.exists():
        tick = bench.reporter.track(f"evaluate {run} on {task.name}", "items", policy.weights.meter)
        rows = evaluate(policy, task, progress=tick)
    elif task.name not in read_summaries(folder):
        rows = read_jsonl(path, EvalRow)  # killed between the two files
    else:
        return
    choice = bench.choice_of(task)
    adapter = None if policy.adapter is None else folder / layout.ADAPTER
    about = planned_evaluation(
        Resolved(bench.plan.file.model, adapter), task, named=choice.task, limit=choice.limit, shots=choice.shots
    )
    write_evaluation(folder, task.name, rows, summarise(rows, task.metrics), on_machine(about, policy.weights))


def roll(bench: StudyContext, policy: Policy, folder: Path, name: str, seed: int, run: str) -> None:
    if (layout.rollouts(folder, name)).exists():
        return
    tick = bench.reporter.track(f"sample {run} for drift", "prompts", policy.weights.meter)
    pieces, samples = sample_rollouts(policy, bench.target, bench.plan.file.drift, bench.sampler, seed=seed, tick=tick)
    write_rollouts(folder, pieces, samples, name=name)


def measure_drift(bench: StudyContext, folder: Path, seed: int) -> None:
    if (folder / layout.DRIFT).exists():
        return
    base = next(iter(layout.seed_folders(bench.folder, BASE)))
    record = measure(
        read_rollouts(base, name="rollouts"),
        read_rollouts(base, name="rollouts_again"),
        read_rollouts(folder, name="rollouts"),
        task=bench.target.name,
        seed=0,
        num_cuts=bench.plan.file.drift.cuts,
        encoders=bench.encoders,
    )
    write_json(folder / layout.DRIFT, record)
