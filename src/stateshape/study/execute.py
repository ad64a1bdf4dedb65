"""Runs a plan: base first, then each seed's runs in order; trains, evaluates, samples, measures drift. Resumable anywhere.

A finished part is a file that exists; every file appears whole. Compares nothing across runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError

from stateshape.core.files import BadInput, check_output, plain, read_json, read_jsonl, write_json
from stateshape.core.records import EvalRow, Json, OperatorCost, PlannedRun, PlanRecord, RunRecord, TaskRecord
from stateshape.core.seeds import seed_for
from stateshape.drift.measure import measure
from stateshape.evals.evaluate import evaluate, read_summaries, summarise, write_evaluation
from stateshape.policy.open import check_teacher, open_beside, open_weights, resolve
from stateshape.policy.policy import Policy
from stateshape.policy.weights import SharedWeights
from stateshape.recipes.recipe import Parts, method_record
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import Sampler
from stateshape.study.parallel import run_parallel
from stateshape.study.plan import BASE, Plan, RunSpec, StudyFile, TaskChoice
from stateshape.study.progress import Reporter, Silent
from stateshape.study.provenance import provenance
from stateshape.study.rollouts import read_rollouts, sample_rollouts, write_rollouts
from stateshape.tasks.load import load_task
from stateshape.tasks.task import GenerationTask, Task
from stateshape.train.data import draw_for
from stateshape.train.loop import finish, train
from stateshape.train.operators import step_operators
from stateshape.train.step import TrainingDiverged

Part = tuple[str, Callable[[], None]]  # the phase it belongs to, and the work
LEARNER, TEACHER = "learner", "teacher"
SMALL_MODEL = 20_000_000  # parameters
Operators = dict[str, dict[str, list[OperatorCost]]]  # by run and phase
# torch and safetensors do not report a write that failed as OSError
FULL_DISK = ("PytorchStreamWriter", "unexpected pos", "No space left on device")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every run of a study shares: weights, tasks, sampler, place, and whom to tell."""

    plan: Plan
    folder: Path
    weights: SharedWeights
    target: GenerationTask
    retention: list[Task]
    reporter: Reporter
    sampler: Sampler = field(default_factory=LocalSampler)
    operators: Operators | None = None  # filled where it is given

    def run_folder(self, run: str, seed: int) -> Path:
        return self.folder / "runs" / run / f"seed{seed}"

    @property
    def tasks(self) -> list[Task]:
        return [self.target, *self.retention]


def load_tasks(file: StudyFile, data_dir: Path | None) -> tuple[GenerationTask, list[Task]]:
    """The study's tasks. Raises BadInput if the target is not a task that is answered in free text."""

    def load(choice: TaskChoice) -> Task:
        return load_task(choice.task, data_dir=data_dir, limit=choice.limit, shots=choice.shots)

    target = load(file.target)
    if not isinstance(target, GenerationTask):
        raise BadInput(
            f"target.task: got {file.target.task}, a multiple-choice task; expected one answered in free text"
        )
    return target, [load(choice) for choice in file.retention]


def claim_folder(folder: Path, plan: Plan) -> None:
    """Refuses a folder that another plan has begun. Raises BadInput."""
    check_output(folder)
    if not (folder / "plan.json").exists():
        if folder.exists() and any(folder.iterdir()):
            raise BadInput(
                f"out: {folder} is not empty and holds no study; expected a new or empty folder, or this study's"
            )
        return
    begun = read_json(folder / "plan.json", PlanRecord)
    if begun.plan_sha256 != plan.sha256:
        raise BadInput(
            f"out: {folder} holds study {begun.study!r} with other settings (plan {begun.plan_sha256[:12]}, now "
            f"{plan.sha256[:12]}); give --out another folder, or delete this one to start again"
        )


def execute(
    plan: Plan,
    folder: Path,
    *,
    data_dir: Path | None,
    reporter: Reporter,
    jobs: int | None = 1,
    operators: Operators | None = None,
) -> None:
    """Runs what is not done yet. Raises BadInput before any model loads if something does not fit.

    Args:
        jobs: runs at a time, each in a process with its share of the threads. None: see fitting_jobs.
        operators: where given, filled with what a step of each run that trains spends its time on; takes one job.
    """
    if jobs is not None and jobs < 1:
        raise BadInput(f"jobs: got {jobs}; expected 1 or more")
    claim_folder(folder, plan)
    target, retention = load_tasks(plan.file, data_dir)
    check_data(folder, [target, *retention])
    resolve(plan.file.model)
    for spec in plan.runs:
        check_training(spec, target)
        if spec.teacher is not None and spec.teacher not in (BASE, *(other.name for other in plan.runs)):
            check_teacher(plan.file.model, spec.teacher, plan.file.model_settings)
    bench = Bench(
        plan=plan,
        folder=folder,
        weights=open_weights(plan.file.model, plan.file.model_settings),
        target=target,
        retention=retention,
        reporter=reporter,
        operators=operators,
    )
    write_json(folder / "plan.json", plan_record(bench))
    run_base(bench)
    jobs = jobs or fitting_jobs(plan, bench.weights)
    if jobs > 1 and operators is None:
        worker = partial(open_worker, plan, folder, data_dir)
        run_parallel(worker, plan.runs, plan.file.seeds, jobs, reporter)
        return
    for seed in plan.file.seeds:
        for spec in plan.runs:
            run_one(bench, spec, seed)


