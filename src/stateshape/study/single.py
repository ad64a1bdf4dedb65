"""One run, or one drift measurement, outside a study: the same parts, a folder of the user's choosing."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from stateshape.core import layout
from stateshape.core.files import BadInput, parse, plain
from stateshape.core.limits import check_most
from stateshape.core.locks import holds_files
from stateshape.core.manifest import check_unchanged
from stateshape.core.progress import Reporter
from stateshape.core.ranks import current
from stateshape.core.records import DriftRecord, Operators, RunRecord
from stateshape.core.sealed import check_source
from stateshape.core.seeds import seed_for
from stateshape.core.study_records import BASE
from stateshape.drift.measure import measure
from stateshape.evals.settings import EvalSettings
from stateshape.locality.settings import LocalitySettings
from stateshape.policy.open import check_teacher, open_beside, open_weights, policy_on
from stateshape.policy.policy import Policy
from stateshape.policy.settings import ModelSettings
from stateshape.policy.source import resolve, resolve_base
from stateshape.recipes.recipe import Recipe
from stateshape.recipes.replay import Replay
from stateshape.record.reading import Recording
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.served.choice import SamplerName, check_servers
from stateshape.states.recorded import steps_of_share
from stateshape.study.context import StudyContext
from stateshape.study.describe import planned_record
from stateshape.study.drift_rollouts import as_rollouts, encoders_of, sample_rollouts
from stateshape.study.eval_tasks import load_eval_tasks
from stateshape.study.folders import check_same_run, claimed_run, close_run, complete_run
from stateshape.study.opened import asked_by, opened_sampler
from stateshape.study.plan import Plan
from stateshape.study.preflight import check_chats, check_sources, check_training
from stateshape.study.protection import load_protected
from stateshape.study.run_spec import SOURCES, RunSpec, check_budget
from stateshape.study.study_file import AlongChoice, DriftChoice, StudyFile, TaskChoice
from stateshape.study.training import train_one
from stateshape.tasks.load import load_task
from stateshape.tasks.reading import Reading
from stateshape.tasks.task import GenerationTask
from stateshape.trackers.names import check_trackers
from stateshape.train.settings import TrainSettings


def train_single(
    name: str,
    recipe: Recipe,
    *,
    model: str,
    task_name: str,
    folder: Path,
    seed: int,
    data_dir: Path | None,
    settings: TrainSettings,
    model_settings: ModelSettings,
    reporter: Reporter,
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
    """Trains one run into `folder`; resumes or refuses what is there. Raises BadInput before the model loads.

    Args:
        operators: where given, filled with what a step spends its time on.
        along: keep the adapter at so many steps, the last one included.
        start: a run or adapter folder whose adapter it goes on from.
        locality: how closely it is watched; None: as by default.
        sampler, servers: what samples, and the addresses of vLLM servers.
        evals: how often and on what it is evaluated while it trains; None: not at all.
        report_to: experiment trackers.
    """
    check_most(seed=seed)
    check_sampler(sampler, servers)
    check_trackers(report_to)
    ranks = current()
    with contextlib.ExitStack() as claims:
        ranks.by_first(lambda: claim(folder, claims))
        task = generation_task(task_name, data_dir, reading=reading)
        plan = single_plan(name, recipe, model, task_name, settings, model_settings, along, start, locality)
        file = replace(
            plan.file,
            sampler=sampler,
            servers=list(servers),
            eval=parse(plain(evals or EvalSettings()), EvalSettings, where="command line"),
            report_to=list(report_to),
        )
        plan = plan._replace(file=file)
        plan = as_long_as_recorded(plan, task)
        spec = plan.trained[0]
        check_budget(spec)
        check_sources(plan, spec, task)
        check_training(spec, task)
        protects = load_protected(plan, [task], data_dir)
        eval_tasks = load_eval_tasks(plan.file, [task], data_dir)
        check_chats(plan, spec, task)
        planned = planned_record(plan, [task, *protects.values()], spec, seed, partial(stands_at, model))
        begun = ranks.by_first(lambda: check_same_run(folder, planned))
        if begun is not None and begun.is_complete:
            ranks.by_first(lambda: close_run(folder))
            return warned(begun, reporter)
        load = partial(open_weights, model, model_settings)
        with opened_sampler(asked_by(plan.file, folder), load) as (weights, opened):
            bench = StudyContext(
                plan=plan,
                folder=folder,
                weights=weights,
                target=task,
                retention=[],
                protects=protects,
                eval_tasks=eval_tasks,
                reporter=reporter,
                operators=operators,
                sampler=opened,
            )
            trained = train_one(bench, spec, seed, folder)
        return warned(ranks.by_first(lambda: complete_run(folder, trained)), reporter)


def as_long_as_recorded(plan: Plan, task: GenerationTask) -> Plan:
    """Where a replay's length is not given: one epoch, as of any run, or all recorded steps if these are fewer."""
    spec = plan.trained[0]
    recipe = spec.recipe()
    if not isinstance(recipe, Replay) or spec.train.steps is not None or spec.train.epochs is not None:
        return plan
    check_source(recipe.states)
    recorded = steps_of_share(Recording(Path(recipe.states)).num_steps, recipe.share)
    steps = min(spec.train.num_steps(len(task.train)), recorded)
    return plan._replace(runs=[spec._replace(train=replace(spec.train, steps=steps))])


