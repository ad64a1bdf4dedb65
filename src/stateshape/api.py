"""The package from Python, and the one place where both towers meet: what makes run folders, and what reads them.

What the commands do, in one call each; `stateshape.__init__` has the list. Each function imports what it needs, so that a
report needs no tensor library.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stateshape.core import layout
from stateshape.core.files import BadInput, check_output, read_json
from stateshape.core.locks import REPORT_LOCK, hold
from stateshape.core.progress import Reporter
from stateshape.core.wording import shown

if TYPE_CHECKING:
    from stateshape.core.records import DriftRecord, Operators, RunRecord
    from stateshape.core.study_records import Audit
    from stateshape.evals.harness_lm import PolicyLM
    from stateshape.evals.settings import EvalSettings
    from stateshape.locality.settings import LocalitySettings
    from stateshape.policy.policy import Policy
    from stateshape.policy.settings import ModelSettings
    from stateshape.recipes.recipe import Recipe
    from stateshape.report.cards import Published
    from stateshape.sampling.served.choice import SamplerName
    from stateshape.sampling.text_policy import TextPolicy
    from stateshape.study.plan import Plan
    from stateshape.study.study_file import DriftChoice, StudyFile
    from stateshape.tasks.reading import Reading
    from stateshape.tasks.task import Task
    from stateshape.train.settings import TrainSettings
    from stateshape.views.evaluation import Evaluation
    from stateshape.views.study import Study

PathLike = str | Path


def open_policy(source: str, settings: ModelSettings | None = None) -> TextPolicy:
    """A frozen policy: "embedded", a model folder, a hub id, a run folder or an adapter folder. `generate` writes text."""
    from stateshape.policy.open import open_policy as open_policy_from
    from stateshape.policy.settings import ModelSettings
    from stateshape.sampling.text_policy import TextPolicy

    return TextPolicy(open_policy_from(source, settings or ModelSettings()), source)


def open_study(folder: PathLike) -> Study:
    """A study's or an audit's folder: tables, verdicts, states and figures. Reads its plan alone; rebuilds nothing."""
    from stateshape.views.study import Study

    return Study(Path(folder))


def load_task(
    name: str,
    *,
    data_dir: PathLike | None = None,
    limit: int | None = None,
    shots: int = 0,
    reading: Reading | None = None,
) -> Task:
    """A task by name: arithmetic, facts, exam, gsm8k, truthfulqa, mmlu, mmlu_cloze, rows of your own, or lm_eval:NAME.

    Args:
        data_dir: Folder with the official files of gsm8k, truthfulqa and mmlu. Default: they are read from the hub.
        limit: The first N test items. Default: all.
        shots: Worked examples in the prompt.
        reading: How rows of your own are read: columns, kind, split, turns, grader (docs/guides/your-data.md).
    """
    from stateshape.tasks.load import load_task as load_task_from

    folder = None if data_dir is None else Path(data_dir)
    return load_task_from(name, data_dir=folder, limit=limit, shots=shots, reading=reading)


def evaluate(policy: Policy, task: Task) -> Evaluation:
    """Evaluates a policy on a task: one row per item, in the task's order. `summarise` gives their means.

    Returns: a list of rows that can also be taken as a frame: to_pandas(), to_polars(), to_arrow().
    """
    from stateshape.evals.evaluate import evaluate as evaluate_policy
    from stateshape.views.evaluation import Evaluation

    with reporting(None) as told:
        rows = evaluate_policy(policy, task, progress=told.track(f"evaluate {task.name}", "items"))
    return Evaluation(rows, task=task.name)


def lm_eval_model(policy: Policy) -> PolicyLM:
    """The policy as a model of lm-evaluation-harness: `lm_eval.simple_evaluate(model=lm_eval_model(policy), tasks=[...])`.

    Needs stateshape[lm-eval].
    """
    from stateshape.tasks.harness import check_installed

    check_installed()
    from stateshape.evals.harness_lm import PolicyLM

    return PolicyLM(policy)


def train_run(
    recipe: Recipe,
    *,
    model: str,
    task: str,
    out: PathLike,
    name: str | None = None,
    seed: int = 0,
    settings: TrainSettings | None = None,
    model_settings: ModelSettings | None = None,
    data_dir: PathLike | None = None,
    reporter: Reporter | None = None,
    operators: Operators | None = None,
    along: int | None = None,
    reading: Reading | None = None,
    start: str | None = None,
    locality: LocalitySettings | None = None,
    sampler: SamplerName = "local",
    servers: Sequence[str] = (),
    evals: EvalSettings | None = None,
    report_to: Sequence[str] = (),
) -> RunRecord:
    """Trains one run into the folder `out`, or resumes it. Raises BadInput before the model loads.

    Args:
        recipe: The method, for example `SFT()`.
        model: "embedded", a model folder or a hub id.
        task: Name of a task, or rows of your own; its training rows are used.
        out: The run folder.
        seed: Fixes data order, adapter initialisation and sampling.
        settings: Optimiser, steps, batch, LoRA.
        model_settings: Device and dtype.
        name: The recipe's name, where it is one of your own in a file; default: found from its class.
        operators: Where given, filled with what a step spends its time on.
        along: Keep the adapter at so many steps, the last one included (docs/dose.md). Default: only at the end.
        reading: How rows of your own are read: columns, kind, split, turns, grader (docs/guides/your-data.md).
        start: A run or adapter folder on the same base, whose adapter the run goes on from. Default: a fresh adapter.
        locality: How closely the run is watched (docs/locality.md). Default: probes for at most a tenth of its tokens.
        sampler: What samples: this machine, or vLLM servers (docs/guides/servers.md).
        servers: Addresses of the vLLM servers.
        evals: How often and on what it is evaluated while it trains (docs/guides/watch.md). Default: not at all.
        report_to: Experiment trackers: tensorboard, trackio, wandb, mlflow. Default: none.
        reporter: What is told of its progress. Default: the notebook that it runs in, or nothing in a plain script.
    """
    from stateshape.policy.settings import ModelSettings
    from stateshape.recipes.recipe import recipe_name
    from stateshape.study.single import train_single
    from stateshape.train.settings import TrainSettings

    with reporting(reporter) as told:
        return train_single(
            name or recipe_name(recipe),
            recipe,
            model=model,
            task_name=task,
            folder=Path(out),
            seed=seed,
            data_dir=None if data_dir is None else Path(data_dir),
            settings=settings or TrainSettings(),
            model_settings=model_settings or ModelSettings(),
            reporter=told,
            operators=operators,
            along=along,
            reading=reading,
            start=start,
            locality=locality,
            sampler=sampler,
            servers=servers,
            evals=evals,
            report_to=report_to,
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
    from stateshape.policy.settings import ModelSettings
    from stateshape.study.single import drift_between
    from stateshape.study.study_file import DriftChoice

    with reporting(None) as told:
        return drift_between(
            a,
            b,
            task_name=task,
            data_dir=None if data_dir is None else Path(data_dir),
            choice=choice or DriftChoice(),
            seed=seed,
            model_settings=model_settings or ModelSettings(),
            reporter=told,
        )


def plan_study(
    study: str | StudyFile, *, seeds: Sequence[int] | None = None, model: str | None = None, full: bool = False
) -> Plan:
    """A study's plan: which runs, in which order, with which settings. Loads no model. Raises BadInput.

    Args:
        study: a preset's name, a YAML file, or a StudyFile.
        model: another base than the study's own.
        full: evaluate on all items instead of the study's limits.
    """
    from stateshape.study.study_file import read_study_file, with_seeds

    file = read_study_file(study) if isinstance(study, str) else study
    if model is not None:
        file = replace(file, model=model)
    if seeds is not None:
        file = with_seeds(file, seeds)
    if full:
        file = replace(
            file,
            target=replace(file.target, limit=None),
            retention=[replace(choice, limit=None) for choice in file.retention],
        )
    from stateshape.study.plan import make_plan  # of recipes, which load torch: a file with a slip is refused before

    return make_plan(file)


def run_study(
    study: str | StudyFile,
    *,
    out: PathLike,
    seeds: Sequence[int] | None = None,
    device: str | None = None,
    data_dir: PathLike | None = None,
    jobs: int | None = 1,
    reporter: Reporter | None = None,
    operators: Operators | None = None,
    accept_changes: bool = False,
) -> Study:
    """Runs or resumes a study (a preset's name, a YAML file, or a StudyFile) and writes its report into `out`.

    Returns: the study, as `open_study` gives it.

    Args:
        device: in place of the study's own. Not part of the plan: a study begun on one device may continue on another.
        jobs: runs at a time, each in a process of its own (so that the calling script needs `if __name__ == "__main__"`).
        reporter: what is told of its progress. Default: the notebook that it runs in, or nothing in a plain script.
        operators: where given, filled with what a step of each run spends its time on; takes one job.
        accept_changes: goes on with finished files that were changed, and puts that on record.
    """
    from stateshape.study.execute import REPORT_S, execute
    from stateshape.study.plan import on_device

    plan, folder = on_device(plan_study(study, seeds=seeds), device), Path(out)
    data = None if data_dir is None else Path(data_dir)
    check_output(folder)
    with reporting(reporter) as told, hold(folder):
        execute(
            plan,
            folder,
            data_dir=data,
            reporter=told,
            jobs=jobs,
            operators=operators,
            accept_changes=accept_changes,
        )
        with hold(folder, name=REPORT_LOCK, wait_s=REPORT_S):
            _write_results(folder)
    return open_study(folder)


def report_study(
    folder: PathLike, *, accept_changes: bool = False, say: Callable[[str], None] = lambda text: None
) -> Path:
    """Comparison, verdicts, state map, tables, plots and report of a study, from its files alone, also while it runs.

    Returns: the path of report.html. Raises BadInput where a finished file is not as it was when it was finished.
    """
    from stateshape.core.sealed import MADE_AGAIN, check_study, unsealed_runs

    folder = Path(folder)
    if not os.path.exists(folder / layout.PLAN):
        raise BadInput(f"study: {folder} contains no plan.json; expected the folder of a study")
    check_output(folder, where="folder")
    with hold(folder, name=REPORT_LOCK):
        check_study(folder, accept=accept_changes, may_lack=MADE_AGAIN, say=say)
        if old := unsealed_runs(folder):
            say(
                f"{len(old)} finished runs have no manifest.json, written by an earlier version: changes cannot be detected"
            )
        return _write_results(folder)


def audit(
    base: str,
    tuned: Sequence[str],
    *,
    task: str,
    out: PathLike,
    retention: Sequence[str] = (),
    limit: int | None = None,
    data_dir: PathLike | None = None,
    drift: DriftChoice | None = None,
    model_settings: ModelSettings | None = None,
    reporter: Reporter | None = None,
    accept_changes: bool = False,
) -> list[Audit]:
    """What finished models or adapters gained, lost and changed against their base (docs/guides/audit.md); writes a report.

    Args:
        base: The model before: "embedded", a folder or a hub id.
        tuned: Models, adapters or runs, each a folder or a hub id.
        task: What they were tuned for; answered in free text.
        out: The folder of the audit, a study's folder in which nothing is trained.
        retention: Tasks that should not have suffered.
        limit: Evaluate so many items of each task. Default: all.
    """
    from stateshape.core.study_records import Audit
    from stateshape.study.audit import audit_file

    file = audit_file(base, tuned, task=task, retention=retention, limit=limit, drift=drift, settings=model_settings)
    run_study(file, out=out, data_dir=data_dir, reporter=reporter, accept_changes=accept_changes)
    return read_json(Path(out) / layout.AUDIT, list[Audit])


def publish(
    source: PathLike,
    *,
    to: PathLike | None = None,
    hub_model_id: str | None = None,
    hub_dataset_id: str | None = None,
    states: bool = False,
    base_model: str | None = None,
    is_private: bool = False,
) -> str:
    """A finished run as a model with its card, or its states, or a study as a dataset (docs/guides/publish.md).

    Args:
        source: A run's folder, or a study's.
        to: A new folder to write the files to. Give this, or one of the two ids on the hub.
        states: Publish the run's recorded states instead of its weights.
        base_model: The base as others find it. Default: as in the run's record.

    Returns: the folder, or the repository's address.
    """
    from stateshape.study import publish as files

    folder, is_study = Path(source), (Path(source) / layout.PLAN).exists()
    repository, is_dataset = hub_model_id or hub_dataset_id, states or is_study
    if (hub_model_id if is_dataset else hub_dataset_id) is not None:
        wanted = (
            "--hub-dataset-id: states and studies are datasets" if is_dataset else "--hub-model-id: a run is a model"
        )
        raise BadInput(f"hub: got {shown(repository)} for {folder}; expected {wanted}")
    if is_study and states:
        raise BadInput(f"states: {folder} is a study; expected the folder of one of its runs")
    about = _published(folder, repository, base_model, is_study=is_study)
    if repository is not None and not is_dataset and Path(about.base).exists():
        raise BadInput(
            f"base_model: got {about.base}, a folder of this machine; expected a name by which others find the base; give "
            "--base-model OWNER/NAME"
        )
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(to) if to is not None else Path(temporary) / "published"
        files.check_target(target)
        _write_published(about, target, states=states)
        if repository is None:
            return str(target)
        return files.upload(target, repository, "dataset" if is_dataset else "model", is_private=is_private)


@contextlib.contextmanager
def reporting(reporter: Reporter | None) -> Iterator[Reporter]:
    """The reporter that is given, or the one for where this runs, which is stopped at the end."""
    from stateshape.views.progress import default_reporter

    told = reporter or default_reporter()
    try:
        yield told
    finally:
        if reporter is None:
            told.stop()


def _published(folder: Path, repository: str | None, base_model: str | None, *, is_study: bool) -> Published:
    """What a card needs. Raises BadInput for a run that is not finished, and a study that was not compared."""
    from stateshape.report.cards import Published
    from stateshape.report.study_files import read_study_folder
    from stateshape.study.publish import check_run

    record = None if is_study else check_run(folder)
    study_folder = folder if is_study else layout.study_of(folder)
    is_compared = (study_folder / layout.COMPARISON).exists()
    if is_study and not is_compared:
        raise BadInput(f"source: {folder} has no {layout.COMPARISON}; expected a study that was compared; run it first")
    study = read_study_folder(study_folder) if is_compared else None
    own = record.name if record is not None else study.plan.study if study is not None else ""
    base = record.model if record is not None else study.plan.model if study is not None else ""
    name = (repository or own).split("/")[-1]
    return Published(
        folder=folder, record=record, study=study, name=name, base=base_model or base, repository=repository
    )


def _write_published(about: Published, target: Path, *, states: bool) -> None:
    from stateshape.report.cards import model_card, states_card, study_card
    from stateshape.study import publish as files

    if about.record is None:
        files.write_study(about.folder, target, card=study_card(about))
    elif states:
        files.write_states(about.folder, target, card=states_card(about))
    else:
        files.write_model(about.folder, about.record, target, base=about.base, card=model_card(about))


def _write_results(folder: Path) -> Path:
    """What is made from a study's record files, in the one order that there is."""
    from stateshape.analysis.compare import write_comparison
    from stateshape.analysis.dose_report import write_dose_report
    from stateshape.report.write import write_report
    from stateshape.study.state_map import write_state_map

    write_comparison(folder)
    write_dose_report(folder)
    write_state_map(folder)
    return write_report(folder)
