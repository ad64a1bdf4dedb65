"""Any other transformers decoder on flat tokens: its own code, with our attention in place of its own.

transformers lets a model's attention function be replaced by name. Ours passes queries, keys and values to the attention
of the current pass. Slower than policy/decoder.py, and correct for every model that attends to all earlier tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from stateshape.policy.decoder import Attend
from stateshape.policy.tree_attention import take

NAME = "stateshape"
_current: list[Attend] = []  # the attention of the current pass


def run_transformers(
    body: Any, ids_N: Tensor, position_N: Tensor, attend: Attend, wanted_M: Tensor | None = None
) -> Tensor:
    """As Decoder.__call__. Raises ValueError if the model's attention does more than scale, mask and mix."""
    with _own_attention(body.config, attend):
        hidden_ND = body(input_ids=ids_N[None], position_ids=position_N[None], use_cache=False).last_hidden_state[0]
    return hidden_ND if wanted_M is None else take(hidden_ND, wanted_M)


@contextmanager
def _own_attention(config: Any, attend: Attend) -> Iterator[None]:
    before = config._attn_implementation
    config._attn_implementation = NAME
    _current.append(attend)
    try:
        yield
    finally:
        _current.pop()
        config._attn_implementation = before


def _attention(
    module: Any,
    query_1HNE: Tensor,
    key_1GNE: Tensor,
    value_1GNE: Tensor,
    mask: None,
    scaling: float | None = None,
    **extras: object,
) -> tuple[Tensor, None]:
    del mask
    odd = [name for name in ("softcap", "s_aux", "position_bias", "sliding_window") if extras.get(name) is not None]
    if odd:
        raise ValueError(f"attention with {', '.join(odd)}")
    scale = query_1HNE.shape[-1] ** -0.5 if scaling is None else scaling
    query_NHE, key_NGE, value_NGE = (part[0].transpose(0, 1) for part in (query_1HNE, key_1GNE, value_1GNE))
    return _current[-1](module.layer_idx, query_NHE, key_NGE, value_NGE, scale)[None], None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
