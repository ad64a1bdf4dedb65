"""Evaluation of a policy on a task: rows, their summary, and the files they become.

<folder>/evals/<task>.jsonl has one EvalRow per line; <folder>/evals/summary.json has {task: {metric: Metric}}, and next to the
metrics of a task an EvaluationRecord under "evaluation": of what it is (older summaries lack it). <folder>/sampled/ has the
same two for an evaluation on several samples per item (sampled.py): `kind` is the folder's name.
Does not know what a run or a comparison is, nor how rows are scored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stateshape.analysis.statistics import mean_estimate
from stateshape.core import layout
from stateshape.core.files import parse, plain, read_json, write_json, write_jsonl
from stateshape.core.manifest import has_manifest, rewriting
from stateshape.core.records import EvalRow, EvaluationRecord, Metric, SampledRow
from stateshape.evals.generation import generate_and_grade
from stateshape.evals.multiple_choice import score_choices
from stateshape.policy.policy import Policy
from stateshape.sampling.settings import Sampler
from stateshape.tasks.harness import HarnessTask
from stateshape.tasks.task import GenerationTask, Progress, Task

Summary = dict[str, Metric]
ABOUT = "evaluation"


def evaluate(
    policy: Policy, task: Task, *, sampler: Sampler | None = None, progress: Progress | None = None
) -> list[EvalRow]:
    """One row per evaluated item, in the task's order. sampler: of what is written; None uses the model at hand."""
    if isinstance(task, HarnessTask):
        from stateshape.evals.harness import evaluate_harness  # lm_eval need not be installed

        return evaluate_harness(policy, task, sampler=sampler, progress=progress)
    if isinstance(task, GenerationTask):
        return generate_and_grade(policy, task, sampler=sampler, progress=progress)
    return score_choices(policy, task, progress=progress)


def summarise(rows: Sequence[EvalRow], metrics: Sequence[str]) -> Summary:
    """Each metric's mean: Wilson's interval where every score is 0 or 1, a normal one otherwise; None without rows."""
    return {metric: mean_estimate([row.scores[metric] for row in rows]) for metric in metrics}


def write_evaluation(
    folder: Path,
    task_name: str,
    rows: Sequence[EvalRow] | Sequence[SampledRow],
    summary: Summary,
    about: EvaluationRecord | None = None,
    *,
    kind: str = layout.EVALS,
) -> None:
    """Writes the task's rows and adds its summary to those of other tasks. Each file is replaced whole."""
    entries = _read_entries(folder, kind)
    with rewriting(folder, names_of(task_name, kind)) if has_manifest(folder) else contextlib.nullcontext():
        write_jsonl(layout.evaluation(folder, task_name, kind), rows)
        entry = plain(summary) if about is None else {**plain(summary), ABOUT: plain(about)}
        write_json(layout.summary(folder, kind), {**entries, task_name: entry})


def names_of(task_name: str, kind: str = layout.EVALS) -> tuple[str, str]:
    """The files of a task's evaluation, below the folder."""
    return str(layout.evaluation(Path(), task_name, kind)), str(layout.summary(Path(), kind))


def read_summaries(folder: Path, kind: str = layout.EVALS) -> dict[str, Summary]:
    """By task, the metrics."""
    return {
        task: {
            metric: parse(value, Metric, where=f"{layout.summary(folder, kind)}: {task}.{metric}")
            for metric, value in entry.items()
            if metric != ABOUT
        }
        for task, entry in _read_entries(folder, kind).items()
    }


def read_about(folder: Path, task_name: str, kind: str = layout.EVALS) -> EvaluationRecord | None:
    """Of what the task's evaluation is; None where there is none, or an older one that does not say."""
    value = _read_entries(folder, kind).get(task_name, {}).get(ABOUT)
    where = f"{layout.summary(folder, kind)}: {task_name}"
    return None if value is None else parse(value, EvaluationRecord, where=where)


def _read_entries(folder: Path, kind: str) -> dict[str, dict[str, Any]]:
    path = layout.summary(folder, kind)
    return read_json(path, dict[str, dict[str, Any]]) if path.exists() else {}
