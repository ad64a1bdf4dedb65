"""MMLU with five shots, the first 10 questions of each of the 57 subjects, beside lm-evaluation-harness.

See harness_peer.py. The options are one token each, so the harness runs each prompt once. `--limit N`: N a subject.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

from benchmarks.common import Options, Row, data_dir
from benchmarks.harness_peer import run_choices
from stateshape.tasks.load import load_task
from stateshape.tasks.task import ChoiceTask

ITEMS_A_SUBJECT = 10
SHOTS = 5
BATCH_SIZES = (1, 2, 4)  # a prompt has up to 4,000 tokens, and the harness holds logits for all of them


def first_items(task: ChoiceTask, a_subject: int, *, num_subjects: int | None = None) -> ChoiceTask:
    """The first questions of each subject, in the task's order."""
    num_seen: Counter[str] = Counter()
    subjects = list(dict.fromkeys(item.subject for item in task.items))[:num_subjects]
    chosen = []
    for item in task.items:
        num_seen[item.subject] += 1
        if item.subject in subjects and num_seen[item.subject] <= a_subject:
            chosen.append(item)
    return dataclasses.replace(task, items=tuple(chosen))


def run(model: str, options: Options = Options()) -> list[Row]:  # noqa: B008
    task = load_task("mmlu", data_dir=data_dir(), shots=SHOTS)
    assert isinstance(task, ChoiceTask)
    chosen = first_items(task, options.limit or ITEMS_A_SUBJECT)
    if options.is_small:
        chosen = first_items(task, 2, num_subjects=2)
    rows = run_choices("mmlu", model, chosen, options, BATCH_SIZES[:2] if options.is_small else BATCH_SIZES)
    return [{**row, "shots": SHOTS} for row in rows]
