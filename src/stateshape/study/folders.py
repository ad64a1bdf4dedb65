"""Whether a folder and its data fit what is about to run there: another plan, other data or another run are refused."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from stateshape.core import layout
from stateshape.core.files import BadInput, check_output, plain, read_json, write_json
from stateshape.core.locks import hold, holds_files, remove_leftovers
from stateshape.core.manifest import has_manifest
from stateshape.core.records import RunRecord
from stateshape.core.sealed import check_record_is_there, seal_run
from stateshape.core.study_records import PlanRecord
from stateshape.policy.source import is_same_model
from stateshape.study.earlier import as_before
from stateshape.study.evaluation import check_names_files
from stateshape.study.origin import check_same_origin, origin
from stateshape.study.plan import Plan, outside
from stateshape.tasks.task import Task
from stateshape.train.checkpoint import newest_checkpoint
from stateshape.train.loop import finish


@contextlib.contextmanager
def claimed_run(folder: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """A run's folder for this process alone; it holds nothing, or a run. Raises BadInput.

    wait_s: for a worker of a cluster, whose predecessor on another machine counts as dead only after a silence.
    """
    check_output(folder)
    with hold(folder, wait_s=wait_s):
        check_record_is_there(folder)
        yield


def check_plan(folder: Path, plan: Plan) -> None:
    """Refuses a folder that another plan has begun. Raises BadInput."""
    if not (folder / layout.PLAN).exists():
        if holds_files(folder):
            raise BadInput(
                f"out: {folder} is not empty and contains no study; expected a new or empty folder, or this study's"
            )
        return
    begun = read_json(folder / layout.PLAN, PlanRecord)
    if begun.plan_sha256 != plan.sha256:
        raise BadInput(
            f"out: {folder} holds study {begun.study!r} with different settings (plan {begun.plan_sha256[:12]}, now "
            f"{plan.sha256[:12]}); give --out another folder, or delete this one to start again"
        )


def check_data(plan: Plan, folder: Path, tasks: list[Task], data: Mapping[str, Task]) -> None:
    """Data, weights and outside teachers of a study must be what it was begun with, or its rows could not be paired."""
    names = [task.name for task in tasks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInput(f"retention: got two tasks named {twice[0]}; expected different names; rename one of the files")
    for name in names:
        check_names_files(name)
    if not (folder / layout.PLAN).exists():
        return
    begun = read_json(folder / layout.PLAN, PlanRecord).provenance
    check_same_origin(folder, begun, origin(plan.file.model, [*tasks, *data.values()], outside(plan)))


def check_same_run(folder: Path, record: RunRecord) -> RunRecord | None:
    """What the folder holds of this run; None where it has not begun. Raises BadInput if it is another, or rests on others."""
    if not (folder / layout.RUN).exists():
        return None
    begun = read_json(folder / layout.RUN, RunRecord)
    for field_name in ("seed", "model", "task", "teacher", "start", "checkpoint", "settings"):
        got, there = (as_before(plain(getattr(one, field_name))) for one in (record, begun))
        if got != there and not (
            field_name in ("model", "teacher", "start", "checkpoint") and is_same_model(there, got)
        ):
            different = "different settings" if field_name == "settings" else f"a different {field_name}"
            raise BadInput(
                f"out: {folder} holds a run with {different} ({first_difference(there, got)}); give --out another "
                "folder, or delete this one to start again"
            )
    check_same_origin(folder, begun.provenance, record.provenance)
    if not begun.is_complete:
        check_same_engine(folder, begun, record)
    return begun


def check_same_engine(folder: Path, begun: RunRecord, record: RunRecord) -> None:
    """The steps of a run are sampled by one version of an engine. Raises BadInput."""
    there, now = begun.provenance.get("sampler"), record.provenance.get("sampler")
    if isinstance(there, dict) and isinstance(now, dict) and there.get("version") != now.get("version"):
        raise BadInput(
            f"servers: got vLLM {now.get('version')}; expected {there.get('version')}, with which {folder} was begun; start "
            "that version, or give --out another folder"
        )


def check_same_base(folder: Path, record: RunRecord) -> RunRecord | None:
    """As check_same_run, for the untrained base, whose folder serves every seed."""
    path = folder / layout.RUN
    return check_same_run(folder, replace(record, seed=read_json(path, RunRecord).seed)) if path.exists() else None


def complete_run(folder: Path, record: RunRecord) -> RunRecord:
    """Marks a run as finished, and seals its files before what only an unfinished run needs is gone."""
    remove_leftovers(folder, *(path for path in folder.rglob("*") if path.is_dir()))
    done = replace(record, is_complete=True)
    write_json(folder / layout.RUN, done)
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
