"""`stateshape study`: plan, run, compare, report; and the plan in words for --dry-run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from stateshape.core.files import BadInput, check_output, read_json
from stateshape.core.locks import REPORT_LOCK, hold
from stateshape.core.study_records import Comparison, PlannedRun, PlanRecord, TaskRecord
from stateshape.core.wording import shown

if TYPE_CHECKING:
    from stateshape.study.execute import Operators
    from stateshape.study.plan import Plan, RunSpec
    from stateshape.tasks.task import GenerationTask, Task


def run_study(
    preset_or_file: str,
    *,
    out: Path | None,
    seeds: str | None,
    model: str | None,
    data_dir: Path | None,
    full: bool,
    dry_run: bool,
    jobs: int | None,
    accept_changes: bool,
    profile: bool,
    quiet: bool,
    json_events: bool,
) -> None:
    from stateshape.cli.terminal import reporter_for
    from stateshape.study.execute import REPORT_S, execute, load_tasks
    from stateshape.study.plan import make_plan, read_study, with_seeds
    from stateshape.study.state_map import write_state_map

    file = read_study(preset_or_file)
    if model is not None:
        file = replace(file, model=model)
    if seeds is not None:
        file = with_seeds(file, parse_seeds(seeds))
    if full:
        file = replace(
            file,
            target=replace(file.target, limit=None),
            retention=[replace(choice, limit=None) for choice in file.retention],
        )
    plan = make_plan(file)
    if dry_run:
        target, retention = load_tasks(file, data_dir)
        print_plan(plan, target)
        print_resolvable(plan, [target, *retention])
        return
    if out is None:
        raise BadInput("out: got nothing; expected --out DIR, the folder the study is written to")
    reporter = reporter_for(quiet=quiet, json_events=json_events)
    operators: Operators | None = {} if profile else None
    with hold(out):
        try:
            execute(
                plan, out, data_dir=data_dir, reporter=reporter, jobs=jobs, operators=operators,
                accept_changes=accept_changes,
            )  # fmt: skip
        finally:
            reporter.stop()
        with hold(out, name=REPORT_LOCK, wait_s=REPORT_S):
            write_state_map(out)
            path = write_results(out)
        if not quiet:
            print_results(out)
            print(f"report: {path}")
        if operators is not None:
            profile_study(out, operators, quiet=quiet)


def parse_seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"seeds: got {shown(text)}; expected whole numbers separated by commas, like 0,1,2") from None


def rebuild_results(folder: Path, *, accept_changes: bool) -> Path:
    """`report`: the results of a study again, from files that are as they were when they were finished. Raises BadInput."""
    from stateshape.study.sealed import COMPARED, check_study, unsealed_runs

    if not (folder / "plan.json").exists():
        raise BadInput(f"study: {folder} holds no plan.json; expected the folder of a study")
    check_output(folder, where="folder")
    with hold(folder, name=REPORT_LOCK):
        check_study(folder, accept=accept_changes, may_lack=COMPARED, say=say)
        if old := unsealed_runs(folder):
            say(
                f"{len(old)} finished runs have no manifest.json, as an earlier version left them: changes can't be noticed"
            )
        return write_results(folder)


def say(text: str) -> None:
    print(text, file=sys.stderr)


def write_results(folder: Path) -> Path:
    """Comparison, verdicts, tables, plots and report, from the study's files alone."""
    from stateshape.analysis.compare import write_comparison
    from stateshape.report.write import write_report

    write_comparison(folder)
    return write_report(folder)


def print_results(folder: Path) -> None:
    from stateshape.cli.costs import time_split
    from stateshape.report.parts.tables import render_text, table1, table2
    from stateshape.report.study_files import read_study

    console = Console(width=None if sys.stdout.isatty() else 160)
    plan = read_json(folder / "plan.json", PlanRecord)
    comparison = read_json(folder / "comparison.json", Comparison)
    console.print(render_text(table1(plan)))
    console.print(render_text(table2(plan, comparison)))
    study = read_study(folder)
    for verdict in study.verdicts:
        if verdict.outcome != "not asked":
            console.print(f"{verdict.claim_id} {verdict.outcome:13s} {verdict.claim}", highlight=False, markup=False)
    seconds: dict[str, float] = {}
    supervised = sampled = 0
    records = [seed.record for run in study.runs for seed in run.seeds if seed.record is not None]
    for record in records:
        supervised += record.num_supervised_tokens
        sampled += record.num_sampled_tokens
        for name, value in record.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + value
    print(time_split(seconds, supervised, sampled))


