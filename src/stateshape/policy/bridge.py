"""Any other transformers decoder on flat tokens: its own code, with our attention in place of its own.

transformers lets a model's attention function be replaced by name, and the function that makes its masks. Ours passes queries,
keys and values to the attention of the current pass, with whatever the model hands over beside them: scale, soft cap, sinks,
and which tokens a token sees, as a function of places rather than a mask. Slower than policy/decoder.py, and correct for
every model whose layers mix tokens by attention alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from stateshape.policy.decoder import Attend
from stateshape.policy.mixing import Mixing, Window
from stateshape.policy.own_code import hidden_to_head
from stateshape.policy.tree_attention import take

NAME = "stateshape"
# what transformers hands over for other attention functions; the mask says the same
REDUNDANT = {"dropout", "is_causal", "sliding_window", "position_ids", "use_cache"}
REQUEST = "output_"  # begins the names of what a caller wants back besides


class _Pass(NamedTuple):
    attend: Attend
    asked: list[Window]


_current: list[_Pass] = []


def run_transformers(
    model: Any,
    ids_N: Tensor,
    position_N: Tensor,
    attend: Attend,
    wanted_M: Tensor | None = None,
    *,
    asked: list[Window] | None = None,
) -> Tensor:
    """As Decoder.__call__. `asked`: collects the windows that the model's code asks for.

    Raises: ValueError if the model's attention does more than policy/mixing.py knows.
    """
    with _our_attention(model, _Pass(attend, [] if asked is None else asked)):
        # a mask of ones: without one, transformers takes positions that jump for rows packed one behind another
        ids_1N = ids_N[None]
        hidden_1ND = hidden_to_head(
            model,
            input_ids=ids_1N,
            position_ids=position_N[None],
            attention_mask=torch.ones_like(ids_1N),
            use_cache=False,
        )
    return hidden_1ND[0] if wanted_M is None else take(hidden_1ND[0], wanted_M)


@contextmanager
def _our_attention(model: Any, current: _Pass) -> Iterator[None]:
    config = model.config
    before = config._attn_implementation
    config._attn_implementation = NAME
    _current.append(current)
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
    window: Window | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    given = {name for name, value in others.items() if value is not None and not name.startswith(REQUEST)}
    if odd := sorted(given - REDUNDANT):
        raise ValueError(f"attention with {', '.join(odd)}")
    if window is not None and not isinstance(window, Window):
        raise ValueError("attention with a mask of its own")
    scale = query_1HNE.shape[-1] ** -0.5 if scaling is None else scaling
    query_NHE, key_NGE, value_NGE = (part[0].transpose(0, 1) for part in (query_1HNE, key_1GNE, value_1GNE))
    mixing = Mixing(scale, softcap, s_aux, window)
    return _current[-1].attend(module.layer_idx, query_NHE, key_NGE, value_NGE, mixing)[None], None


def _window(
    *, mask_function: Callable[..., Any], local_size: int | None = None, use_vmap: bool = False, **_: object
) -> Window | None:
    """What a model's layers see, from the function by which transformers would make its mask."""
    if mask_function is causal_mask_function:
        return None

    def sees(query_place: Tensor, key_place: Tensor) -> Tensor:
        zero = torch.zeros((), dtype=torch.int64, device=query_place.device)
        return mask_function(zero, zero, query_place, key_place)

    window = Window(sees, None if use_vmap else local_size)
    _current[-1].asked.append(window)
    return window


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _window)