def check_sampler(sampler: SamplerName, servers: Sequence[str]) -> None:
    """Whether what samples fits the servers that are given, and the processes there are. Raises BadInput."""
    check_servers(sampler, servers)
    count = current().count
    if sampler != "local" and count > 1:
        raise BadInput(
            f"sampler: got {sampler} with {count} processes; expected local: servers sample not to the same bits, and "
            "ranks must agree; sample locally, or train in one process"
        )


def claim(folder: Path, claims: contextlib.ExitStack) -> None:
    """The folder for this run alone, until `claims` is closed. Raises BadInput."""
    claims.enter_context(claimed_run(folder))
    if holds_files(folder) and not (folder / layout.RUN).exists():
        raise BadInput(f"out: {folder} is not empty and contains no run; expected a new or empty folder, or this run's")
    check_unchanged([folder])


def warned(record: RunRecord, reporter: Reporter) -> RunRecord:
    for warning in record.warnings:
        reporter.warn(warning)
    return record


def single_plan(
    name: str,
    recipe: Recipe,
    model: str,
    task_name: str,
    settings: TrainSettings,
    model_settings: ModelSettings,
    along: int | None = None,
    start: str | None = None,
    locality: LocalitySettings | None = None,
) -> Plan:
    """A plan of one run."""
    fields = plain(recipe)
    check_most(**fields)
    settings = parse(plain(settings), TrainSettings, where="command line")  # flags may be nan or inf
    sources = {key: fields.pop(key) for key in SOURCES if fields.get(key) is not None}
    # a folder called like the recipe is not this run itself
    sources = {key: str(Path(text).absolute()) if text == name else text for key, text in sources.items()}
    resolve_base(model)
    file = StudyFile(
        study=name,
        model=model,
        target=TaskChoice(task=task_name),
        retention=[],
        runs={},
        model_settings=model_settings,
        along=None if along is None else AlongChoice(points=along),
        locality=parse(plain(locality or LocalitySettings()), LocalitySettings, where="command line"),
    )
    start = str(Path(start).absolute()) if start == name else start
    spec = RunSpec(name, name, name, fields, sources, settings, type(recipe), start=start)
    return Plan(file=file, runs=[spec], sha256="")


def stands_at(model: str, source: str) -> str:
    return model if source == BASE else source


def drift_between(
    a: str,
    b: str,
    *,
    task_name: str,
    data_dir: Path | None,
    choice: DriftChoice,
    seed: int,
    model_settings: ModelSettings,
    reporter: Reporter,
    reading: Reading | None = None,
) -> DriftRecord:
    """Drift of `b` from `a` on fresh rollouts of the same prompts, and of `a` from itself with another seed."""
    task = generation_task(task_name, data_dir, reading=reading)
    if not task.train:
        raise BadInput(f"{task.name}: got no training rows; expected some, to sample rollouts from their prompts")
    check_source(a)
    check_source(b)
    resolved = resolve(a)
    check_teacher(resolved.model, b, model_settings)
    weights = open_weights(resolved.model, model_settings)
    reference = policy_on(weights, resolved, "a")
    other = open_beside(weights, b, model_settings, adapter_name="b")
    sides = []
    for policy, purpose in ((reference, "a"), (reference, "a again"), (other, "b")):
        tick = reporter.track(f"sample {purpose}", "prompts", policy.weights.meter)
        rolled = sample_rollouts(policy, task, choice, LocalSampler(), seed=seed_for(seed, purpose), tick=tick)
        sides.append(as_rollouts(rolled.pieces))
    return current().by_first(
        lambda: measure(
            sides[0],
            sides[1],
            sides[2],
            task=task.name,
            seed=seed,
            num_cuts=choice.cuts,
            encoders=encoders_of(choice, Policy(weights, None)),
        )
    )


def generation_task(
    name: str, data_dir: Path | None, *, limit: int | None = None, reading: Reading | None = None
) -> GenerationTask:
    task = load_task(name, data_dir=data_dir, limit=limit, reading=reading)
    if not isinstance(task, GenerationTask):
        raise BadInput(f"task: got {name!r}, which is multiple choice; expected one answered in free text, like gsm8k")
    return task
