"""Whether a folder and its data fit what is about to run there: another plan, other data or another run are refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from stateshape.core.files import BadInput, check_output, plain, read_json, write_json
from stateshape.core.locks import hold, holds_files, remove_leftovers
from stateshape.core.manifest import has_manifest
from stateshape.core.records import PlanRecord, RunRecord
from stateshape.policy.open import check_teacher, is_same_model
from stateshape.policy.policy import Policy
from stateshape.recipes.names import BUILT_IN
from stateshape.recipes.recipe import Need, Parts, teachers_of
from stateshape.recipes.replay import Replay
from stateshape.record.reading import Recording
from stateshape.sampling.local import LocalSampler
from stateshape.study.evaluation import check_names_files
from stateshape.study.origin import check_same_origin, origin
from stateshape.study.plan import BASE, Plan, RunSpec, outside
from stateshape.study.sealed import check_record_is_there, check_source, seal_run
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.task import GenerationTask, Task
from stateshape.train.checkpoint import newest_checkpoint
from stateshape.train.loop import finish


@contextlib.contextmanager
def claimed_run(folder: Path) -> Iterator[None]:
    """A run's folder for this process alone; it holds nothing, or a run. Raises BadInput."""
    check_output(folder)
    with hold(folder):
        check_record_is_there(folder)
        yield


def check_plan(folder: Path, plan: Plan) -> None:
    """Refuses a folder that another plan has begun. Raises BadInput."""
    if not (folder / "plan.json").exists():
        if holds_files(folder):
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


LACKS: dict[Need, tuple[str, str]] = {
    "solutions": ("completion", "add 'solution' to them, or use a recipe that needs none"),
    "rejected": ("rejected", "add 'rejected', a worse solution, to them, or use online_dpo, which samples its pairs"),
}


def check_training(spec: RunSpec, target: GenerationTask) -> None:
    """Whether the task has what the run trains on. Raises BadInput."""
    if not target.train:
        raise BadInput(f'{target.name}: got no training rows; expected some; add rows with "split": "train"')
    items = target.train[: spec.train.num_items(len(target.train))]
    check_build(spec, target)
    for need in spec.recipe_class.needs:
        name, fix = LACKS[need]
        check_need(spec, target, [item for item in items if getattr(item, name) is None], need, fix)


def check_build(spec: RunSpec, target: GenerationTask) -> None:
    """Builds a built-in recipe once, its teachers policies that hold no model, for what its parts refuse. Raises BadInput."""
    if spec.recipe_name not in BUILT_IN:
        return
    nobody = Policy.__new__(Policy)

    def teacher(source: str) -> Policy:
        if list(teachers_of(source)) != [""]:
            raise BadInput(
                f"{spec.name}: got several teachers or references, {source!r}; recipe {spec.recipe_name} takes one"
            )
        return nobody

    parts = Parts(task=target, sampler=LocalSampler(), teacher=teacher)
    recipe = spec.recipe()
    try:
        if isinstance(recipe, Replay):  # its states may not be there yet
            recipe.loss()
            recipe.signal_source(parts)
        else:
            recipe.build(parts)
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(f"{spec.name}: {error}") from None


def check_need(spec: RunSpec, target: GenerationTask, bare: list[GenerationItem], need: Need, fix: str) -> None:
    if bare:
        raise BadInput(
            f"{target.name}: {len(bare)} training rows have no {need.removesuffix('s')} ({bare[0].item_id} is the first); "
            f"recipe {spec.recipe_name} expected one in each; {fix}"
        )


def check_sources(plan: Plan, spec: RunSpec, target: GenerationTask) -> None:
    """The policies and states that a run names must be there, fit the model, and last as long as it. Raises BadInput."""
    inside = {other.name: other for other in plan.runs}
    for key, sources in spec.named().items():
        for source in sources:
            if source not in (BASE, *inside):
                check_source(source)
            if key == "states":
                check_states(spec, source, inside.get(source), len(target.train))
            elif source not in (BASE, *inside):
                check_teacher(plan.file.model, source, plan.file.model_settings)


def check_states(spec: RunSpec, source: str, other: RunSpec | None, num_items: int) -> None:
    if other is not None and other.train.states_mb == 0:
        raise BadInput(f"runs.{source}.train.states_mb: got 0; expected some, since {spec.name} trains on its states")
    recipe = spec.recipe()
    if other is None and isinstance(recipe, Replay):
        recipe.check_recording()
    there = Recording(Path(source)).num_steps if other is None else other.train.num_steps(num_items)
    wanted = spec.train.num_steps(num_items)
    if wanted > there:
        raise BadInput(
            f"steps: got {wanted} for {spec.name}; expected at most {there}, the steps of {source}, whose states it trains on"
        )


def check_data(plan: Plan, folder: Path, tasks: list[Task]) -> None:
    """Data, weights and outside teachers of a study must be what it was begun with, or its rows could not be paired."""
    names = [task.name for task in tasks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInput(f"retention: got two tasks named {twice[0]}; expected different names; rename one of the files")
    for name in names:
        check_names_files(name)
    if not (folder / "plan.json").exists():
        return
    begun = read_json(folder / "plan.json", PlanRecord).provenance
    check_same_origin(folder, begun, origin(plan.file.model, tasks, outside(plan)))


def check_same_run(folder: Path, record: RunRecord) -> RunRecord | None:
    """What the folder holds of this run; None where it has not begun. Raises BadInput if it is another, or rests on others."""
    if not (folder / "run.json").exists():
        return None
    begun = read_json(folder / "run.json", RunRecord)
    for field_name in ("seed", "model", "task", "teacher", "settings"):
        got, there = plain(getattr(record, field_name)), plain(getattr(begun, field_name))
        if got != there and not (field_name in ("model", "teacher") and is_same_model(there, got)):
            raise BadInput(
                f"out: {folder} holds a run with another {field_name} ({first_difference(there, got)}); give --out another "
                "folder, or delete this one to start again"
            )
    check_same_origin(folder, begun.provenance, record.provenance)
    return begun


def check_same_base(folder: Path, record: RunRecord) -> RunRecord | None:
    """As check_same_run, for the untrained base, whose folder serves every seed."""
    path = folder / "run.json"
    return check_same_run(folder, replace(record, seed=read_json(path, RunRecord).seed)) if path.exists() else None


def complete_run(folder: Path, record: RunRecord) -> RunRecord:
    """Marks a run as finished, and seals its files before what only an unfinished run needs is gone."""
    remove_leftovers(folder, *(path for path in folder.iterdir() if path.is_dir()))
    done = replace(record, is_complete=True)
    write_json(folder / "run.json", done)
    seal_run(folder)
    finish(folder)
    return done


def close_run(folder: Path) -> None:
    """For a run that is complete: what a kill between its last writes left undone."""
    if newest_checkpoint(folder) is not None or not has_manifest(folder):
        seal_run(folder)
    finish(folder)


def first_difference(there: object, now: object, path: str = "") -> str:
    """Where two settings part, in words."""
    if isinstance(there, dict) and isinstance(now, dict):
        for key in sorted(there.keys() | now.keys()):
            if there.get(key) != now.get(key):
                return first_difference(there.get(key), now.get(key), f"{path}.{key}".lstrip("."))
    return f"{path}: {there!r} there, {now!r} now".lstrip(": ")
