"""Measurements of a trained policy: the tasks, its rollouts, their drift. A part is done when its file is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from stateshape.core import layout
from stateshape.core.files import read_jsonl, write_json
from stateshape.core.records import DriftRecord, EvalRow, EvaluationRecord, RunRecord, SampledRow
from stateshape.core.seeds import seed_for
from stateshape.core.study_records import BASE
from stateshape.drift.measure import measure
from stateshape.evals.evaluate import evaluate, read_summaries, summarise, write_evaluation
from stateshape.evals.sampled import sample_and_grade, summarise_sampled
from stateshape.policy.policy import Policy
from stateshape.policy.source import Resolved
from stateshape.sampling.settings import Sampler
from stateshape.study.context import StudyContext
from stateshape.study.drift_rollouts import read_rollouts, sample_rollouts, write_rollouts
from stateshape.study.evaluation import on_machine, planned_evaluation, sampled_evaluation
from stateshape.study.run_spec import RunSpec
from stateshape.study.study_file import SampleChoice
from stateshape.tasks.task import GenerationTask, Task

SAMPLED_PHASE = "sampled evaluation"
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


def evaluations(
    bench: StudyContext, policy: Policy, folder: Path, run: str, seed: int, source: Resolved
) -> list[MeasurementStep]:
    """Every task; then, on samples, those whose entry in the study's file asks for it. source: where the policy is from."""
    parts: list[MeasurementStep] = [
        ("evaluation", partial(evaluate_one, bench, policy, folder, run, task, source)) for task in bench.tasks
    ]
    for task in bench.tasks:
        samples = bench.choice_of(task).samples
        if samples is not None and isinstance(task, GenerationTask):
            parts.append((SAMPLED_PHASE, partial(sample_one, bench, policy, folder, run, seed, task, samples, source)))
    return parts


def evaluate_one(bench: StudyContext, policy: Policy, folder: Path, run: str, task: Task, source: Resolved) -> None:
    path = layout.evaluation(folder, task.name)
    if not path.exists():
        tick = bench.reporter.track(f"evaluate {run} on {task.name}", "items", policy.weights.meter)
        rows = evaluate(policy, task, sampler=bench.sampler, progress=tick)
    elif task.name not in read_summaries(folder):
        rows = read_jsonl(path, EvalRow)  # killed between the two files
    else:
        return
    about = about_evaluation(bench, policy, task, source)
    write_evaluation(folder, task.name, rows, summarise(rows, task.metrics), about)


def sample_one(
    bench: StudyContext,
    policy: Policy,
    folder: Path,
    run: str,
    seed: int,
    task: GenerationTask,
    samples: SampleChoice,
    source: Resolved,
) -> None:
    path = layout.evaluation(folder, task.name, layout.SAMPLED)
    if not path.exists():
        told = f"sample {run} on {task.name}"
        rows = sampled_rows(bench, policy, task, samples, seed=seed, told=told, sampler=bench.sampler)
    elif task.name not in read_summaries(folder, layout.SAMPLED):
        rows = read_jsonl(path, SampledRow)  # killed between the two files
    else:
        return
    about = sampled_evaluation(about_evaluation(bench, policy, task, source), samples.n, samples.temperature)
    summary = summarise_sampled(rows, task.metric)
    write_evaluation(folder, task.name, rows, summary, about, kind=layout.SAMPLED)


def sampled_rows(
    bench: StudyContext,
    policy: Policy,
    task: GenerationTask,
    samples: SampleChoice,
    *,
    seed: int,
    told: str,
    sampler: Sampler | None = None,
) -> list[SampledRow]:
    """Runs of one seed draw the same random numbers for an item, so that their difference has less noise."""
    return sample_and_grade(
        policy,
        task,
        num_samples=samples.n,
        temperature=samples.temperature,
        seed=seed_for(seed, "sampled evaluation"),
        sampler=sampler,
        progress=bench.reporter.track(told, "items", policy.weights.meter),
    )


def about_evaluation(bench: StudyContext, policy: Policy, task: Task, source: Resolved) -> EvaluationRecord:
    choice = bench.choice_of(task)
    about = planned_evaluation(source, task, named=choice.task, limit=choice.limit, shots=choice.shots)
    return on_machine(about, policy.weights, bench.sampler)


def roll(bench: StudyContext, policy: Policy, folder: Path, name: str, seed: int, run: str) -> None:
    if (layout.rollouts(folder, name)).exists():
        return
    tick = bench.reporter.track(f"sample {run} for drift", "prompts", policy.weights.meter)
    rolled = sample_rollouts(policy, bench.target, bench.plan.file.drift, bench.sampler, seed=seed, tick=tick)
    has_tokens = bench.plan.file.along is not None and run == BASE and name == layout.ROLLOUTS
    write_rollouts(folder, rolled, name=name, has_tokens=has_tokens)


def measure_drift(bench: StudyContext, folder: Path) -> None:
    if not (folder / layout.DRIFT).exists():
        base = bench.fixed_folder(BASE)
        write_json(folder / layout.DRIFT, drift_from(bench, base, base, folder))


def measure_drift_from_start(bench: StudyContext, spec: RunSpec, folder: Path, seed: int) -> None:
    """Where the start is a run of this study: its rollouts are there. Its null is by permutation; there is no second sample."""
    other = next((run for run in bench.plan.runs if run.name == spec.start), None)
    if other is None or (folder / layout.DRIFT_START).exists():
        return
    start = bench.run_folder(other.name, seed) if isinstance(other, RunSpec) else bench.fixed_folder(other.name)
    record = drift_from(bench, start, bench.fixed_folder(BASE), folder)
    # the base's second sample only fills the place of one: nothing is said of start against start
    distances = {name: replace(value, base_vs_base=None) for name, value in record.distances.items()}
    write_json(folder / layout.DRIFT_START, replace(record, distances=distances))


def drift_from(bench: StudyContext, reference: Path, again: Path, folder: Path) -> DriftRecord:
    """Of a run's rollouts from a reference's. again: whose folder holds the reference's rollouts with another sampling seed."""
    return measure(
        read_rollouts(reference, name="rollouts"),
        read_rollouts(again, name="rollouts_again"),
        read_rollouts(folder, name="rollouts"),
        task=bench.target.name,
        seed=0,
        num_cuts=bench.plan.file.drift.cuts,
        encoders=bench.encoders,
    )
