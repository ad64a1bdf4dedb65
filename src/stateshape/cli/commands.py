"""What each command does: read the arguments, call the rooms below, print. Heavy imports happen inside."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from stateshape.core.files import BadInput, check_output, plain
from stateshape.core.limits import check_most
from stateshape.core.locks import hold, hold_beside
from stateshape.core.wording import MAX_PATH, shown

if TYPE_CHECKING:
    from stateshape.core.records import DriftRecord, EvaluationRecord, OperatorCost, PhaseCost
    from stateshape.policy.settings import ModelSettings
    from stateshape.recipes.recipe import Recipe
    from stateshape.study.progress import Reporter
    from stateshape.tasks.task import Task
    from stateshape.train.settings import TrainSettings

DATA_VARIABLE = "STATESHAPE_DATA"


def data_folder(given: str | None) -> Path | None:
    """--data, or the environment's STATESHAPE_DATA; None: read from the hub."""
    chosen = given or os.environ.get(DATA_VARIABLE)
    if chosen is None:
        return None
    if not os.path.isdir(chosen):  # unlike Path.is_dir, also False for a name that is too long
        raise BadInput(
            f"data: got {shown(chosen, limit=MAX_PATH)}, which is not a folder; expected one that holds "
            "gsm8k/, truthfulqa/, mmlu/"
        )
    return Path(chosen)


def out_folder(given: str) -> Path:
    """--out as a folder that can be written to. Raises BadInput."""
    if not given.strip():
        raise BadInput(f"out: got {given!r}; expected the name of a folder (an unset variable of the shell?)")
    check_output(Path(given))
    return Path(given)


def methods(json_output: Annotated[bool, tyro.conf.arg(name="json")] = False) -> None:
    """The methods by state source, signal and loss (the paper's Table 1), and every cell of the grid or why it is none.

    Args:
        json_output: Print JSON instead of tables.
    """
    from rich.console import Console

    from stateshape.cli.methods import cells, grid_table, methods_table
    from stateshape.recipes.recipe import all_methods

    if json_output:
        print(json.dumps({"methods": plain(all_methods()), "grid": [cell._asdict() for cell in cells()]}, indent=1))
        return
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(methods_table())
    console.print(grid_table())


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
        from stateshape.cli.profile import write_profile

        with hold(folder):
            write_profile(
                folder / "profile.json", record.phases(), operators, provenance=record.provenance, quiet=quiet
            )


