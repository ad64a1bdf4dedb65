"""Fixes rotary angles that depend on the longest row of a pass, and finds the row length up to which that is correct.

Two kinds of rotary embedding (`dynamic`, `longrope`) choose their angles for a whole pass by its longest row, so a short
row gets other numbers next to a long one than alone, and a row that grows beyond the boundary while it is sampled gets
other numbers than when it is scored. Up to the boundary the angles do not change: those are used, and longer rows are
refused (policy/policy.py). Knows transformers' rotary modules only; comparing logits reveals others (policy/checks.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

LONGROPE, DYNAMIC, FIXED = "longrope", "dynamic", "default"


def hold_angles(body: Any) -> int | None:
    """Fixes every rotary module at its angles for short rows. Returns the length of the longest such row; None: no limit."""
    limits = []
    for module in body.modules():
        for layer_type, kind in list(_kinds(module)):
            if kind != LONGROPE and DYNAMIC not in kind:
                continue
            limits.append(_boundary(module, layer_type, kind))
            prefix = f"{layer_type}_" if layer_type else ""
            original = getattr(module, f"{prefix}original_inv_freq")
            setattr(module, f"{prefix}inv_freq", original.to(getattr(module, f"{prefix}inv_freq").device))
            if layer_type:
                module.rope_type = module.rope_type | {layer_type: FIXED}
            else:
                module.rope_type = FIXED  # transformers changes angles by this name
    return min(limits, default=None)


def _kinds(module: Any) -> Iterator[tuple[str | None, str]]:
    """Layer type (None: all layers) and kind of angles."""
    kinds = getattr(module, "rope_type", None)
    if isinstance(kinds, str):
        yield None, kinds
    elif isinstance(kinds, dict):
        yield from kinds.items()


def _boundary(module: Any, layer_type: str | None, kind: str) -> int:
    if kind != LONGROPE:
        return int(module.original_max_seq_len)
    parameters = module.config.rope_parameters
    return int((parameters[layer_type] if layer_type else parameters)["original_max_position_embeddings"])