def fitting_jobs(plan: Plan, weights: SharedWeights) -> int:
    """One run a thread for several seeds of a small model on a CPU, whose steps are too short to share; else 1."""
    num_parameters = sum(parameter.numel() for parameter in weights.model.parameters())
    if weights.device.type != "cpu" or len(plan.file.seeds) == 1 or num_parameters > SMALL_MODEL:
        return 1
    return torch.get_num_threads()


def open_worker(plan: Plan, folder: Path, data_dir: Path | None) -> Callable[[RunSpec, int], None]:
    """What a process of its own needs to do runs of the study."""
    target, retention = load_tasks(plan.file, data_dir)
    weights = open_weights(plan.file.model, plan.file.model_settings)
    bench = Bench(plan=plan, folder=folder, weights=weights, target=target, retention=retention, reporter=Silent())
    return partial(run_one, bench)


def check_training(spec: RunSpec, target: GenerationTask) -> None:
    """Whether the task has what the run trains on. Raises BadInput."""
    if not target.train:
        raise BadInput(f'{target.name}: got no training rows; expected some; add rows with "split": "train"')
    num_items = spec.train.num_items(len(target.train))
    bare = [item.item_id for item in target.train[:num_items] if item.completion is None]
    if bare and spec.recipe_class.composition.signal == "gold tokens":
        raise BadInput(
            f"{target.name}: {len(bare)} training rows have no solution ({bare[0]} is the first); recipe "
            f"{spec.recipe_name} expected one in each; add 'solution' to them, or use a recipe that needs none"
        )


