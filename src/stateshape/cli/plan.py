"""A study's plan in words, for --dry-run: runs, teachers, steps, tokens, and the smallest detectable effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.table import Table

from stateshape.cli.show import console
from stateshape.core.study_records import PlannedRun, PlanRecord, TaskRecord

if TYPE_CHECKING:
    from stateshape.study.plan import Plan
    from stateshape.tasks.task import GenerationTask, Task


def print_plan(
    plan: Plan, target: GenerationTask, data: Mapping[str, GenerationTask], protects: Mapping[str, Task]
) -> None:
    """Runs, teachers, steps and an upper estimate of tokens; what is protected is not among them."""
    from stateshape.study.context import data_of
    from stateshape.study.protection import told
    from stateshape.study.workload import token_estimate

    file = plan.file
    table = Table(title=f"{file.study}: {file.model}, seeds {', '.join(map(str, file.seeds))}", title_justify="left")
    for name in ("run", "recipe", "teacher", "steps", "prompts per step", "supervised tokens <=", "sampled tokens <="):
        table.add_column(name)
    for spec in plan.trained:
        task = data_of(spec, target, data)
        steps = spec.train.num_steps(len(task.train))
        supervised, sampled = token_estimate(spec, task, steps)
        table.add_row(
            spec.name, spec.recipe_name, spec.teacher or "-", f"{steps:,}", str(spec.train.batch_prompts),
            f"{supervised:,}", f"{sampled:,}",
        )  # fmt: skip
    console().print(table)
    for spec in plan.trained:
        if spec.start is not None:
            console().print(f"{spec.name} goes on from the adapter of {spec.start}", markup=False)
    for line in told(plan.trained, protects):
        console().print(line, markup=False)
    print_full(plan)
    for checkpoint in plan.checkpoints:
        console().print(f"{checkpoint.name} is loaded, not trained: {checkpoint.checkpoint}", markup=False)
    choices = [("target", file.target), *(("retention", choice) for choice in file.retention)]
    for role, choice in choices:
        samples = (
            f", and {choice.samples.n} samples each at temperature {choice.samples.temperature:g}"
            if choice.samples
            else ""
        )
        console().print(f"{role}: {choice.task}, items: {choice.limit or 'all'}, shots: {choice.shots}{samples}")
    if file.along is not None:
        around = "".join(f"; 2 around {distance:g} nats" for distance in file.along.around)
        items = f"{file.along.limit} items" if file.along.limit is not None else "all items"
        console().print(
            f"along: at most {file.along.most} points per run ({file.along.spacing}{around}), {items} of each task at each"
        )
    console().print(
        f"drift: {file.drift.prompts} rollouts x {file.drift.cuts} prefix states per run; plan {plan.sha256[:12]}"
    )


def print_full(plan: Plan) -> None:
    """Runs that train all parameters, and the memory that one at a time takes."""
    from stateshape.policy.memory import in_words, planned_memory

    names = [spec.name for spec in plan.trained if spec.train.is_full]
    if not names:
        return
    memory = planned_memory(plan.file.model, plan.file.model_settings)
    told = "trains all parameters; how much memory that takes shows once the model is here"
    console().print(f"{', '.join(names)}: {told if memory is None else in_words(memory)}", markup=False)


def print_resolvable(plan: Plan, tasks: Sequence[Task]) -> None:
    """The smallest effect that each claim could detect at these sizes."""
    from stateshape.analysis.resolution import resolvable, resolvable_text
    from stateshape.study.describe import task_record

    records = [task_record(task) for task in tasks]
    print()
    print(resolvable_text(resolvable(plan_sizes(plan, records[0], records[1:]))))


def plan_sizes(plan: Plan, target: TaskRecord, retention: list[TaskRecord]) -> PlanRecord:
    """The record of a plan as far as it is known before a model is loaded."""
    from stateshape.study.describe import planned_run
    from stateshape.study.plan_claims import claims_by_task_name, recorded_claims

    base = PlannedRun(name="base", label="base", method=None, teacher=None, settings={})
    runs = [replace(planned_run(spec, plan.file), label=spec.name, method=None, settings={}) for spec in plan.runs]
    file = plan.file
    claims = claims_by_task_name(file, [task.name for task in (target, *retention)])
    return PlanRecord(
        study=file.study, model=file.model, seeds=file.seeds, target=target, retention=retention, runs=[base, *runs],
        plan_sha256=plan.sha256, provenance={}, roles=file.roles,
        num_along=0 if file.along is None else file.along.most,
        along_limit=None if file.along is None else file.along.limit,
        claims=recorded_claims([], claims, now="", runs_begun=0),
    )  # fmt: skip