def evaluate(
    source: tyro.conf.Positional[str],
    *,
    task: str,
    out: str,
    data: str | None = None,
    limit: int | None = None,
    shots: int = 0,
    max_new_tokens: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    accept_changes: bool = False,
    profile: bool = False,
    quiet: bool = False,
    json_events: bool = False,
) -> None:
    """Evaluate a model or a run on a task: one row an item, and a summary with intervals.

    Args:
        source: 'embedded', a model folder, a hub id, a run folder or an adapter folder.
        task: gsm8k, truthfulqa, mmlu, arithmetic, facts, exam, or a .jsonl file.
        out: Folder; writes evals/<task>.jsonl and evals/summary.json in it.
        data: Folder with the official data files; default: $STATESHAPE_DATA, else the hub.
        limit: Number of items: the first N; for exams N stratified by subject. Default: all.
        shots: Worked examples in the prompt.
        max_new_tokens: Longest completion, in tokens. Default: the task's own (docs/tasks.md).
        device: auto, cpu, cuda, cuda:N.
        dtype: auto, float32, bfloat16, float16.
        overwrite: Replace an evaluation of another model, other data or other settings, which is refused otherwise.
        accept_changes: Go on with a run's files that were changed after it was finished, and put that on record.
        profile: Print where time and memory went, and write evals/<task>.profile.json; evaluates a few items again.
        quiet: Say nothing while working.
        json_events: Say what happens as JSON lines on stderr.
    """
    from stateshape.cli.terminal import reporter_for
    from stateshape.policy.open import resolve
    from stateshape.study.evaluation import claim_evaluation, planned_evaluation
    from stateshape.tasks.load import check_evaluable, load_task

    folder = out_folder(out)
    check_output(folder / "evals")
    chosen = load_task(task, data_dir=data_folder(data), limit=limit, shots=shots, max_new_tokens=max_new_tokens)
    check_evaluable(chosen)
    settings = model_settings_from(device, dtype)
    reporter = reporter_for(quiet=quiet, json_events=json_events)
    with hold(folder):
        about = planned_evaluation(resolve(source), chosen, named=task, limit=limit, shots=shots)
        claim_evaluation(
            folder, source, about, chosen.name, overwrite=overwrite, accept=accept_changes, say=reporter.say
        )
        evaluate_into(
            folder,
            source,
            chosen,
            about,
            settings,
            overwrite=overwrite,
            profile=profile,
            quiet=quiet,
            reporter=reporter,
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
        from stateshape.cli.profile import profile_evaluation

        path = folder / "evals" / f"{task.name}.profile.json"
        profile_evaluation(path, source, policy, task, costs["evaluation"], quiet=quiet)


def drift(
    a: tyro.conf.Positional[str],
    b: tyro.conf.Positional[str],
    *,
    task: str,
    data: str | None = None,
    prompts: int = 128,
    cuts: int = 2,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    hidden: bool = True,
    encoder: str | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = False,
    quiet: bool = False,
) -> None:
    """How far the states of B lie from those of A, beside A against A with another sampling seed.

    Args:
        a: The reference: model or run.
        b: The other: model or run.
        task: Task whose last training prompts are rolled out.
        data: Folder with the official data files; default: $STATESHAPE_DATA, else the hub.
        prompts: Rollouts a side.
        cuts: Prefix states a rollout.
        max_new_tokens: Longest rollout, in tokens.
        temperature: Sampling temperature.
        hidden: Also on hidden states of A's untrained base.
        encoder: Also on the embeddings of this sentence-transformers model.
        seed: Sampling seed.
        device: auto, cpu, cuda, cuda:N.
        dtype: auto, float32, bfloat16, float16.
        json_output: Print JSON instead of a table.
        quiet: Say nothing while working.
    """
    from stateshape.cli.terminal import reporter_for
    from stateshape.study.plan import DriftChoice
    from stateshape.study.single import drift_between

    choice = DriftChoice(
        prompts=prompts,
        cuts=cuts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        hidden=hidden,
        encoder=encoder,
    )
    record = drift_between(
        a, b, task_name=task, data_dir=data_folder(data), choice=choice, seed=seed,
        model_settings=model_settings_from(device, dtype),
        reporter=reporter_for(quiet=quiet or json_output, json_events=False),
    )  # fmt: skip
    if json_output:
        print(json.dumps(plain(record), indent=1))
        return
    print_drift(record)


def print_drift(record: DriftRecord) -> None:
    """A line for each distance: its value and interval, its null, and the reference against itself."""
    print(f"{record.num_states} states a side from {record.num_prompts} prompts of {record.task}; {record.features}")
    heads = ("value", "95% from", "to", "null mean", "null sd", "z", "p", "A vs A")
    print(f"{'distance':28s}" + "".join(f"{head:>11s}" for head in heads))
    for name, one in record.distances.items():
        numbers = (one.value, one.lo, one.hi, one.null_mean, one.null_sd, one.z, one.p, one.base_vs_base)
        shown = ["-" if value is None else f"{value:.4g}" for value in numbers]
        print(
            f"{name:28s}" + "".join(f"{text:>11s}" for text in shown) + (f"  {one.note}" if one.value is None else "")
        )


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
    from stateshape.cli.study_command import run_study

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
    from stateshape.cli.study_command import rebuild_results

    print(f"report: {rebuild_results(Path(folder), accept_changes=accept_changes)}")


def doctor(
    *, model: str, teacher: str | None = None, device: str = "auto", dtype: str = "auto", rank: int = 32
) -> None:
    """Check a model, and a teacher beside it, before any time is spent on them.

    Args:
        model: 'embedded', a model folder, a hub id, a run folder or an adapter folder.
        teacher: A model or run that is to teach it.
        device: auto, cpu, cuda, cuda:N.
        dtype: auto, float32, bfloat16, float16.
        rank: LoRA rank for the memory estimate.
    """
    from stateshape.study.doctor import examine

    check_most(rank=rank)
    for line in examine(model, teacher, settings=model_settings_from(device, dtype), rank=rank):
        print(line)


def embedded(
    what: tyro.conf.Positional[str],
    *,
    out: str,
    steps: int | None = None,
    seed: int | None = None,
    threads: int = 2,
    overwrite: bool = False,
) -> None:
    """Train the embedded base anew from its generated world.

    Args:
        what: train.
        out: Folder for the model and its tokenizer.
        steps: Optimiser steps. Default: those of the packaged base.
        seed: Seed of world order and initialisation. Default: that of the packaged base.
        threads: CPU threads; another number gives other bits.
        overwrite: Replace a base that was trained with other steps, seed or threads, which is refused otherwise.
    """
    from stateshape.embedded.train import DEFAULT_SEED, DEFAULT_STEPS, check_replaces, train_base

    if what != "train":
        raise BadInput(f"embedded: got {shown(what)}; expected train")
    for name, value in (("steps", steps), ("threads", threads)):
        if value is not None and value < 1:
            raise BadInput(f"{name}: got {value}; expected a number above 0")
        check_most(**{name: value})
    folder = out_folder(out)
    steps, seed = DEFAULT_STEPS if steps is None else steps, DEFAULT_SEED if seed is None else seed
    with hold_beside(folder):
        if not overwrite:
            check_replaces(folder, steps=steps, seed=seed, threads=threads)
        made = train_base(
            out_dir=folder, steps=steps, seed=seed, threads=threads, say=lambda line: print(line, file=sys.stderr)
        )
    print(json.dumps({key: str(value) if isinstance(value, Path) else value for key, value in made._asdict().items()}))


def model_settings_from(device: str, dtype: str) -> ModelSettings:
    from stateshape.core.files import parse
    from stateshape.policy.settings import ModelSettings

    return parse({"device": device, "dtype": dtype}, ModelSettings, where="command line")


def time_split(seconds: dict[str, float], supervised: int, sampled: int) -> str:
    """One line: where the time went, and the rates that follow."""
    total = sum(seconds.values())
    parts = [f"{name} {value:.1f} s ({value / max(total, 1e-9):.0%})" for name, value in seconds.items()]
    rates = []
    sampling_s, training_s = seconds.get("sampling", 0.0) + seconds.get("signal", 0.0), seconds.get("training", 0.0)
    if sampled and sampling_s:
        rates.append(f"sampling {sampled / sampling_s:,.0f} tokens/s")
    if supervised and training_s:
        rates.append(f"training {supervised / training_s:,.0f} supervised tokens/s")
    return "time: " + ", ".join(parts) + ("; " + ", ".join(rates) if rates else "")
