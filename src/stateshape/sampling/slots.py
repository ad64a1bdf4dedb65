"""The KV cache of the rows being sampled, and attention of one new token per row over it.

A row is a slot; slots in use are always the first ones, so that every product runs over real rows only. A token's place in
its slot is its position in the row: no padding, no holes. Knows nothing of sampling or weights.

Floor of a step: every key and value in use is read once, 4 R T G E bytes per layer in fp32 for each of the two.

Suffixes: R slot in use, G key-value heads, T place, E head width, H query heads, Q = H / G.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from stateshape.policy.checks import CacheShapes
from stateshape.policy.mixing import Mixing, Window, capped
from stateshape.policy.tree_attention import Layout, TreeAttention, softmax_with_sinks


class RowCache(Protocol):
    """What a sampler asks of the cache of its rows. It is the `Attend` of its own forward pass."""

    num_slots: int
    num_places: int

    def prefilling(self, layout: Layout) -> Prefilling: ...
    def fill(self, tree_cache: Any, path_T: Tensor, slots: slice) -> None: ...
    def move(self, source: int, target: int, length: int) -> None: ...
    def begin(self, position_R: Tensor, places: int) -> None: ...
    def __call__(
        self, layer: int, query_RHE: Tensor, key_RGE: Tensor, value_RGE: Tensor, mixing: Mixing, /
    ) -> Tensor: ...


class Prefilling(Protocol):
    """Attention of a prefill. `kept`: what `fill` of the cache that made it takes."""

    @property
    def kept(self) -> Any: ...
    def __call__(
        self, layer: int, query_NHE: Tensor, key_NGE: Tensor, value_NGE: Tensor, mixing: Mixing, /
    ) -> Tensor: ...


class Slots:
    """Implements policy.decoder.Attend for one token per row. `begin` is called before each pass."""

    def __init__(
        self, shapes: CacheShapes, *, num_slots: int, num_places: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_slots, self.num_places = num_slots, num_places
        # zeros, not uninitialised memory: a masked score times NaN would be NaN
        self.keys_LRGTE, self.values_LRGTE = (
            torch.zeros(layers, num_slots, heads, num_places, width, dtype=dtype, device=device)
            for layers, heads, width in shapes
        )
        heads = shapes.keys[1]
        # of the cache as [slots * heads * places, width], place 0 of each slot and head
        self.first_RG = torch.arange(num_slots * heads, device=device).view(num_slots, heads) * num_places
        self.place_T = torch.arange(num_places, device=device)
        self.new_N = self.first_RG[:0].flatten()
        self.mask_B1T = torch.empty(0, device=device)
        self.hidden_RT = torch.empty(0, device=device)
        self.position_R = self.new_N
        self._through: dict[Window, Tensor] = {}

    def prefilling(self, layout: Layout) -> TreeAttention:
        """Attention of a prefill, which keeps what `fill` writes into slots."""
        return TreeAttention(layout, keep=True)

    def fill(self, tree_cache: Sequence[tuple[Tensor, Tensor]], path_T: Tensor, slots: slice) -> None:
        """Writes a prompt's keys and values into slots. `tree_cache`: those of a tree's tokens, by layer; see TreeAttention."""
        for layer, (key_NGE, value_NGE) in enumerate(tree_cache):
            self.keys_LRGTE[layer, slots, :, : len(path_T)] = key_NGE[path_T].transpose(0, 1)
            self.values_LRGTE[layer, slots, :, : len(path_T)] = value_NGE[path_T].transpose(0, 1)

    def move(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` places of a slot over another one's."""
        for cache in (self.keys_LRGTE, self.values_LRGTE):
            cache[:, target, :, :length] = cache[:, source, :, :length]

    def begin(self, position_R: Tensor, places: int) -> None:
        """The next token of slot r goes to position_R[r] < places."""
        self.new_N = (self.first_RG[: len(position_R)] + position_R[:, None]).flatten()
        self.position_R = position_R
        self.hidden_RT = self.place_T[:places] > position_R[:, None]
        self.mask_B1T = self._mask(self.hidden_RT)
        self._through.clear()

    def _mask(self, hidden_RT: Tensor) -> Tensor:
        mask_RT = torch.zeros(hidden_RT.shape, dtype=self.keys_LRGTE.dtype, device=hidden_RT.device)
        return mask_RT.masked_fill_(hidden_RT, -torch.inf).repeat_interleave(self.first_RG.shape[1], 0)[:, None]

    def through(self, window: Window) -> Tensor:
        """The mask, in which a token sees what the window lets through; the same for all layers with this window."""
        places = self.hidden_RT.shape[1]
        if not window.cuts(places):
            return self.mask_B1T
        if window not in self._through:
            seen_RT = window.sees(self.position_R[:, None], self.place_T[:places])
            self._through[window] = self._mask(self.hidden_RT | ~seen_RT)
        return self._through[window]

    def __call__(self, layer: int, query_RHE: Tensor, key_RGE: Tensor, value_RGE: Tensor, mixing: Mixing) -> Tensor:
        rows, heads, width = key_RGE.shape
        mask_B1T = self.mask_B1T if mixing.window is None else self.through(mixing.window)
        places = mask_B1T.shape[2]
        keys_RGTE, values_RGTE = self.keys_LRGTE[layer], self.values_LRGTE[layer]
        keys_RGTE.view(-1, width).index_copy_(0, self.new_N, key_RGE.reshape(-1, width))
        values_RGTE.view(-1, values_RGTE.shape[3]).index_copy_(
            0, self.new_N, value_RGE.reshape(self.new_N.shape[0], -1)
        )
        query_BQE = query_RHE.reshape(rows * heads, -1, width)  # B = R * G
        keys_BET = keys_RGTE[:rows, :, :places].flatten(0, 1).transpose(1, 2)
        values_BTE = values_RGTE[:rows, :, :places].flatten(0, 1)
        if mixing.is_product:
            share_BQT = torch.baddbmm(mask_B1T, query_BQE, keys_BET, alpha=mixing.scale).softmax(-1)
        else:
            score_BQT = capped(torch.bmm(query_BQE, keys_BET) * mixing.scale, mixing.softcap) + mask_B1T
            score_RHQT = score_BQT.to(torch.promote_types(score_BQT.dtype, torch.float32)).view(rows, -1, 1, places)
            share_BQT = softmax_with_sinks(score_RHQT, mixing.sinks_H).to(score_BQT.dtype).view(score_BQT.shape)
        return torch.bmm(share_BQT, values_BTE).view(rows, query_RHE.shape[1], -1)
