"""Runs a plan: base first, then each seed's runs in order; trains, evaluates, samples, measures drift. Resumable anywhere.

A finished part is a file that exists; every file appears whole. Compares nothing across runs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from stateshape.core import layout
from stateshape.core.files import BadInput, check_output, write_json
from stateshape.core.limits import check_most
from stateshape.core.locks import REPORT_LOCK, SILENT_S, hold, remove_leftovers
from stateshape.core.manifest import rewriting
from stateshape.core.progress import Reporter, Silent
from stateshape.core.records import Operators
from stateshape.core.sealed import (
    MADE_AGAIN,
    check_record_is_there,
    check_study,
    is_finished,
    unsealed_runs,
)
from stateshape.core.seeds import seed_for
from stateshape.core.study_records import BASE
from stateshape.policy.device import resolve_device
from stateshape.policy.open import open_weights
from stateshape.policy.policy import Policy
from stateshape.policy.source import Resolved, resolve_base
from stateshape.policy.weights import SharedWeights
from stateshape.study.along import along_run, let_go
from stateshape.study.checkpoints import CheckpointSpec
from stateshape.study.claim_checks import check_scores
from stateshape.study.context import StudyContext, data_of, load_data, load_tasks
from stateshape.study.describe import plan_record, run_record
from stateshape.study.eval_tasks import load_eval_tasks
from stateshape.study.execute_choice import check_executor
from stateshape.study.executor import Executor, drive
from stateshape.study.flips import write_flips
from stateshape.study.folders import (
    check_data,
    check_plan,
    check_same_base,
    check_same_run,
    claimed_run,
    close_run,
    complete_run,
)
from stateshape.study.gpus import gpus_to_share
from stateshape.study.loaded import measure_checkpoint
from stateshape.study.measuring import evaluations, measure_drift, measure_drift_from_start, measured, roll
from stateshape.study.opened import asked_by, open_sampler, opened_sampler
from stateshape.study.pace import Pace
from stateshape.study.parallel import Processes
from stateshape.study.plan import Plan
from stateshape.study.preflight import check_chats, check_checkpoint, check_sources, check_templates, check_training
from stateshape.study.protection import load_protected
from stateshape.study.run_queue import Queue, RunDied
from stateshape.study.run_spec import AnySpec
from stateshape.study.training import LEARNER, train_one
from stateshape.study.workload import work_estimator

CLAIM_WAIT_S = 2 * SILENT_S  # a worker of a cluster waits for its dead predecessor's claim to run out
REPORT_S = 60.0  # a report takes seconds; a study waits for one in progress
SMALL_MODEL = 20_000_000  # parameters


def execute(
    plan: Plan,
    folder: Path,
    *,
    data_dir: Path | None,
    reporter: Reporter,
    jobs: int | None = 1,
    operators: Operators | None = None,
    accept_changes: bool = False,
) -> None:
    """Does the remaining runs. Raises BadInput before any model loads if something does not fit.

    Args:
        accept_changes: continue although finished files were changed, and record that.
        jobs: runs at the same time, each in its own process with a share of the threads and, in turn, one of several GPUs.
            None: see fitting_jobs.
        operators: where given, filled with the operators of one step of each run that trains; needs one job.
    """
    if jobs is not None and jobs < 1:
        raise BadInput(f"jobs: got {jobs}; expected 1 or more")
    check_most(jobs=jobs)
    check_executor(plan.file.execute)
    resolve_device(plan.file.model_settings.device)
    if operators is not None and plan.file.execute.executor != "processes":
        raise BadInput(f"profile: got executor {plan.file.execute.executor}; expected processes, one run at a time")
    check_output(folder)
    with hold(folder), prepared(plan, folder, data_dir, reporter, operators, accept_changes=accept_changes) as bench:
        run_base(bench)
        run_all(bench, data_dir, jobs)


@contextlib.contextmanager
def prepared(
    plan: Plan,
    folder: Path,
    data_dir: Path | None,
    reporter: Reporter,
    operators: Operators | None,
    *,
    accept_changes: bool,
) -> Iterator[StudyContext]:
    """All checks, then the model; the plan is written down. Raises BadInput."""
    check_plan(folder, plan)
    remove_leftovers(folder, names=(layout.PLAN, layout.PROFILE, layout.STATE_MAP))
    check_study(folder, accept=accept_changes, may_lack=MADE_AGAIN, say=reporter.say)
    for run in layout.run_folders(folder):
        check_record_is_there(run)
    for old in unsealed_runs(folder):
        reporter.say(f"{old}: no manifest.json (written by an earlier version); its files are used unchecked")
    target, retention = load_tasks(plan.file, data_dir)
    check_scores(plan.file, target, retention)
    data = load_data(plan.file, [target, *retention], data_dir)
    protects = load_protected(plan, [target, *retention], data_dir)
    eval_tasks = load_eval_tasks(plan.file, [target, *retention], data_dir)
    check_data(plan, folder, [target, *retention], {**protects, **data})
    resolve_base(plan.file.model)
    check_templates([target, *retention], plan.file.model, plan.file.model_settings)
    for checkpoint in plan.checkpoints:
        check_checkpoint(plan, checkpoint)
    for spec in plan.trained:
        check_training(spec, data_of(spec, target, data))
        check_chats(plan, spec, data_of(spec, target, data))
        check_sources(plan, spec, target, data)
    load = partial(open_weights, plan.file.model, plan.file.model_settings)
    with opened_sampler(asked_by(plan.file, folder), load) as (weights, sampler):
        bench = StudyContext(
            plan=plan,
            folder=folder,
            weights=weights,
            target=target,
            retention=retention,
            data=data,
            protects=protects,
            eval_tasks=eval_tasks,
            reporter=reporter,
            operators=operators,
            sampler=sampler,
        )
        with hold(folder, name=REPORT_LOCK, wait_s=REPORT_S), rewriting(folder, [layout.PLAN]):
            write_json(folder / layout.PLAN, plan_record(bench))
        yield bench


def run_all(bench: StudyContext, data_dir: Path | None, jobs: int | None) -> None:
    plan, folder, reporter = bench.plan, bench.folder, bench.reporter
    failed = folder / layout.FAILED
    failed.unlink(missing_ok=True)
    executor = executor_for(bench, data_dir, jobs)
    work = work_estimator(bench)
    first_longest = None if plan.file.execute.executor == "processes" else work
    queue = Queue(plan.runs, plan.file.seeds, reporter, partial(write_json, failed), work=first_longest)
    pace = pace_of(bench, work, executor.num_slots if executor else 1)
    if executor is not None:
        drive(queue, executor, f"runs, {executor.num_slots} at a time", reporter, pace)
        return
    while queue.waiting:
        spec, seed = queue.ready(1)[0]
        queue.begin(spec, seed)
        pace.begin(spec.name, seed)
        reporter.event("pace", pace.told())
        try:
            warnings = run_one(bench, spec, seed)
        except RunDied as error:
            queue.died(spec, seed, error)
        else:
            queue.done(spec, seed, warnings)
        pace.end(spec.name, seed)


def pace_of(bench: StudyContext, work: Callable[[AnySpec], float], num_slots: int) -> Pace:
    """Of the runs that are not finished yet."""
    items: list[tuple[AnySpec, int]] = [(spec, seed) for spec in bench.plan.trained for seed in bench.plan.file.seeds]
    items += [(spec, bench.plan.file.seeds[0]) for spec in bench.plan.checkpoints]
    left = [(spec, seed) for spec, seed in items if not is_finished(bench.run_folder(spec.name, seed))]
    return Pace(
        {(spec.name, seed): work(spec) for spec, seed in left},
        num_over=len(items) - len(left),
        num_slots=num_slots,
    )


def executor_for(bench: StudyContext, data_dir: Path | None, jobs: int | None) -> Executor | None:
    """None: one run after another in this process."""
    plan, choice = bench.plan, bench.plan.file.execute
    if choice.executor == "processes":
        gpus = gpus_to_share(plan.file.model_settings.device)
        if gpus and jobs is None:
            bench.reporter.say(f"one run at a time on one of {len(gpus)} GPUs; --jobs {len(gpus)} gives each GPU a run")
        jobs = jobs or fitting_jobs(plan, bench.weights)
        if jobs == 1 or bench.operators is not None:
            return None
        return Processes(partial(open_worker, plan, bench.folder, data_dir), jobs, gpus)
    worker = partial(open_cluster_worker, Path.cwd(), plan, bench.folder, data_dir)
    if choice.executor == "ray":
        from stateshape.study.ray_workers import RayWorkers

        return RayWorkers(worker, choice, jobs)
    from stateshape.study.slurm_jobs import SlurmJobs

    return SlurmJobs(worker, choice, jobs, bench.folder.absolute(), plan.file.study)


def fitting_jobs(plan: Plan, weights: SharedWeights) -> int:
    """One run per thread for several seeds of a small model on a CPU, whose steps are too short to share; else 1."""
    num_parameters = sum(parameter.numel() for parameter in weights.model.parameters())
    if weights.device.type != "cpu" or len(plan.file.seeds) == 1 or num_parameters > SMALL_MODEL:
        return 1
    return torch.get_num_threads()


def open_worker(
    plan: Plan, folder: Path, data_dir: Path | None, claim_wait_s: float = 0.0
) -> Callable[[AnySpec, int], list[str]]:
    """Sets up a separate process for runs of the study."""
    logging.getLogger("stateshape.tasks").setLevel(
        logging.ERROR
    )  # the study's process has said what is odd about the data
    target, retention = load_tasks(plan.file, data_dir)
    data = load_data(plan.file, [target, *retention], data_dir)
    load = partial(open_weights, plan.file.model, plan.file.model_settings)
    # the study's process withdraws what is published here
    weights, sampler = open_sampler(asked_by(plan.file, folder), load)
    bench = StudyContext(
        plan=plan,
        folder=folder,
        weights=weights,
        target=target,
        retention=retention,
        data=data,
        protects=load_protected(plan, [target, *retention], data_dir),
        eval_tasks=load_eval_tasks(plan.file, [target, *retention], data_dir),
        reporter=Silent(),
        sampler=sampler,
        claim_wait_s=claim_wait_s,
    )
    return partial(run_one, bench)


def open_cluster_worker(
    cwd: Path, plan: Plan, folder: Path, data_dir: Path | None
) -> Callable[[AnySpec, int], list[str]]:
    """As open_worker, on a machine that shares the file system. cwd: what the study's relative paths start from."""
    try:
        os.chdir(cwd)
    except OSError:
        raise BadInput(
            f"executor: {cwd} is not on {socket.gethostname()}; expected a file system that the workers share"
        ) from None
    return open_worker(plan, folder, data_dir, CLAIM_WAIT_S)


