"""Hidden states of any causal model by its own forward pass, on right-padded rows: for layers that do more than attend.

Recurrences and convolutions carry a state from token to token, so rows that begin alike share nothing; equal rows are computed
once. Gradients are autograd's. Slower than the passes over prefix trees, and correct for every model that transformers runs.

Suffixes: B row of a batch, T token, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stateshape.policy.own_code import accepted, hidden_to_head
from stateshape.policy.tree_attention import take

MAX_TOKENS = 8192  # of a batch, padding included
MAX_PADDING = 1.25  # padded over real tokens of a batch, above which a new one begins


def hidden_by_rows(
    model: Any, rows: Sequence[Sequence[int]], places: Sequence[np.ndarray], *, may_pad: bool, may_batch: bool
) -> tuple[Tensor, list[int]]:
    """Hidden states [N, D] of each row at its places, in order, and the lengths of the rows that were computed.

    `may_pad`, `may_batch`: see policy/habits.py.
    """
    distinct: dict[tuple[int, ...], int] = {}
    number = [distinct.setdefault(tuple(row), len(distinct)) for row in rows]
    ids = list(distinct)
    first = np.zeros(len(ids), dtype=np.int64)  # of each distinct row among all tokens computed
    computed: list[Tensor] = []
    num_computed = 0
    for batch in batches([len(row) for row in ids], may_pad=may_pad, may_batch=may_batch):
        hidden_BTD = _run(model, [ids[b] for b in batch])
        first[batch] = num_computed + hidden_BTD.shape[1] * np.arange(len(batch))
        computed.append(hidden_BTD.flatten(0, 1))
        num_computed += len(computed[-1])
    wanted = np.concatenate([first[b] + at for b, at in zip(number, places, strict=True)])
    all_ND = computed[0] if len(computed) == 1 else torch.cat(computed)
    return take(all_ND, torch.as_tensor(wanted, device=all_ND.device)), [len(row) for row in ids]


def _run(model: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    """[B, T, D]. What stands behind a row's end is never read, and a causal model does not look there."""
    longest = max(map(len, rows))
    ids_BT = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows], device=model.device)
    return hidden_to_head(model, input_ids=ids_BT, **accepted(model, use_cache=False))


def batches(lengths: Sequence[int], *, may_pad: bool, may_batch: bool) -> Iterator[list[int]]:
    """Row numbers, batch by batch, longest first."""
    batch: list[int] = []
    num_tokens = 0
    for row in np.argsort([-length for length in lengths], kind="stable").tolist():
        length = lengths[row]
        padded = (len(batch) + 1) * lengths[batch[0]] if batch else length
        is_full = padded > MAX_TOKENS or padded > MAX_PADDING * (num_tokens + length)
        if batch and (is_full or not may_batch or (not may_pad and length != lengths[batch[0]])):
            yield batch
            batch, num_tokens = [], 0
        batch.append(row)
        num_tokens += length
    if batch:
        yield batch
