"""Rows that grow token by token in a model's own code, with its own cache (or without one, from their beginning each time).

transformers' caches differ by model: keys and values, windows of them, states of convolutions and recurrences. What all of them
need is here; whether a model's cache gives the right numbers is found out once, when it is loaded (policy/habits.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from stateshape.policy.own_code import accepted

# by which a model gives out its cache, and takes it; from transformers 5.24 on by the first, and the next two are its old names
NAMES = ("cache", "past_key_values", "cache_params", "state")


def caches_of(model: Any, outputs: Any) -> dict[str, Any]:
    """By the names under which the model takes them back; `outputs` may know one cache by several."""
    if "cache" not in outputs:
        return {name: outputs[name] for name in NAMES if name in outputs}
    names = accepted(model, **dict.fromkeys(NAMES))
    return {next(iter(names), "cache"): outputs["cache"]}


class Growing(Protocol):
    """Rows of one batch. Logits [R, V] are those of each row's next token, in the model's dtype."""

    def start(self, rows: Sequence[Sequence[int]]) -> Tensor: ...

    def step(self, token_R: Tensor) -> Tensor:
        """Every row grows by its token."""
        ...

    def select(self, index_R: Tensor) -> None:
        """Goes on with these rows, in this order; one may be chosen more than once."""
        ...


class CachedRows:
    """Rows in the model's own cache, padded on the left where their lengths differ."""

    def __init__(self, model: Any) -> None:
        self.model, self.device = model, model.device
        self.cache: dict[str, Any] = {}
        self.mask_RT: Tensor | None = None  # None: no row is padded
        self.length_R = torch.empty(0, dtype=torch.int64, device=self.device)

    def start(self, rows: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, rows))
        self.length_R = torch.tensor([len(row) for row in rows], device=self.device)
        ids_RT = torch.tensor([[row[0]] * (longest - len(row)) + list(row) for row in rows], device=self.device)
        place_RT = torch.arange(longest, device=self.device) - (longest - self.length_R)[:, None]
        self.mask_RT = (place_RT >= 0).long() if any(len(row) < longest for row in rows) else None
        return self._run(ids_RT, place_RT.clamp_min(0))

    def step(self, token_R: Tensor) -> Tensor:
        if self.mask_RT is not None:
            self.mask_RT = torch.nn.functional.pad(self.mask_RT, (0, 1), value=1)
        self.length_R = self.length_R + 1
        return self._run(token_R[:, None], self.length_R[:, None] - 1)

    def _run(self, ids_RT: Tensor, place_RT: Tensor) -> Tensor:
        inputs = accepted(self.model, position_ids=place_RT, use_cache=True, logits_to_keep=1)
        if self.mask_RT is not None:
            inputs["attention_mask"] = self.mask_RT
        outputs = self.model(input_ids=ids_RT, **inputs, **self.cache)
        self.cache = caches_of(self.model, outputs)
        if not self.cache:
            raise LookupError("a cache of its own")
        return outputs.logits[:, -1]

    def select(self, index_R: Tensor) -> None:
        """Raises AttributeError if the cache can't do that."""
        for cache in self.cache.values():
            cache.reorder_cache(index_R)
        self.length_R = self.length_R[index_R]
        if self.mask_RT is not None:
            self.mask_RT = self.mask_RT[index_R]


class WholeRows:
    """The same without a cache: every row is computed from its beginning, alone. For models whose cache is no help."""

    def __init__(self, model: Any) -> None:
        self.model, self.device = model, model.device
        self.rows: list[list[int]] = []

    def start(self, rows: Sequence[Sequence[int]]) -> Tensor:
        self.rows = [list(row) for row in rows]
        return self._run()

    def step(self, token_R: Tensor) -> Tensor:
        self.rows = [[*row, token] for row, token in zip(self.rows, token_R.tolist(), strict=True)]
        return self._run()

    def _run(self) -> Tensor:
        inputs = accepted(self.model, use_cache=False, logits_to_keep=1)
        ids = (torch.tensor([row], device=self.device) for row in self.rows)
        return torch.cat([self.model(input_ids=ids_1T, **inputs).logits[:, -1] for ids_1T in ids])

    def select(self, index_R: Tensor) -> None:
        self.rows = [self.rows[r] for r in index_R.tolist()]
