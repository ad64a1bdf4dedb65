"""Attention windows in a model's configuration: whether it has any; they are made short while its passes are compared.

The rows that are compared have a few tokens (policy/probe.py). A window of thousands would not be seen in them, nor a fault in
it; with the window at NARROW, it is. Knows configurations by the names that transformers gives them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stateshape.policy.weights import SharedWeights

NARROW = 6  # tokens; the rows compared have up to 24
READ_LIVE = ("sliding_window", "attention_chunk_size")  # by transformers, whenever it makes a mask
NAMES = (*READ_LIVE, "attention_window_size", "attention_window", "window_size")
FULL = "full_attention"


def has_windows(weights: SharedWeights) -> bool:
    """Whether a layer may see less than all earlier tokens, by the configuration."""
    config = weights.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return set(kinds) != {FULL}
    return any(getattr(config, name, None) for name in NAMES)


@contextmanager
def narrow_windows(weights: SharedWeights) -> Iterator[None]:
    """Inside, windows are NARROW at most, in the configuration and in the modules that keep their own copy."""
    places: list[tuple[Any, str]] = []
    for holder in (weights.config, weights.config.get_text_config(), *weights.model.modules()):
        for name in READ_LIVE:
            value = getattr(holder, name, None)
            if isinstance(value, int) and value > NARROW and (holder, name) not in places:
                places.append((holder, name))
    before = [getattr(holder, name) for holder, name in places]
    try:
        for holder, name in places:
            setattr(holder, name, NARROW)
        yield
    finally:
        for (holder, name), value in zip(places, before, strict=True):
            setattr(holder, name, value)
