"""The tasks on which runs are evaluated while they train: found among the study's, or loaded; a fixed part of each."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from stateshape.core.files import BadInput
from stateshape.core.wording import shown
from stateshape.evals.settings import EvalSettings
from stateshape.study.along import some_items
from stateshape.study.study_file import StudyFile
from stateshape.tasks.load import check_evaluable, load_task
from stateshape.tasks.task import Task


def load_eval_tasks(file: StudyFile, tasks: Sequence[Task], data_dir: Path | None) -> list[Task]:
    """tasks: the study's own, the target first. Empty where nothing is evaluated while runs train. Raises BadInput."""
    choice = file.eval
    if choice.every is None:
        return []
    known = dict(zip((one.task for one in (file.target, *file.retention)), tasks, strict=True))
    found = []
    for name in choice.tasks or [file.target.task]:
        task = known[name] if name in known else load_task(name, data_dir=data_dir, limit=choice.limit)
        check_evaluable(task)
        found.append(some_items(task, choice.limit))
    names = [task.name for task in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInput(
            f"eval.tasks: got two tasks named {shown(twice[0])}; expected different names; rename one of the files"
        )
    best_task(choice, found)
    return found


def best_task(choice: EvalSettings, tasks: Sequence[Task]) -> Task | None:
    """The task by whose score the best adapter is kept: by its name, or as it was asked for. Raises BadInput."""
    if choice.best is None:
        return None
    by_name = dict(zip(choice.tasks, tasks, strict=False)) | {task.name: task for task in tasks}
    if choice.best not in by_name:
        near = difflib.get_close_matches(choice.best, by_name, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadInput(
            f"eval.best: got {shown(choice.best)}; expected one of {', '.join(by_name)}, which are evaluated{hint}"
        )
    return by_name[choice.best]
