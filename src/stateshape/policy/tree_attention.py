"""Attention over a prefix tree whose tokens are stored flat, one after another, without padding.

Everything in a decoder but attention works on single tokens, so a flat [N, ...] layout computes no padding there. For
attention, segments of similar size are gathered into padded blocks: a segment's tokens see the segments before it and,
causally, themselves; with a window, those of them that it lets through. Knows nothing of weights.

Suffixes: N token, S segment of a block, Q its tokens, K the tokens it sees, H query heads, G key-value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stateshape.core.prefix_tree import PrefixTree, prefix_tree
from stateshape.policy.mixing import Mixing, Window, capped

MAX_PADDING = 1.5  # padded over real query-key pairs of a block, above which a new one begins
SMALL_BLOCK = 2**14  # pairs; below this a block's overhead weighs more than its padding
MAX_BLOCK_PAIRS = 2**25  # bounds the mask
MAX_BLOCK_KEYS = 2**17  # bounds the gathered keys and values


class Block(NamedTuple):
    """Segments that are padded together. Indices are flat; `real_N` picks the block's tokens out of [S * Q]."""

    query_SQ: Tensor
    key_SK: Tensor
    visible_SQK: Tensor | None  # [S, 1, Q, K]; None: segments without a parent, plainly causal
    real_N: Tensor


class Layout(NamedTuple):
    """A flattened tree. `paths[b]`: flat index of each token of row b."""

    ids_N: Tensor
    position_N: Tensor
    blocks: list[Block]
    paths: list[np.ndarray]
    num_pairs: int  # query-key pairs: each token with those it sees, itself included


def lay_out(rows: Sequence[Sequence[int]], device: torch.device | str) -> Layout:
    """The flattened prefix tree of the rows. Raises: ValueError if a row is empty."""
    tree = prefix_tree(rows)
    lengths = np.array([len(segment.ids) for segment in tree.segments])
    depths = np.array([segment.depth for segment in tree.segments])
    groups = list(_blocks(lengths, depths))
    order = np.concatenate(groups)
    starts = np.empty(len(order), dtype=np.int64)
    starts[order] = np.cumsum(lengths[order]) - lengths[order]
    paths = _paths(tree, starts)
    ids = [token for s in order for token in tree.segments[s].ids]
    position = np.concatenate([np.arange(depths[s], depths[s] + lengths[s]) for s in order])
    return Layout(
        ids_N=torch.tensor(ids, device=device),
        position_N=torch.tensor(position, device=device),
        blocks=[_block([paths[s] for s in group], lengths[group], depths[group], device) for group in groups],
        paths=[paths[leaf] for leaf in tree.leaf_of_row],
        num_pairs=int(position.sum()) + len(position),
    )


def _blocks(lengths: np.ndarray, depths: np.ndarray) -> Iterator[np.ndarray]:
    """Segment numbers, block by block: first those without a parent, then the others; longest first."""
    keys = lengths + depths
    order = np.lexsort((-keys, -lengths, depths > 0))
    chosen: list[int] = []
    widest = num_pairs = 0
    for s in order.tolist():
        longest = lengths[chosen[0]] if chosen else lengths[s]
        keys_padded = (len(chosen) + 1) * max(widest, keys[s])
        pairs_padded = keys_padded * longest
        is_wasteful = pairs_padded > max(SMALL_BLOCK, MAX_PADDING * (num_pairs + lengths[s] * keys[s]))
        is_large = pairs_padded > MAX_BLOCK_PAIRS or keys_padded > MAX_BLOCK_KEYS
        if chosen and (is_wasteful or is_large or (depths[s] > 0) != (depths[chosen[0]] > 0)):
            yield np.array(chosen)
            chosen, widest, num_pairs = [], 0, 0
        chosen.append(s)
        widest = max(widest, keys[s])
        num_pairs += lengths[s] * keys[s]
    yield np.array(chosen)


def _paths(tree: PrefixTree, starts: np.ndarray) -> list[np.ndarray]:
    """Per segment, the flat index of every token on its path, up to its end."""
    paths: list[np.ndarray] = []
    for segment, start in zip(tree.segments, starts):
        own = np.arange(start, start + len(segment.ids))
        paths.append(own if segment.parent < 0 else np.concatenate([paths[segment.parent], own]))
    return paths


def _block(paths: list[np.ndarray], lengths: np.ndarray, depths: np.ndarray, device: torch.device | str) -> Block:
    size, longest, widest = len(paths), lengths.max(), (lengths + depths).max()
    key_SK = np.zeros((size, widest), dtype=np.int64)
    for s, path in enumerate(paths):
        key_SK[s, : len(path)] = path
        key_SK[s, len(path) :] = path[-1]
    place_Q = np.minimum(np.arange(longest)[None], lengths[:, None] - 1)  # padding repeats the last token
    query_SQ = np.take_along_axis(key_SK, depths[:, None] + place_Q, axis=1)
    real_SQ = np.arange(longest)[None] < lengths[:, None]
    visible_SQK = None
    if depths.max() > 0:
        last_SQ = depths[:, None] + np.arange(longest)[None]
        visible_SQK = torch.tensor(np.arange(widest)[None, None] <= last_SQ[:, :, None], device=device)[:, None]
    return Block(
        query_SQ=torch.tensor(query_SQ, device=device),
        key_SK=torch.tensor(key_SK, device=device),
        visible_SQK=visible_SQK,
        real_N=torch.tensor(np.flatnonzero(real_SQ), device=device),
    )