def check_data(folder: Path, tasks: list[Task]) -> None:
    """The data a study was begun with must still be what the tasks hold, or its rows could not be paired."""
    names = [task.name for task in tasks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInput(f"retention: got two tasks named {twice[0]}; expected different names; rename one of the files")
    if not (folder / "plan.json").exists():
        return
    begun = read_json(folder / "plan.json", PlanRecord).provenance.get("data_sha256")
    for task in tasks:
        if isinstance(begun, dict) and begun.get(task.name, task.data_sha256) != task.data_sha256:
            raise BadInput(
                f"out: {folder} was begun with other data for {task.name}; expected the same files; give --out another "
                "folder, or the data of before"
            )


def known_seeds(bench: Bench) -> list[int]:
    """The seeds the study has folders for, then those asked for now: a study is extended, never cut."""
    path = bench.folder / "plan.json"
    begun = read_json(path, PlanRecord).seeds if path.exists() else []
    held = [seed for seed in begun if any((bench.folder / "runs").glob(f"*/seed{seed}"))]
    return list(dict.fromkeys([*held, *bench.plan.file.seeds]))


def plan_record(bench: Bench) -> PlanRecord:
    file = bench.plan.file
    return PlanRecord(
        study=file.study,
        model=file.model,
        seeds=known_seeds(bench),
        target=task_record(bench.target),
        retention=[task_record(task) for task in bench.retention],
        runs=[
            PlannedRun(name=BASE, label="base", method=None, teacher=None, settings={}),
            *(
                PlannedRun(
                    name=spec.name,
                    label=spec.label,
                    method=method_record(spec.recipe_name, spec.recipe_class),
                    teacher=spec.teacher,
                    settings=settings_of(spec),
                )
                for spec in bench.plan.runs
            ),
        ],
        plan_sha256=bench.plan.sha256,
        provenance=provenance(bench.weights, bench.tasks),
        notes=file.notes,
    )


def task_record(task: Task) -> TaskRecord:
    items = task.test if isinstance(task, GenerationTask) else task.items
    return TaskRecord(name=task.name, label=task.label, metric=task.metric, chance=task.chance, num_items=len(items))


def settings_of(spec: RunSpec) -> dict[str, Json]:
    return {"recipe": plain(spec.recipe(spec.teacher)), "train": plain(spec.train)}


def is_complete(folder: Path) -> bool:
    return (folder / "run.json").exists() and read_json(folder / "run.json", RunRecord).is_complete


def run_base(bench: Bench) -> None:
    """Evaluates the untrained model once, and samples its drift rollouts with two seeds."""
    folder = bench.run_folder(BASE, bench.plan.file.seeds[0])
    existing = next((bench.folder / "runs" / BASE).glob("seed*"), None)
    folder = existing or folder
    if is_complete(folder):
        return
    record = RunRecord(
        name=BASE,
        label="base",
        seed=bench.plan.file.seeds[0],
        method=None,
        model=bench.plan.file.model,
        task=bench.target.name,
        teacher=None,
        settings={},
        provenance=provenance(bench.weights, bench.tasks),
        is_complete=False,
    )
    if (folder / "run.json").exists():
        record = read_json(folder / "run.json", RunRecord)
    policy = Policy(bench.weights, None)
    record = measured(
        bench,
        record,
        folder,
        [
            *evaluations(bench, policy, folder, BASE),
            ("drift", lambda: roll(bench, policy, folder, "rollouts", 0, BASE)),
            ("drift", lambda: roll(bench, policy, folder, "rollouts_again", 1, BASE)),
        ],
    )
    remove_leftovers(folder)
    write_json(folder / "run.json", replace(record, is_complete=True))


def remove_leftovers(folder: Path) -> None:
    """Temporary files of writes that a kill cut off."""
    for path in (*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")):
        path.unlink(missing_ok=True)


def run_one(bench: Bench, spec: RunSpec, seed: int) -> None:
    """Trains and measures one run; does nothing if it is complete, resumes if it was begun."""
    folder = bench.run_folder(spec.name, seed)
    if is_complete(folder):
        finish(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    bench.reporter.say(f"{spec.label}, seed {seed}")
    record = train_one(bench, spec, seed, folder)
    bench.weights.load_adapter(LEARNER, folder / "adapter")
    try:
        policy = Policy(bench.weights, LEARNER)
        record = measured(
            bench,
            record,
            folder,
            [
                *evaluations(bench, policy, folder, spec.name),
                ("drift", lambda: roll(bench, policy, folder, "rollouts", seed_for(seed, spec.name), spec.name)),
                ("drift", lambda: measure_drift(bench, folder, seed)),
            ],
        )
    finally:
        bench.weights.remove_adapter(LEARNER)
    remove_leftovers(folder)
    write_json(folder / "run.json", replace(record, is_complete=True))
    finish(folder)
    bench.reporter.event("run", {"run": spec.name, "seed": seed, "seconds": record.seconds})


def measured(bench: Bench, record: RunRecord, folder: Path, parts: Sequence[Part]) -> RunRecord:
    """Does one part after another. What it cost is written down each time: a kill loses the cost of one part at most."""
    costs = dict(record.costs)
    for phase, work in parts:
        with bench.weights.meter.phase(phase, costs):
            work()
        record = record.measured(costs)
        write_json(folder / "run.json", record)
    return record


def train_one(bench: Bench, spec: RunSpec, seed: int, folder: Path) -> RunRecord:
    """Trains until the adapter is there. Returns the run's record, not yet marked complete."""
    record = claim_run(bench, spec, seed, folder)
    if record.num_steps > 0:
        return record
    bench.weights.add_adapter(LEARNER, spec.train.lora, seed=seed_for(seed, "adapter"))
    beside: list[str] = []
    try:
        recipe = spec.recipe(teacher_source(bench, spec, seed))
        method = recipe.build(Parts(task=bench.target, sampler=bench.sampler, teacher=teacher_loader(bench, beside)))
        learner = Policy(bench.weights, LEARNER, is_trainable=True)
        item_ids = tuple(item.item_id for item in bench.target.train)
        tick = bench.reporter.track(f"train {spec.name}", "steps", bench.weights.meter)
        progress = train(
            method, learner, item_ids, spec.train, seed=seed, folder=folder, on_step=lambda k, n, _: tick(k, n)
        )
        if bench.operators is not None and spec.name not in bench.operators:
            trained_on = item_ids[: spec.train.num_items(len(item_ids))]
            draw = draw_for(trained_on, batch=spec.train.batch_prompts, step=0, seed=seed)
            bench.operators[spec.name] = step_operators(method, learner, draw, spec.train)
    except TrainingDiverged as error:
        raise BadInput(f"{folder}: training diverged at {error}") from None
    except (RuntimeError, SafetensorError) as error:
        if not any(sign in str(error) for sign in FULL_DISK):
            raise
        raise BadInput(
            f"out: {folder}: a file could not be written ({str(error).strip().splitlines()[0][:120]}); expected room on the "
            "disk; make some, and the same command goes on"
        ) from None
    finally:
        for name in (LEARNER, *beside):
            bench.weights.remove_adapter(name)
    trained = replace(
        record,
        num_steps=progress.step,
        num_supervised_tokens=progress.num_supervised,
        num_sampled_tokens=progress.num_sampled,
    ).measured(progress.costs)
    write_json(folder / "run.json", trained)
    return trained


def claim_run(bench: Bench, spec: RunSpec, seed: int, folder: Path) -> RunRecord:
    """The run's record, written before the first step; what is there already must be the same run. Raises BadInput."""
    path = folder / "run.json"
    record = RunRecord(
        name=spec.name,
        label=spec.label,
        seed=seed,
        method=method_record(spec.recipe_name, spec.recipe_class),
        model=bench.plan.file.model,
        task=bench.target.name,
        teacher=spec.teacher,
        settings=settings_of(spec),
        provenance=provenance(bench.weights, bench.tasks),
        is_complete=False,
    )
    if not path.exists():
        write_json(path, record)
        return record
    begun = read_json(path, RunRecord)
    for field_name in ("seed", "model", "task", "teacher", "settings"):
        got, there = plain(getattr(record, field_name)), plain(getattr(begun, field_name))
        if got != there:
            raise BadInput(
                f"out: {folder} holds a run with another {field_name} ({first_difference(there, got)}); give --out another "
                "folder, or delete this one to start again"
            )
    return begun


def first_difference(there: object, now: object, path: str = "") -> str:
    """Where two settings part, in words."""
    if isinstance(there, dict) and isinstance(now, dict):
        for key in sorted(there.keys() | now.keys()):
            if there.get(key) != now.get(key):
                return first_difference(there.get(key), now.get(key), f"{path}.{key}".lstrip("."))
    return f"{path}: {there!r} there, {now!r} now".lstrip(": ")


def teacher_source(bench: Bench, spec: RunSpec, seed: int) -> str | None:
    """Where the teacher stands: another run of this study (same seed), the base, or what the plan names."""
    if spec.teacher is None:
        return None
    if spec.teacher == BASE:
        return bench.plan.file.model
    if any(spec.teacher == other.name for other in bench.plan.runs):
        return str(bench.run_folder(spec.teacher, seed))
    return spec.teacher


def teacher_loader(bench: Bench, loaded: list[str]) -> Callable[[str], Policy]:
    """Loads frozen teachers beside the learner; adapter names taken are added to `loaded`."""

    def load(source: str) -> Policy:
        name = f"{TEACHER}{len(loaded)}"
        policy = open_beside(bench.weights, source, bench.plan.file.model_settings, adapter_name=name)
        if policy.weights is bench.weights and resolve(source).adapter is not None:
            loaded.append(name)
        return policy

    return load


def evaluations(bench: Bench, policy: Policy, folder: Path, run: str) -> list[Part]:
    return [("evaluation", partial(evaluate_one, bench, policy, folder, run, task)) for task in bench.tasks]


def evaluate_one(bench: Bench, policy: Policy, folder: Path, run: str, task: Task) -> None:
    path = folder / "evals" / f"{task.name}.jsonl"
    if path.exists():
        if not (folder / "evals" / "summary.json").exists() or task.name not in read_summaries(folder):
            rows = read_jsonl(path, EvalRow)  # killed between the two files
            write_evaluation(folder, task.name, rows, summarise(rows, task.metrics))
        return
    rows = evaluate(
        policy, task, progress=bench.reporter.track(f"evaluate {run} on {task.name}", "items", policy.weights.meter)
    )
    write_evaluation(folder, task.name, rows, summarise(rows, task.metrics))


def roll(bench: Bench, policy: Policy, folder: Path, name: str, seed: int, run: str) -> None:
    if (folder / f"{name}.jsonl").exists():
        return
    tick = bench.reporter.track(f"sample {run} for drift", "prompts", policy.weights.meter)
    pieces, samples = sample_rollouts(policy, bench.target, bench.plan.file.drift, bench.sampler, seed=seed, tick=tick)
    write_rollouts(folder, pieces, samples, name=name)


def measure_drift(bench: Bench, folder: Path, seed: int) -> None:
    if (folder / "drift.json").exists():
        return
    base = next((bench.folder / "runs" / BASE).glob("seed*"))
    record = measure(
        read_rollouts(base, name="rollouts"),
        read_rollouts(base, name="rollouts_again"),
        read_rollouts(folder, name="rollouts"),
        task=bench.target.name,
        seed=0,
        num_cuts=bench.plan.file.drift.cuts,
    )
    write_json(folder / "drift.json", record)
