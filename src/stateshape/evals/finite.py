"""A broken model must not look like a weak one: non-finite log-probs end an evaluation before anything is written."""

from __future__ import annotations

import math
from collections.abc import Iterable

from stateshape.core.files import BadInput
from stateshape.policy.policy import Policy


def check_finite(policy: Policy, task: str, item_id: str, logps: Iterable[float]) -> None:
    """Raises BadInput with the model, the task and the item."""
    odd = next((logp for logp in logps if not math.isfinite(logp)), None)
    if odd is None:
        return
    adapter = f" with adapter {policy.adapter!r}" if policy.adapter is not None else ""
    raise BadInput(
        f"{policy.weights.source}{adapter}: {task}: item {item_id}: got a log-prob of {odd}; expected finite ones; the weights "
        "contain NaN or infinity, or overflow in this dtype: try --dtype float32, check or fetch the weights again"
    )
