"""The KV cache of the rows that are being written, and attention of one new token a row over it.

A row is a slot; slots in use are always the first ones, so that every product runs over real rows only. A token's place in
its slot is its position in the row: no padding, no holes. Knows nothing of sampling or weights.

Floor of a step: every key and value in use is read once, 4 R T G E bytes in fp32 a layer for each of the two.

Suffixes: R slot in use, G key-value heads, T place, E head width, H query heads, Q = H / G.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stateshape.policy.checks import CacheShapes


class Slots:
    """Attends as policy.decoder.Attend asks, one token a row. `begin` is called before each pass."""

    def __init__(
        self, shapes: CacheShapes, *, num_slots: int, num_places: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.num_slots, self.num_places = num_slots, num_places
        # 0, not empty: a masked score times NaN would be NaN
        self.keys_LRGTE, self.values_LRGTE = (
            torch.zeros(layers, num_slots, heads, num_places, width, dtype=dtype, device=device)
            for layers, heads, width in shapes
        )
        self.row_R = torch.arange(num_slots, device=device)
        self.place_T = torch.arange(num_places, device=device)
        self.position_R = self.row_R[:0]
        self.mask_R1T = torch.empty(0, device=device)

    def fill(self, kept: Sequence[tuple[Tensor, Tensor]], path_T: Tensor, slots: slice) -> None:
        """Writes a prompt's keys and values into slots. `kept`: those of a tree's tokens, by layer; see TreeAttention."""
        for layer, (key_NGE, value_NGE) in enumerate(kept):
            self.keys_LRGTE[layer, slots, :, : len(path_T)] = key_NGE[path_T].transpose(0, 1)
            self.values_LRGTE[layer, slots, :, : len(path_T)] = value_NGE[path_T].transpose(0, 1)

    def move(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` places of a slot over another one's."""
        for cache in (self.keys_LRGTE, self.values_LRGTE):
            cache[:, target, :, :length] = cache[:, source, :, :length]

    def begin(self, position_R: Tensor, places: int) -> None:
        """The next token of slot r stands at position_R[r] < places."""
        self.position_R = position_R
        hidden_RT = self.place_T[:places] > position_R[:, None]
        self.mask_R1T = torch.zeros(hidden_RT.shape, device=hidden_RT.device).masked_fill_(hidden_RT, -torch.inf)[
            :, None
        ]

    def __call__(self, layer: int, query_RHE: Tensor, key_RGE: Tensor, value_RGE: Tensor, scale: float) -> Tensor:
        rows, heads, width = query_RHE.shape[0], key_RGE.shape[1], self.mask_R1T.shape[2]
        keys_RGTE, values_RGTE = self.keys_LRGTE[layer, :rows], self.values_LRGTE[layer, :rows]
        keys_RGTE[self.row_R[:rows], :, self.position_R] = key_RGE
        values_RGTE[self.row_R[:rows], :, self.position_R] = value_RGE
        query_BQE = query_RHE.reshape(rows * heads, -1, query_RHE.shape[2])  # B = R * G
        score_BQT = torch.bmm(query_BQE, keys_RGTE[:, :, :width].flatten(0, 1).transpose(1, 2))
        score_RHT = torch.add(self.mask_R1T, score_BQT.view(rows, -1, width), alpha=scale)
        share_BQT = score_RHT.softmax(-1).to(value_RGE.dtype).view(score_BQT.shape)
        return torch.bmm(share_BQT, values_RGTE[:, :, :width].flatten(0, 1)).view(rows, query_RHE.shape[1], -1)
