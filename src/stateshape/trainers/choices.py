"""What is to be watched: tasks, how often, where it is written. Checked before a model is loaded; knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stateshape.core import layout
from stateshape.core.files import BadInput, check_output
from stateshape.core.wording import shown
from stateshape.evals.settings import EvalSettings
from stateshape.study.along import some_items
from stateshape.tasks.load import check_evaluable, load_task
from stateshape.tasks.task import GenerationTask, Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """task: what is trained for, whose test prompts the base writes on. tasks: all that are evaluated, that one first."""

    task: GenerationTask
    tasks: list[Task]
    settings: EvalSettings
    folder: Path


def watched(
    *,
    task: str,
    out: str | Path,
    retention: Sequence[str],
    every: float,
    limit: int,
    positions: int,
    data_dir: str | Path | None,
) -> Watched:
    """Raises BadInput."""
    if isinstance(retention, str):
        raise BadInput(f"retention: got {shown(retention)}; expected a list of tasks; write [{shown(retention)}]")
    settings = EvalSettings(every=every, tasks=[task, *retention], limit=limit, positions=positions)
    folder = Path(out)
    check_output(folder)
    data = None if data_dir is None else Path(data_dir)
    tasks: list[Task] = []
    for name in settings.tasks:
        one = load_task(name, data_dir=data, limit=limit)
        check_evaluable(one)
        tasks.append(some_items(one, limit))
    names = [one.name for one in tasks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInput(
            f"retention: got two tasks named {shown(twice[0])}; expected different names; rename one of the files"
        )
    if not isinstance(tasks[0], GenerationTask):
        raise BadInput(
            f"task: got {shown(task)}, which is multiple choice; expected a task that is answered in free text; name it "
            "under retention"
        )
    return Watched(task=tasks[0], tasks=tasks, settings=settings, folder=folder)


def check_new(folder: Path) -> None:
    """Raises BadInput where another run was watched into this folder."""
    if (folder / layout.EVAL_STEPS).exists():
        raise BadInput(
            f"out: {folder} holds {layout.EVAL_STEPS} of another run; expected a new folder; name another, or resume that "
            "run from its checkpoint"
        )
