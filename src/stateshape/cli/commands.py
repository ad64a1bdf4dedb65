"""What each command does: read the arguments, call the rooms below, print. Heavy imports happen inside."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from stateshape.cli.arguments import data_folder
from stateshape.cli.costs import time_split
from stateshape.core.files import BadInput, check_output
from stateshape.core.locks import hold

if TYPE_CHECKING:
    from stateshape.core.progress import Reporter
    from stateshape.core.records import EvaluationRecord, OperatorCost, PhaseCost
    from stateshape.policy.settings import ModelSettings
    from stateshape.recipes.recipe import Recipe
    from stateshape.tasks.task import Task
    from stateshape.train.settings import TrainSettings


def out_folder(given: str) -> Path:
    """--out as a folder that can be written to. Raises BadInput."""
    if not given.strip():
        raise BadInput(f"out: got {given!r}; expected the name of a folder (an unset variable of the shell?)")
    check_output(Path(given))
    return Path(given)


def train(
    name: str,
    recipe: Recipe,
    *,
    model: str,
    task: str,
    out: str,
    seed: int,
    data: str | None,
    settings: TrainSettings,
    model_settings: ModelSettings,
    profile: bool,
    quiet: bool,
    json_events: bool,
) -> None:
    """Train one method with LoRA and leave a run folder. The same command resumes a run that was stopped.

    Args:
        recipe: The method.
        model: 'embedded', a local folder, or a hub id.
        task: Task whose training prompts are used: gsm8k, arithmetic, or a .jsonl file.
        out: The run folder.
        seed: Decides data order, adapter initialisation and sampling.
        data: Folder with the official data files; default: $STATESHAPE_DATA, else the hub.
        settings: Optimiser, batch, length.
        model_settings: Device, dtype, compile.
        profile: Print where time and memory went, and write profile.json; runs one step more, without its update.
        quiet: Say nothing while working.
        json_events: Say what happens as JSON lines on stderr.
    """
    from stateshape.cli.terminal import reporter_for
    from stateshape.study.single import train_single

    folder = out_folder(out)
    operators: dict[str, dict[str, list[OperatorCost]]] | None = {} if profile else None
    reporter = reporter_for(quiet=quiet, json_events=json_events)
    try:
        record = train_single(
            name, recipe, model=model, task_name=task, folder=folder, seed=seed, data_dir=data_folder(data),
            settings=settings, model_settings=model_settings, reporter=reporter, operators=operators,
        )  # fmt: skip
    finally:
        reporter.stop()
    if not quiet:
        print(time_split(record.seconds, record.num_supervised_tokens, record.num_sampled_tokens))
        print(f"run folder: {out}")
    if operators is not None:
        from stateshape.cli.costs import write_profile

        with hold(folder):
            write_profile(
                folder / "profile.json", record.phases(), operators, provenance=record.provenance, quiet=quiet
            )


def evaluate_into(
    folder: Path,
    source: str,
    task: Task,
    about: EvaluationRecord,
    settings: ModelSettings,
    *,
    overwrite: bool,
    profile: bool,
    quiet: bool,
    reporter: Reporter,
) -> None:
    """The evaluation itself: rows, summary, what is printed, and the profile."""
    from stateshape.evals.evaluate import evaluate as evaluate_task
    from stateshape.evals.evaluate import summarise, write_evaluation
    from stateshape.policy.open import open_policy
    from stateshape.study.evaluation import check_same_evaluation, on_machine

    policy = open_policy(source, settings)
    about = on_machine(about, policy.weights)
    if not overwrite:
        check_same_evaluation(folder, task.name, about)
    costs: dict[str, PhaseCost] = {}
    with policy.weights.meter.phase("evaluation", costs):
        rows = evaluate_task(
            policy, task, progress=reporter.track(f"evaluate on {task.name}", "items", policy.weights.meter)
        )
    summary = summarise(rows, task.metrics)
    write_evaluation(folder, task.name, rows, summary, about)
    if not quiet:
        for metric, found in summary.items():
            interval = "" if found.ci95 is None else f"  95% [{found.ci95[0]:.3f}, {found.ci95[1]:.3f}]"
            value = "missing" if found.value is None else f"{found.value:.4f}"
            print(f"{task.name} {metric}: {value}{interval}  n={found.n}")
        print(f"rows: {folder / 'evals' / (task.name + '.jsonl')}")
    if profile:
        from stateshape.cli.costs import profile_evaluation

        path = folder / "evals" / f"{task.name}.profile.json"
        profile_evaluation(path, source, policy, task, costs["evaluation"], quiet=quiet)


def study(
    preset_or_file: tyro.conf.Positional[str],
    *,
    out: str | None = None,
    seeds: str | None = None,
    model: str | None = None,
    data: str | None = None,
    full: bool = False,
    dry_run: bool = False,
    jobs: int | None = None,
    accept_changes: bool = False,
    profile: bool = False,
    quiet: bool = False,
    json_events: bool = False,
) -> None:
    """Run a whole study: train, evaluate, measure drift, compare, report. Running it again resumes.

    Args:
        preset_or_file: A YAML file, or a preset: quickstart, smoke, laptop, paper, controls, predictors,
            same_states, same_signal, same_signal_far.
        out: The study's folder. Needed unless --dry-run.
        seeds: Training seeds, separated by commas. Default: the study's own.
        model: Another base than the study's: a folder or a hub id.
        data: Folder with the official data files; default: $STATESHAPE_DATA, else the hub.
        full: Evaluate on all items instead of the study's limits.
        dry_run: Print the plan (runs, teachers, steps, tokens) and stop.
        jobs: Runs at a time, each in a process with its share of the threads. Default: one a thread for several seeds of
            a small model on a CPU, else 1.
        accept_changes: Go on with files that were changed after they were finished, put that on record and into the report.
        profile: Print where time and memory went, and write profile.json; runs one step more of each run it trains, one
            run at a time.
        quiet: Say nothing while working.
        json_events: Say what happens as JSON lines on stderr.
    """
    from stateshape.cli.study import run_study

    run_study(
        preset_or_file, out=None if out is None or dry_run else out_folder(out), seeds=seeds, model=model,
        data_dir=data_folder(data), full=full, dry_run=dry_run, jobs=jobs, accept_changes=accept_changes, profile=profile,
        quiet=quiet, json_events=json_events,
    )  # fmt: skip


def report(folder: tyro.conf.Positional[str], *, accept_changes: bool = False) -> None:
    """Rebuild comparison, verdicts, tables and report of a study from its files alone, also while it runs.

    Args:
        folder: The study's folder.
        accept_changes: Go on with files that were changed after they were finished, put that on record and into the report.
    """
    from stateshape.cli.study import rebuild_results

    print(f"report: {rebuild_results(Path(folder), accept_changes=accept_changes)}")
