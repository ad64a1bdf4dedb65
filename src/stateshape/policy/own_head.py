"""Finds out what a model's head is, by comparing its own logits with its own hidden states. See core/head.py.

The configuration's numbers are candidates for the scale and the soft cap, and so is the scale that fits best; what agrees is
taken. Names of models play no part.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from torch import Tensor

from stateshape.core.head import Head

SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
TRIED = 8  # tokens: each has all logits of a vocabulary
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")


def find_head(model: Any, hidden_TD: Tensor, logits_TV: Tensor, *, limit: float) -> Head | None:
    """The head that gives these logits for these hidden states; None if there is none here.

    `limit`: largest difference, as a share of the largest logit.
    """
    module = model.get_output_embeddings()
    matrix = Head(module.weight, getattr(module, "bias", None)).first(logits_TV.shape[-1])
    if matrix.width != hidden_TD.shape[-1] or matrix.num_tokens != logits_TV.shape[-1]:
        return None
    some = slice(None, None, max(1, len(hidden_TD) // TRIED))
    hidden_TD, logits_TV = hidden_TD[some], logits_TV[some]
    size, product_TV = logits_TV.abs().max().clamp_min(1e-30), matrix.logits(hidden_TD)
    fitted = float((product_TV[-1] * logits_TV[-1]).sum() / product_TV[-1].square().sum().clamp_min(1e-30))
    for scale, cap in product((1.0, *_scales(model), fitted), (None, *_caps(model))):
        head = matrix._replace(scale=scale, cap=cap)
        if bool((head.finished(product_TV) - logits_TV).abs().max() / size <= limit):
            return head
    return None


def _scales(model: Any) -> Iterator[float]:
    for value in _numbers(model, SCALES):
        yield value
        yield 1 / value


def _caps(model: Any) -> Iterator[float]:
    yield from _numbers(model, CAPS)


def _numbers(model: Any, names: tuple[str, ...]) -> Iterator[float]:
    """Values of the names in the configuration, or in its part that is about text."""
    for config in (model.config, model.config.get_text_config()):
        for name in names:
            value = getattr(config, name, None)
            if isinstance(value, int | float) and value > 0:
                yield float(value)