def run_base(bench: StudyContext) -> None:
    """Evaluates the untrained model once, and samples its drift rollouts with two seeds."""
    folder = bench.fixed_folder(BASE)
    with claimed_run(folder):
        planned = run_record(bench, None, bench.first_seed)
        record = check_same_base(folder, planned) or planned
        if record.is_complete:
            close_run(folder)
            return
        policy = Policy(bench.weights, None)
        record = measured(
            bench,
            record,
            folder,
            [
                *evaluations(bench, policy, folder, BASE, 0, Resolved(bench.plan.file.model, None)),
                ("drift", lambda: roll(bench, policy, folder, "rollouts", 0, BASE)),
                ("drift", lambda: roll(bench, policy, folder, "rollouts_again", 1, BASE)),
            ],
        )
        complete_run(folder, record)


def run_one(bench: StudyContext, spec: AnySpec, seed: int) -> list[str]:
    """Trains or loads one run, measures it, and gives its warnings; does nothing if it is complete, resumes if begun."""
    if isinstance(spec, CheckpointSpec):
        return measure_checkpoint(bench, spec)
    folder = bench.run_folder(spec.name, seed)
    with claimed_run(folder, wait_s=bench.claim_wait_s):
        if is_finished(folder):
            check_same_run(folder, run_record(bench, spec, seed))
            close_run(folder)
            return []
        bench.reporter.say(f"{spec.label}, seed {seed}")
        record = train_one(bench, spec, seed, folder)
        bench.weights.load_adapter(LEARNER, layout.trained(folder))
        try:
            policy, choice = Policy(bench.weights, LEARNER), bench.plan.file.along
            source = Resolved(bench.plan.file.model, layout.trained(folder))
            along = (
                [] if choice is None else along_run(bench, policy, folder, spec.name, seed, record.num_steps, choice)
            )
            record = measured(
                bench,
                record,
                folder,
                [
                    *evaluations(bench, policy, folder, spec.name, seed, source),
                    ("evaluation", lambda: write_flips(bench, folder)),
                    ("drift", lambda: roll(bench, policy, folder, "rollouts", seed_for(seed, spec.name), spec.name)),
                    ("drift", lambda: measure_drift(bench, folder)),
                    ("drift", lambda: measure_drift_from_start(bench, spec, folder, seed)),
                    *along,
                ],
            )
        finally:
            let_go(bench)
            bench.weights.remove_adapter(LEARNER)
        complete_run(folder, record)
    bench.reporter.event("run", {"run": spec.name, "seed": seed, "seconds": record.seconds})
    return record.warnings
