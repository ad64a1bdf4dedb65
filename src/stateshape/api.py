"""The package from Python: what the commands do, in one call each. See `stateshape.__init__` for the list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stateshape.analysis.compare import write_comparison
from stateshape.core.files import check_output
from stateshape.core.locks import REPORT_LOCK, hold
from stateshape.core.progress import Reporter, Silent
from stateshape.core.records import DriftRecord, EvalRow, RunRecord
from stateshape.core.study_records import Comparison
from stateshape.evals.evaluate import evaluate as evaluate_policy
from stateshape.policy.open import open_policy as open_policy_from
from stateshape.policy.policy import Policy
from stateshape.policy.settings import ModelSettings
from stateshape.recipes.recipe import Recipe, recipe_name
from stateshape.report.write import write_report
from stateshape.study.execute import REPORT_S, execute
from stateshape.study.plan import DriftChoice, StudyFile, make_plan, read_study, with_seeds
from stateshape.study.single import drift_between, train_single
from stateshape.study.state_map import write_state_map
from stateshape.tasks.load import load_task as load_task_from
from stateshape.tasks.task import Task
from stateshape.train.settings import TrainSettings

PathLike = str | Path


def open_policy(source: str, settings: ModelSettings | None = None) -> Policy:
    """A frozen policy: "embedded", a model folder, a hub id, a run folder or an adapter folder."""
    return open_policy_from(source, settings or ModelSettings())


def load_task(
    name: str,
    *,
    data_dir: PathLike | None = None,
    limit: int | None = None,
    shots: int = 0,
    max_new_tokens: int | None = None,
) -> Task:
    """gsm8k, truthfulqa, mmlu (official files in `data_dir`, else the hub), arithmetic, facts, exam, or a .jsonl file."""
    folder = None if data_dir is None else Path(data_dir)
    return load_task_from(name, data_dir=folder, limit=limit, shots=shots, max_new_tokens=max_new_tokens)


def evaluate(policy: Policy, task: Task) -> list[EvalRow]:
    """One row an item, in the task's order."""
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
    """Trains one run into the folder `out`, or resumes it. Raises BadInput before the model loads."""
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
    """How far the states of `b` lie from those of `a`, beside `a` against itself with another sampling seed."""
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
    accept_changes: bool = False,
) -> Comparison:
    """Runs or resumes a study (a preset's name, a YAML file, or a StudyFile) and writes its report into `out`.

    `accept_changes`: goes on with finished files that were changed, and puts that on record. `jobs`: runs at a time, each in a
    process of its own (so that the calling script needs `if __name__ == "__main__"`).
    """
    file = read_study(study) if isinstance(study, str) else study
    if seeds is not None:
        file = with_seeds(file, seeds)
    folder = Path(out)
    data = None if data_dir is None else Path(data_dir)
    check_output(folder)
    with hold(folder):
        execute(
            make_plan(file),
            folder,
            data_dir=data,
            reporter=reporter or Silent(),
            jobs=jobs,
            accept_changes=accept_changes,
        )
        with hold(folder, name=REPORT_LOCK, wait_s=REPORT_S):
            comparison = write_comparison(folder)
            write_state_map(folder)
            write_report(folder)
    return comparison
