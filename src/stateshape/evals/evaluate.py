"""Evaluation of a policy on a task: rows, their summary, and the files they become.

<folder>/evals/<task>.jsonl has one EvalRow a line; <folder>/evals/summary.json has {task: {metric: Metric}}.
Does not know what a run or a comparison is, nor how rows are scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stateshape.core.files import read_json, write_json, write_jsonl
from stateshape.core.records import EvalRow, Metric
from stateshape.evals.generation import generate_and_grade
from stateshape.evals.multiple_choice import score_choices
from stateshape.evals.statistics import mean_estimate
from stateshape.policy.policy import Policy
from stateshape.tasks.task import GenerationTask, Progress, Task

Summary = dict[str, Metric]


def evaluate(policy: Policy, task: Task, *, progress: Progress | None = None) -> list[EvalRow]:
    """One row per evaluated item, in the task's order."""
    if isinstance(task, GenerationTask):
        return generate_and_grade(policy, task, progress=progress)
    return score_choices(policy, task, progress=progress)


def summarise(rows: Sequence[EvalRow], metrics: Sequence[str]) -> Summary:
    """Each metric's mean: Wilson's interval where every score is 0 or 1, a normal one otherwise; None without rows."""
    return {metric: mean_estimate([row.scores[metric] for row in rows]) for metric in metrics}


def write_evaluation(folder: Path, task_name: str, rows: Sequence[EvalRow], summary: Summary) -> None:
    """Writes the task's rows and adds its summary to those of other tasks. Each file is replaced whole."""
    write_jsonl(folder / "evals" / f"{task_name}.jsonl", rows)
    path = folder / "evals" / "summary.json"
    merged = read_summaries(folder) if path.exists() else {}
    write_json(path, {**merged, task_name: summary})


def read_summaries(folder: Path) -> dict[str, Summary]:
    return read_json(folder / "evals" / "summary.json", dict[str, dict[str, Metric]])