class TreeAttention:
    """Attends within one layout. `kept`: keys and values of every layer, if requested (a sampler's prefill)."""

    def __init__(self, layout: Layout, *, keep: bool = False) -> None:
        self.layout = layout
        self.kept: list[tuple[Tensor, Tensor]] | None = [] if keep else None
        self.layers: list[int] = []  # whose attention was asked for, in this order
        self._through: dict[Window, list[Block]] = {}

    def __call__(self, layer: int, query_NHE: Tensor, key_NGE: Tensor, value_NGE: Tensor, mixing: Mixing) -> Tensor:
        self.layers.append(layer)
        if self.kept is not None:
            self.kept.append((key_NGE, value_NGE))
        blocks = self.layout.blocks if mixing.window is None else self.through(mixing.window)
        attended = [_attend(block, query_NHE, key_NGE, value_NGE, mixing) for block in blocks]
        return attended[0] if len(attended) == 1 else torch.cat(attended)  # the flat order is the blocks' order

    def through(self, window: Window) -> list[Block]:
        """The blocks, in which tokens see what the window lets through; the same for all layers with this window."""
        if window not in self._through:
            self._through[window] = [_through(window, block, self.layout.position_N) for block in self.layout.blocks]
        return self._through[window]


def _through(window: Window, block: Block, position_N: Tensor) -> Block:
    if not window.cuts(block.key_SK.shape[1]):
        return block
    place_SQ1, place_K = position_N[block.query_SQ][:, :, None], _places(block)
    visible_SQK = (place_K <= place_SQ1)[:, None] if block.visible_SQK is None else block.visible_SQK
    return block._replace(visible_SQK=visible_SQK & window.sees(place_SQ1, place_K)[:, None])


def _places(block: Block) -> Tensor:
    """A key's place in its row is its place in the block."""
    return torch.arange(block.key_SK.shape[1], device=block.key_SK.device)


def _attend(block: Block, query_NHE: Tensor, key_NGE: Tensor, value_NGE: Tensor, mixing: Mixing) -> Tensor:
    query_SHQE, key_SGKE, value_SGKE = (
        take(part, index).transpose(1, 2)
        for part, index in ((query_NHE, block.query_SQ), (key_NGE, block.key_SK), (value_NGE, block.key_SK))
    )
    if not mixing.is_product:
        attended_SHQE = _by_products(block, query_SHQE, key_SGKE, value_SGKE, mixing)
        return take(attended_SHQE.transpose(1, 2).flatten(0, 1), block.real_N)
    if block.visible_SQK is not None and query_NHE.is_cuda:
        key_SGKE, value_SGKE = (by_query_head(part, query_NHE.shape[1]) for part in (key_SGKE, value_SGKE))
    attended_SHQE = F.scaled_dot_product_attention(
        query_SHQE,
        key_SGKE,
        value_SGKE,
        attn_mask=block.visible_SQK,
        is_causal=block.visible_SQK is None,
        scale=mixing.scale,
        enable_gqa=query_SHQE.shape[1] != key_SGKE.shape[1],
    )
    return take(attended_SHQE.transpose(1, 2).flatten(0, 1), block.real_N)


def _by_products(block: Block, query_SHQE: Tensor, key_SGKE: Tensor, value_SGKE: Tensor, mixing: Mixing) -> Tensor:
    """Attention with a soft cap or sinks, which fused kernels do not know: every score is made. Softmax in fp32."""
    visible_SQK = block.visible_SQK
    if visible_SQK is None:
        visible_SQK = _places(block) <= _places(block)[:, None]
    heads = query_SHQE.shape[1]
    key_SHKE, value_SHKE = by_query_head(key_SGKE, heads), by_query_head(value_SGKE, heads)
    score_SHQK = capped(query_SHQE @ key_SHKE.transpose(-1, -2) * mixing.scale, mixing.softcap)
    score_SHQK = score_SHQK.to(torch.promote_types(score_SHQK.dtype, torch.float32)).masked_fill(
        ~visible_SQK, -torch.inf
    )
    share_SHQK = softmax_with_sinks(score_SHQK, mixing.sinks_H)
    return share_SHQK.to(value_SHKE.dtype) @ value_SHKE


def softmax_with_sinks(score_SHQK: Tensor, sinks_H: Tensor | None) -> Tensor:
    """Shares of the keys; with sinks, a head's sink takes the rest (arXiv:2309.17453; gpt-oss)."""
    if sinks_H is None:
        return score_SHQK.softmax(-1)
    sink_SHQ1 = sinks_H.to(score_SHQK.dtype)[None, :, None, None].expand(*score_SHQK.shape[:3], 1)
    return torch.cat((score_SHQK, sink_SHQ1), dim=-1).softmax(-1)[..., :-1]


def by_query_head(part_SGKE: Tensor, heads: int) -> Tensor:
    """Keys or values once for each query head. With a mask, CUDA has no fused kernel for grouped heads (transformers'
    integrations/sdpa_attention.py says so too): the plain one keeps every score for backward."""
    return part_SGKE.repeat_interleave(heads // part_SGKE.shape[1], dim=1)


def take(table: Tensor, index: Tensor) -> Tensor:
    """table[index] along the first dimension; as an embedding, whose backward is a fast and deterministic sum on a CPU."""
    width = table.shape[1:]
    return F.embedding(index, table.reshape(table.shape[0], -1)).view(*index.shape, *width)
