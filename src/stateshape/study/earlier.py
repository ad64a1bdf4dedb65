"""Records of earlier versions, so that what was begun under one can go on under this one. Knows no file."""

from __future__ import annotations

from typing import Any

from stateshape.policy.settings import ALL_LINEAR

# what LoRA's targets were before all-linear, which means the same layers in every model that was accepted then
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def as_before(record: Any) -> Any:
    """JSON-ready data as an earlier version would have written it where it means the same."""
    if isinstance(record, dict):
        return {key: TARGETS if _is_all(key, value) else as_before(value) for key, value in record.items()}
    return [as_before(value) for value in record] if isinstance(record, list) else record


def _is_all(key: str, value: object) -> bool:
    return key == "targets" and value == [ALL_LINEAR]
