"""Rows of token ids as a prefix tree: what several rows have in common at their beginning is one segment.

A causal model gives a token the same hidden state in every row that agrees up to it, so a forward pass over the segments
computes all rows at the cost of their distinct tokens: a group's prompt once, a few-shot prefix once a subject. Knows
nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

MIN_SHARED = 8  # tokens; a shorter common part is computed twice, which costs less than another segment


class Segment(NamedTuple):
    """Tokens `ids` at positions depth, depth + 1, ..., behind those of `parent` (a number; -1: the row's beginning)."""

    ids: Sequence[int]
    parent: int
    depth: int


class PrefixTree(NamedTuple):
    """`leaf_of_row[b]`: the segment that row b ends with. A parent comes before its children."""

    segments: list[Segment]
    leaf_of_row: list[int]


def prefix_tree(rows: Sequence[Sequence[int]], *, min_shared: int = MIN_SHARED) -> PrefixTree:
    """The rows' tree. Rows may be equal, or the beginning of one another. Raises: ValueError if a row is empty."""
    if not all(rows):
        raise ValueError("prefix_tree: got an empty row; expected at least one token in each")
    segments: list[Segment] = []
    leaf_of_row = [-1] * len(rows)
    pending = [
        (sorted(range(len(rows)), key=lambda b: list(rows[b])), 0, -1)
    ]  # rows that agree up to a depth, and their segment
    while pending:
        members, depth, parent = pending.pop()
        for _, alike in groupby(members, key=lambda b: rows[b][depth : depth + min_shared]):
            cluster = list(alike)
            end = common_length(rows[cluster[0]], rows[cluster[-1]])  # of sorted rows, the first and last differ most
            if end > depth:
                segments.append(Segment(rows[cluster[0]][depth:end], parent, depth))
                pending.append((cluster, end, len(segments) - 1))
            else:
                for b in cluster:
                    leaf_of_row[b] = parent
    return PrefixTree(segments, leaf_of_row)


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two rows have in common at their beginning."""
    for i, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return i
    return min(len(a), len(b))