def profile_study(folder: Path, operators: Operators, *, quiet: bool) -> None:
    from stateshape.cli.costs import write_profile
    from stateshape.report.parts.costs import phase_table
    from stateshape.report.study_files import read_study

    study = read_study(folder)
    records = [seed.record for run in study.runs for seed in run.seeds if seed.record is not None]
    phases = [phase for record in records for phase in record.phases()]
    write_profile(
        folder / "profile.json",
        phases,
        operators,
        provenance=study.plan.provenance,
        table=phase_table(study),
        quiet=quiet,
    )


def print_plan(plan: Plan, target: GenerationTask) -> None:
    """Runs, teachers, steps and an upper estimate of tokens."""
    file = plan.file
    table = Table(title=f"{file.study}: {file.model}, seeds {', '.join(map(str, file.seeds))}", title_justify="left")
    for name in ("run", "recipe", "teacher", "steps", "prompts a step", "supervised tokens <=", "sampled tokens <="):
        table.add_column(name)
    for spec in plan.runs:
        steps = spec.train.num_steps(len(target.train))
        supervised, sampled = token_estimate(spec, target, steps)
        table.add_row(
            spec.name, spec.recipe_name, spec.teacher or "-", f"{steps:,}", str(spec.train.batch_prompts),
            f"{supervised:,}", f"{sampled:,}",
        )  # fmt: skip
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    choices = [("target", file.target), *(("retention", choice) for choice in file.retention)]
    for role, choice in choices:
        console.print(f"{role}: {choice.task}, items: {choice.limit or 'all'}, shots: {choice.shots}")
    console.print(
        f"drift: {file.drift.prompts} rollouts x {file.drift.cuts} prefix states a run; plan {plan.sha256[:12]}"
    )


def print_resolvable(plan: Plan, tasks: Sequence[Task]) -> None:
    """What each claim could see at these sizes."""
    from stateshape.analysis.resolution import resolvable, resolvable_text
    from stateshape.study.describe import task_record

    records = [task_record(task) for task in tasks]
    print()
    print(resolvable_text(resolvable(plan_sizes(plan, records[0], records[1:]))))


def plan_sizes(plan: Plan, target: TaskRecord, retention: list[TaskRecord]) -> PlanRecord:
    """The record of a plan as far as it is known before a model is loaded."""
    base = PlannedRun(name="base", label="base", method=None, teacher=None, settings={})
    runs = [PlannedRun(name=s.name, label=s.label, method=None, teacher=s.teacher, settings={}) for s in plan.runs]
    file = plan.file
    return PlanRecord(
        study=file.study, model=file.model, seeds=file.seeds, target=target, retention=retention, runs=[base, *runs],
        plan_sha256=plan.sha256, provenance={}, roles=file.roles,
    )  # fmt: skip


CHARACTERS_A_TOKEN = 3.0  # of worked solutions under common BPE vocabularies; only used to estimate a plan's size


def token_estimate(spec: RunSpec, target: GenerationTask, steps: int) -> tuple[int, int]:
    """(supervised, sampled) tokens of one run: upper limits for what is sampled, an estimate for worked solutions."""
    from stateshape.recipes.recipe import Budgeted, TokenBudget

    rows = steps * spec.train.batch_prompts
    recipe = spec.recipe()
    budget = recipe.tokens_per_prompt() if isinstance(recipe, Budgeted) else TokenBudget(supervised=0, sampled=0)
    supervised = rows * budget.supervised
    if "solutions" in spec.recipe_class.needs:
        texts = [item.completion or "" for item in target.train[:200]]
        solutions = int(rows * sum(map(len, texts)) / max(len(texts), 1) / CHARACTERS_A_TOKEN)
        supervised = max(supervised, solutions)
    if spec.train.supervised_per_step is not None:
        supervised = min(supervised, steps * spec.train.supervised_per_step)
    return supervised, rows * budget.sampled
