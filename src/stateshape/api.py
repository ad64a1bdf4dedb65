"""The package from Python: what the commands do, in one call each. See `stateshape.__init__` for the list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stateshape.core.records import Comparison, DriftRecord, EvalRow, RunRecord
from stateshape.evals.evaluate import evaluate as evaluate_policy
from stateshape.policy.open import open_policy as open_policy_from
from stateshape.policy.policy import Policy
from stateshape.policy.settings import ModelSettings
from stateshape.recipes.recipe import Recipe, recipe_name
from stateshape.report.write import write_report
from stateshape.study.compare import write_comparison
from stateshape.study.execute import execute
from stateshape.study.plan import DriftChoice, StudyFile, make_plan, read_study, with_seeds
from stateshape.study.progress import Reporter, Silent
from stateshape.study.single import drift_between, train_single
from stateshape.study.state_map import write_state_map
from stateshape.tasks.load import load_task as load_task_from
from stateshape.tasks.task import Task
from stateshape.train.settings import TrainSettings

PathLike = str | Path


def open_policy(source: str, settings: ModelSettings | None = None) -> Policy:
    """A frozen policy: "embedded", a model folder, a hub id, a run folder or an adapter folder."""
    return open_policy_from(source, settings or ModelSettings())


def load_task(name: str, *, data_dir: PathLike | None = None, limit: int | None = None, shots: int = 0) -> Task:
    """A task by name: arithmetic, facts, exam, gsm8k, truthfulqa, mmlu, or a .jsonl file.

    Args:
        data_dir: Folder with the official files of gsm8k, truthfulqa and mmlu. Default: they are read from the hub.
        limit: The first N test items. Default: all.
        shots: Worked examples in the prompt.
    """
    return load_task_from(name, data_dir=None if data_dir is None else Path(data_dir), limit=limit, shots=shots)


def evaluate(policy: Policy, task: Task) -> list[EvalRow]:
    """Evaluates a policy on a task: one row per item, in the task's order. `summarise` gives their means."""
    return evaluate_policy(policy, task)


def train_run(
    recipe: Recipe,
    *,
    model: str,
    task: str,
    out: PathLike,
    seed: int = 0,
    settings: TrainSettings | None = None,
    model_settings: ModelSettings | None = None,
    data_dir: PathLike | None = None,
    reporter: Reporter | None = None,
) -> RunRecord:
    """Trains one run into the folder `out`, or resumes it. Raises BadInput before the model loads.

    Args:
        recipe: The method, for example `SFT()`.
        model: "embedded", a model folder or a hub id.
        task: Name of a task, or a .jsonl file; its training rows are used.
        out: The run folder.
        seed: Fixes data order, adapter initialisation and sampling.
        settings: Optimiser, steps, batch, LoRA.
        model_settings: Device and dtype.
    """
    return train_single(
        recipe_name(recipe),
        recipe,
        model=model,
        task_name=task,
        folder=Path(out),
        seed=seed,
        data_dir=None if data_dir is None else Path(data_dir),
        settings=settings or TrainSettings(),
        model_settings=model_settings or ModelSettings(),
        reporter=reporter or Silent(),
    )


def measure_drift(
    a: str,
    b: str,
    *,
    task: str,
    data_dir: PathLike | None = None,
    choice: DriftChoice | None = None,
    seed: int = 0,
    model_settings: ModelSettings | None = None,
) -> DriftRecord:
    """Distances between the states of `a` and `b`, each with its null and with `a` against itself (another sampling seed).

    Args:
        a: The reference: a model or a run folder.
        b: The other model or run folder.
        task: Task whose last training prompts are used.
        choice: Number of prompts and cuts, length, temperature, encoders.
    """
    return drift_between(
        a,
        b,
        task_name=task,
        data_dir=None if data_dir is None else Path(data_dir),
        choice=choice or DriftChoice(),
        seed=seed,
        model_settings=model_settings or ModelSettings(),
        reporter=Silent(),
    )


def run_study(
    study: str | StudyFile,
    *,
    out: PathLike,
    seeds: Sequence[int] | None = None,
    data_dir: PathLike | None = None,
    jobs: int | None = 1,
    reporter: Reporter | None = None,
) -> Comparison:
    """Runs or resumes a study (a preset's name, a YAML file, or a StudyFile) and writes its report into `out`.

    `jobs`: runs at a time, each in a process of its own (so that the calling script needs `if __name__ == "__main__"`).
    """
    file = read_study(study) if isinstance(study, str) else study
    if seeds is not None:
        file = with_seeds(file, seeds)
    folder = Path(out)
    data = None if data_dir is None else Path(data_dir)
    execute(make_plan(file), folder, data_dir=data, reporter=reporter or Silent(), jobs=jobs)
    comparison = write_comparison(folder)
    write_state_map(folder)
    write_report(folder)
    return comparison
