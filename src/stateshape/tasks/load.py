"""One name -> one task. The names: gsm8k, truthfulqa, mmlu (files or the hub), arithmetic, facts, exam (embedded; with
_validation: other items; arithmetic_natural, arithmetic_planted: other solutions), or rows of your own: a .jsonl, .json, .csv,
.tsv or .parquet file, or hub:owner/name[:config][:split]; or a task of lm-evaluation-harness (harness.py).

Knows where tasks come from; knows nothing of models.
"""

from __future__ import annotations

import difflib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Literal

from stateshape.core.files import BadInput
from stateshape.core.limits import check_most
from stateshape.core.wording import shown
from stateshape.embedded.retold import TELLINGS
from stateshape.tasks.embedded import arithmetic_task, exam_task, facts_task
from stateshape.tasks.gsm8k import read_gsm8k
from stateshape.tasks.harness import PREFIX, check_installed, is_answered_in_text, is_harness_task
from stateshape.tasks.hub import hub_task
from stateshape.tasks.mmlu import CLOZE, read_mmlu
from stateshape.tasks.own_data import read_own_task
from stateshape.tasks.reading import Reading
from stateshape.tasks.sources import HUB, is_source
from stateshape.tasks.task import GenerationTask, Task
from stateshape.tasks.truthfulqa import read_truthfulqa

LOGGER = logging.getLogger(__name__)
OFFICIAL = ("gsm8k", "truthfulqa", "mmlu", CLOZE)
RETOLD = {f"arithmetic_{told.name}": told for told in TELLINGS}
VALIDATION = ("arithmetic_validation", "facts_validation", "exam_validation")
EMBEDDED = ("arithmetic", "facts", "exam", *RETOLD, *VALIDATION)
WITHOUT_SHOTS = ("truthfulqa", "facts", "facts_validation")  # TruthfulQA's primer is part of its definition


def load_task(
    name: str,
    *,
    data_dir: Path | None = None,
    limit: int | None = None,
    shots: int = 0,
    max_new_tokens: int | None = None,
    reading: Reading | None = None,
) -> Task:
    """Args:
        data_dir: holds gsm8k/, truthfulqa/, mmlu/ with the datasets' own files. None: read from the hub.
        limit: evaluated items. The first ones of gsm8k, truthfulqa, arithmetic, facts and your own; stratified by subject
            for mmlu and exam. Training items are never cut.
        shots: answered examples before each evaluated question (gsm8k, arithmetic, mmlu, exam).
        max_new_tokens: longest evaluated completion. Default: the task's own.
        reading: how rows of your own are to be read, where they do not say.
    Warns about oddities in the data.
    Raises: BadInput for an unknown name, bad numbers, or data that is missing or malformed.
    """
    is_own, is_theirs = is_source(name), is_harness_task(name)
    if not is_own and not is_theirs and name not in OFFICIAL + EMBEDDED:
        raise BadInput(_unknown(name))
    if limit is not None and limit < 1:
        raise BadInput(f"limit: got {limit}; expected at least 1, or none for all items")
    if shots < 0 or (shots > 0 and (is_own or name in WITHOUT_SHOTS)):
        highest = "0 for this task: write examples into the prompts" if is_own else "0 for this task"
        raise BadInput(f"shots: got {shots} for {name}; expected {'0 or more' if shots < 0 else highest}")
    check_most(limit=limit, shots=shots)
    if max_new_tokens is not None and max_new_tokens < 1:
        raise BadInput(f"max_new_tokens: got {max_new_tokens}; expected 1 or more, or none for the task's own")
    if not is_own and reading is not None and not reading.is_default:
        raise BadInput(
            f"task: got {name} with columns, a kind, a split or a grader; expected them for rows of your own; drop them"
        )
    task: Task
    if is_theirs:
        check_installed()
        from stateshape.tasks.harness_read import read_harness_task

        task = read_harness_task(name, limit=limit, shots=shots)
    elif is_own:
        task = read_own_task(name, limit=limit, reading=reading)
    else:
        task = _known(name, data_dir, shots=shots, limit=limit)
    for note in task.notes:
        LOGGER.warning("%s: %s", name, note)
    if max_new_tokens is None:
        return task
    if not isinstance(task, GenerationTask) or not is_answered_in_text(task):
        raise BadInput(
            f"max_new_tokens: got {max_new_tokens} for {name}, which is multiple choice; expected none; drop it"
        )
    return replace(task, max_new_tokens=max_new_tokens)


def check_evaluable(task: Task) -> None:
    """Whether there is an item to evaluate. Raises BadInput."""
    if isinstance(task, GenerationTask) and not task.test:
        raise BadInput(
            f'{task.name}: got no test rows; expected some; give rows "split": "test", or --split test where none has a split'
        )
    if isinstance(task, GenerationTask) and (bare := [item.item_id for item in task.test if item.gold is None]):
        raise BadInput(
            f"{task.name}: got {len(bare)} test rows without an answer ({bare[0]} is the first); expected one in each, to "
            "compare "
            "with; add 'answer', or name its column with --columns answer=NAME"
        )


def _known(name: str, data_dir: Path | None, *, shots: int, limit: int | None) -> Task:
    if name in EMBEDDED:
        return _embedded(name, shots=shots, limit=limit)
    return hub_task(name, shots=shots, limit=limit) if data_dir is None else _files(name, data_dir, shots, limit)


def _unknown(name: str) -> str:
    names = OFFICIAL + EMBEDDED
    near = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return (
        f"task: got {shown(name)}; expected one of {', '.join(names)}, a file of your own (.jsonl, .json, .csv, .tsv, "
        ".parquet), "
        f"{HUB}owner/name, or {PREFIX}NAME{hint}"
    )


def _embedded(name: str, *, shots: int, limit: int | None) -> Task:
    is_validation = name in VALIDATION
    if name in RETOLD:
        return arithmetic_task(shots=shots, limit=limit, told=RETOLD[name])
    if name.startswith("arithmetic"):
        return arithmetic_task(shots=shots, limit=limit, is_validation=is_validation)
    split: Literal["test", "validation"] = "validation" if is_validation else "test"
    return (
        exam_task(shots=shots, limit=limit, split=split)
        if name.startswith("exam")
        else facts_task(limit=limit, split=split)
    )


def _files(name: str, data_dir: Path, shots: int, limit: int | None) -> Task:
    if not data_dir.is_dir():
        raise BadInput(f"data_dir: got {data_dir}, which is not a folder; expected one that holds {name}/")
    if name == "gsm8k":
        return read_gsm8k(data_dir, shots=shots, limit=limit)
    if name in ("mmlu", CLOZE):
        return read_mmlu(data_dir, shots=shots, limit=limit, is_cloze=name == CLOZE)
    return read_truthfulqa(data_dir, limit=limit)
