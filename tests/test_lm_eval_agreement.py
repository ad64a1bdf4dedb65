"""Our multiple-choice scores against lm-evaluation-harness's own HFLM, on a real model and official items.

Needs STATESHAPE_MODELS (a folder with smollm2/: SmolLM2-135M in transformers' format) and STATESHAPE_DATA (see
test_tasks_official.py). Takes some minutes on one core.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stateshape.evals.multiple_choice import score_choices
from stateshape.policy.open import load_weights
from stateshape.policy.policy import Policy
from stateshape.policy.settings import ModelSettings
from stateshape.tasks.load import load_task
from stateshape.tasks.task import ChoiceTask

MODEL = Path(os.environ.get("STATESHAPE_MODELS", "/nonexistent")) / "smollm2"
pytestmark = [
    pytest.mark.numerics,
    pytest.mark.skipif(
        not MODEL.is_dir() or "STATESHAPE_DATA" not in os.environ,
        reason="set STATESHAPE_MODELS to a folder with smollm2/, and STATESHAPE_DATA to the official data",
    ),
]
NUM_ITEMS = 100
MAX_DIFFERENCE_NATS = 1e-3  # fp32 on both sides; batching and padding differ


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(load_weights(str(MODEL), ModelSettings(device="cpu", dtype="float32")), None)


@pytest.fixture(scope="module")
def harness(policy: Policy) -> Any:
    pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=policy.weights.model, tokenizer=policy.tokenizer, batch_size=8)


def harness_logps(harness: Any, task: ChoiceTask) -> list[list[float]]:
    from lm_eval.api.instance import Instance

    pairs = [(item.prompt, option) for item in task.items for option in item.options]
    requests = [Instance("loglikelihood", {}, pair, idx) for idx, pair in enumerate(pairs)]
    flat = iter([logp for logp, _ in harness.loglikelihood(requests, disable_tqdm=True)])
    return [[next(flat) for _ in item.options] for item in task.items]


def harness_mc2(logps: list[float], labels: tuple[bool, ...]) -> float:
    """The harness's process_results_mc2."""
    masses = np.exp(np.array(logps))
    return float((masses / masses.sum())[np.array(labels)].sum())


@pytest.mark.parametrize("name", ["mmlu", "truthfulqa"])
def test_trap_boundary_retokenised_scores_equal_the_harness_s(
    name: str, policy: Policy, harness: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    task = load_task(name, data_dir=Path(os.environ["STATESHAPE_DATA"]), limit=NUM_ITEMS)
    assert isinstance(task, ChoiceTask)
    rows = score_choices(policy, task)
    theirs = harness_logps(harness, task)
    differences = [abs(a - b) for row, logps in zip(rows, theirs) for a, b in zip(row.option_logps or [], logps)]
    right, leads = [], []
    for item, logps in zip(task.items, theirs):
        chosen = [i for i, is_in in enumerate(item.in_mc1 or (True,) * len(logps)) if is_in]
        order = sorted(chosen, key=lambda i: logps[i], reverse=True)
        right.append(item.is_true[order[0]])
        leads.append(logps[order[0]] - logps[order[1]])
    accuracy = sum(row.scores[task.metric] for row in rows) / len(rows)
    with capsys.disabled():
        print(
            f"\n{name}: {len(rows)} items, {len(differences)} options, largest difference {max(differences):.2e} nats, "
            f"{task.metric} {accuracy:.4f} here and {sum(right) / len(rows):.4f} in the harness"
        )
    assert len(rows) == NUM_ITEMS
    assert max(differences) < MAX_DIFFERENCE_NATS
    # where the second option is as near as the scores may differ, rounding decides which is first
    clear = [lead > 2 * MAX_DIFFERENCE_NATS for lead in leads]
    assert sum(clear) >= 0.95 * NUM_ITEMS
    assert [row.is_correct for row, is_clear in zip(rows, clear) if is_clear] == [
        was_right for was_right, is_clear in zip(right, clear) if is_clear
    ]
    if task.metric == "mc1":
        for row, item, logps in zip(rows, task.items, theirs):
            assert math.isclose(row.scores["mc2"], harness_mc2(logps, item.is_true), abs_tol=1e-3)
