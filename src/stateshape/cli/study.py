"""`stateshape study` and `stateshape report`: run a study, compare its runs, report; print what came out."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from stateshape.cli.arguments import check_models, data_folder, out_folder
from stateshape.core import layout
from stateshape.core.files import BadInput
from stateshape.core.locks import hold
from stateshape.core.wording import shown

if TYPE_CHECKING:
    from stateshape.core.records import Operators
    from stateshape.study.plan import Plan


def study(
    preset_or_file: tyro.conf.Positional[str],
    *,
    out: str | None = None,
    seeds: str | None = None,
    model: str | None = None,
    device: str | None = None,
    data: str | None = None,
    full: bool = False,
    dry_run: bool = False,
    jobs: int | None = None,
    executor: Literal["processes", "slurm", "ray"] | None = None,
    accept_changes: bool = False,
    profile: bool = False,
    quiet: bool = False,
    json_events: bool = False,
) -> None:
    """Run a whole study: train, evaluate, measure drift, compare, report. Running it again resumes.

    How far one is, from any machine that sees its folder: stateshape study status DIR.

    Args:
        preset_or_file: A YAML file, or a preset: quickstart, smoke, laptop, paper, controls, predictors,
            same_states, same_signal, same_signal_far, matched_sources, matched_sources_planted, line,
            two_by_two_by_two.
        out: The study's folder. Required without --dry-run.
        seeds: Training seeds, separated by commas. Default: the study's own.
        model: Use this base model instead of the study's: a folder or a hub id.
        device: auto, cpu, cuda, cuda:N. Default: the study's own (model_settings), else auto. Not part of the plan: a study
            begun on one device may continue on another; its further runs then have that device's rounding and, with dtype
            auto, its precision.
        data: Folder with the official data files; default: $STATESHAPE_DATA, else the hub.
        full: Evaluate all items; ignore the study's limits.
        dry_run: Print the plan (runs, teachers, steps, tokens) and what each claim could detect, and stop.
        jobs: Runs at the same time, each in its own process with a share of the threads, and a GPU of its own where there are
            as many. Default: one per thread for a small model with several seeds on a CPU, else 1. With slurm and ray: the
            most at a time, by default 1000.
        executor: Where runs are done: processes of this machine, jobs of slurm, or tasks of ray. Default: the study's
            own, else processes.
        accept_changes: Continue although finished files were changed; this is recorded and shown in the report.
        profile: Print time and memory per phase, and write profile.json; adds one step to each run it trains, and trains one
            run at a time.
        quiet: No progress output.
        json_events: Report progress as JSON lines on stderr.
    """
    from stateshape.api import plan_study
    from stateshape.api import run_study as run
    from stateshape.cli.results import print_results
    from stateshape.cli.terminal import reporter_for

    chosen = None if seeds is None else parse_seeds(seeds)
    if model is not None:
        check_models(model)
    plan = plan_study(preset_or_file, seeds=chosen, model=model, full=full)
    if dry_run:
        from stateshape.study.plan import on_device

        print_dry_run(on_device(plan, device), data_folder(data))
        return
    if out is None:
        raise BadInput("out: got nothing; expected --out DIR, the folder the study is written to")
    folder = out_folder(out)
    file = plan.file
    if executor is not None:
        file = replace(file, execute=replace(file.execute, executor=executor))
    reporter = reporter_for(quiet=quiet, json_events=json_events)
    operators: Operators | None = {} if profile else None
    try:
        run(
            file, out=folder, device=device, data_dir=data_folder(data), jobs=jobs, reporter=reporter, operators=operators,
            accept_changes=accept_changes,
        )  # fmt: skip
    finally:
        reporter.stop()
    if not quiet:
        print_results(folder)
    if operators is not None:
        with hold(folder):
            profile_study(folder, operators, quiet=quiet)


def report(folder: tyro.conf.Positional[str], *, accept_changes: bool = False) -> None:
    """Rebuild the comparison, verdicts, tables and report of a study from its files, also while it runs.

    Args:
        folder: The study's folder.
        accept_changes: Continue although finished files were changed; this is recorded and shown in the report.
    """
    from stateshape.api import report_study

    page = report_study(folder, accept_changes=accept_changes, say=lambda text: print(text, file=sys.stderr))
    print(f"report: {page}")


def print_dry_run(plan: Plan, data_dir: Path | None) -> None:
    """The runs with their steps and tokens, and the smallest effects that the study can resolve."""
    from stateshape.cli.plan import print_plan, print_resolvable
    from stateshape.study.claim_checks import check_scores
    from stateshape.study.context import load_data, load_tasks
    from stateshape.study.protection import load_protected

    target, retention = load_tasks(plan.file, data_dir)
    check_scores(plan.file, target, retention)
    protects = load_protected(plan, [target, *retention], data_dir)
    print_plan(plan, target, load_data(plan.file, [target, *retention], data_dir), protects)
    print_resolvable(plan, [target, *retention])
    print_before_paying(plan.file.model)


def print_before_paying(model: str) -> None:
    """What a first run needs, and how to find out the rest."""
    from stateshape.policy.fingerprint import folder_of

    if folder_of(model) is None:
        print(f"Not on this machine: the model {model}. It is downloaded from the hub when the study starts.")
    print(
        f"Memory and speed on this machine: stateshape doctor --model {shlex.quote(model)}. Training takes about the tokens "
        "above over its tokens/s; evaluation, drift and probes come on top."
    )


def parse_seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"seeds: got {shown(text)}; expected whole numbers separated by commas, like 0,1,2") from None


def profile_study(folder: Path, operators: Operators, *, quiet: bool) -> None:
    from stateshape.cli.costs import write_profile
    from stateshape.cli.results import records_of
    from stateshape.report.parts.costs import phase_table
    from stateshape.report.study_files import read_study_folder

    study = read_study_folder(folder)
    phases = [phase for record in records_of(study) for phase in record.phases()]
    write_profile(
        folder / layout.PROFILE,
        phases,
        operators,
        provenance=study.plan.provenance,
        table=phase_table(study),
        quiet=quiet,
    )
