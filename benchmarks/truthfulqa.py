"""TruthfulQA, all 817 items, MC1 and MC2, beside lm-evaluation-harness. See harness_peer.py.

The harness is given the MC2 options, which hold those of MC1: asked for both scores it makes requests for both, and its
cache computes equal ones once.
"""

from __future__ import annotations

from benchmarks.common import Options, Row, data_dir
from benchmarks.harness_peer import run_choices
from stateshape.tasks.load import load_task
from stateshape.tasks.task import ChoiceTask

BATCH_SIZES = (1, 4, 8, 16)


def run(model: str, options: Options = Options()) -> list[Row]:  # noqa: B008
    task = load_task("truthfulqa", data_dir=data_dir(), limit=2 if options.is_small else options.limit)
    assert isinstance(task, ChoiceTask)
    return run_choices("truthfulqa", model, task, options, BATCH_SIZES[:2] if options.is_small else BATCH_SIZES)
