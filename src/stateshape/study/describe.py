"""A study and its runs as records: the contents of plan.json and run.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from stateshape.core import layout
from stateshape.core.files import comparable, read_json, sha256_text
from stateshape.core.records import Json, RunRecord
from stateshape.core.study_records import BASE, PlannedRun, PlanRecord, TaskRecord
from stateshape.policy.open import read_template
from stateshape.policy.settings import ModelSettings
from stateshape.study.checkpoints import CheckpointSpec
from stateshape.study.context import StudyContext
from stateshape.study.opened import engine_of
from stateshape.study.origin import Stands, origin
from stateshape.study.plan import Plan, outside
from stateshape.study.plan_claims import claims_by_task_name, recorded_claims
from stateshape.study.protection import method_of
from stateshape.study.provenance import now, provenance
from stateshape.study.run_spec import AnySpec, RunSpec
from stateshape.study.study_file import AlongChoice, StudyFile
from stateshape.tasks.task import GenerationTask, Task


def known_seeds(bench: StudyContext) -> list[int]:
    """The seeds the study has folders for, then those asked for now: a study can be extended, never reduced."""
    path = bench.folder / layout.PLAN
    begun = read_json(path, PlanRecord).seeds if path.exists() else []
    begun_seeds = [seed for seed in begun if any((bench.folder / layout.RUNS).glob(f"*/seed{seed}"))]
    return list(dict.fromkeys([*begun_seeds, *bench.plan.file.seeds]))


def plan_record(bench: StudyContext) -> PlanRecord:
    file, path = bench.plan.file, bench.folder / layout.PLAN
    begun = read_json(path, PlanRecord).claims if path.exists() else []
    return PlanRecord(
        study=file.study,
        model=file.model,
        seeds=known_seeds(bench),
        target=task_record(bench.target),
        retention=[task_record(task) for task in bench.retention],
        runs=[
            PlannedRun(name=BASE, label="base", method=None, teacher=None, settings={}),
            *(planned_run(spec, file) for spec in bench.plan.runs),
        ],
        plan_sha256=bench.plan.sha256,
        provenance=provenance(bench.weights, bench.tasks)
        | origin(file.model, [*bench.tasks, *bench.data.values(), *bench.protects.values()], outside(bench.plan))
        | template_of(file.model_settings)
        | engine_of(bench.sampler),
        notes=file.notes,
        roles=file.roles,
        contrasts=file.contrasts,
        num_along=0 if file.along is None else file.along.most,
        along_limit=None if file.along is None else file.along.limit,
        claims=recorded_claims(
            begun,
            claims_by_task_name(file, [task.name for task in bench.tasks]),
            now=now(),
            runs_begun=len(layout.run_folders(bench.folder)),
        ),
    )


def planned_run(spec: AnySpec, file: StudyFile) -> PlannedRun:
    if isinstance(spec, CheckpointSpec):
        return PlannedRun(
            name=spec.name, label=spec.label, method=None, teacher=None, settings={}, checkpoint=spec.checkpoint
        )
    return PlannedRun(
        name=spec.name,
        label=spec.label,
        method=method_of(spec),
        teacher=spec.teacher,
        settings=settings_of(spec, file.along, file.sampler),
        start=spec.start,
    )


def task_record(task: Task) -> TaskRecord:
    items = task.test if isinstance(task, GenerationTask) else task.items
    return TaskRecord(name=task.name, label=task.label, metric=task.metric, chance=task.chance, num_items=len(items))


def settings_of(spec: RunSpec, along: AlongChoice | None = None, sampler: str = "local") -> dict[str, Json]:
    """along: where given, the run keeps its adapter at so many steps."""
    kept: dict[str, Json] = {} if along is None else {"along": along.points}
    if along is not None and along.spacing != "doubling":
        kept["along_spacing"] = along.spacing
    if along is not None and along.around:
        kept["along_around"] = list[Json](along.around)
    data: dict[str, Json] = {} if spec.data is None else {"data": spec.data}
    data |= {} if spec.read.is_default else {"read": comparable(spec.read)}
    served: dict[str, Json] = {} if sampler == "local" else {"sampler": sampler}
    return {"recipe": comparable(spec.recipe()), "train": comparable(spec.train), **data, **kept, **served}


def planned_record(
    plan: Plan, tasks: Sequence[Task], spec: RunSpec | None, seed: int, stands: Stands = lambda source: source
) -> RunRecord:
    """A run that has not begun, as far as it is known before a model is loaded; without a spec the untrained base."""
    return RunRecord(
        name=BASE if spec is None else spec.name,
        label="base" if spec is None else spec.label,
        seed=seed,
        method=None if spec is None else method_of(spec),
        model=plan.file.model,
        task=tasks[0].name,
        teacher=None if spec is None else spec.teacher,
        settings={} if spec is None else settings_of(spec, plan.file.along, plan.file.sampler),
        provenance=origin(plan.file.model, tasks, [] if spec is None else [spec], stands)
        | template_of(plan.file.model_settings),
        is_complete=False,
        start=None if spec is None else spec.start,
    )


def checkpoint_record(bench: StudyContext, spec: CheckpointSpec, seed: int) -> RunRecord:
    """A checkpoint that has not been measured. model: the base it is compared with."""
    bare = planned_record(bench.plan, bench.tasks, None, seed)
    content = origin(bench.plan.file.model, bench.tasks, [spec])
    return replace(
        bare,
        name=spec.name,
        label=spec.label,
        checkpoint=spec.checkpoint,
        provenance=provenance(bench.weights, bench.tasks) | content | engine_of(bench.sampler),
    )


def template_of(settings: ModelSettings) -> dict[str, Json]:
    """The content of a chat template that was given as a file."""
    path = settings.chat_template
    return {} if path is None else {"chat_template_sha256": sha256_text(read_template(path))}


def run_record(bench: StudyContext, spec: RunSpec | None, seed: int) -> RunRecord:
    """A run that has not begun."""
    rests_on = bench.tasks if spec is None or spec.data is None else [*bench.tasks, bench.data_of(spec)]
    if spec is not None and spec.train.protect.task is not None:
        rests_on = [*rests_on, bench.protects[spec.train.protect.task]]
    planned = planned_record(bench.plan, rests_on, spec, seed, partial(place_of, bench, seed))
    return replace(
        planned, provenance=provenance(bench.weights, bench.tasks) | planned.provenance | engine_of(bench.sampler)
    )


def place_of(bench: StudyContext, seed: int, source: str) -> str:
    """Location of a named policy: the base, another run of this study (same seed), or as it is named."""
    if source == BASE:
        return bench.plan.file.model
    other = next((run for run in bench.plan.runs if run.name == source), None)
    if other is None:
        return source
    return other.checkpoint if isinstance(other, CheckpointSpec) else str(bench.run_folder(source, seed))
