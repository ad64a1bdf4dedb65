"""Sums of Gaussian kernel values over all pairs of rows, in one pass: what every MMD here is made of.

Rows are dense arrays or sparse text features (scipy's csr_array), float32 or float64; the pass runs in that precision,
and each tile's total is added in float64. Runs on torch's threads. Does not know where rows come from, nor what its
means estimate (distances.py does).

Suffixes: M, N rows of the first and second sample, D features, K bandwidths, C columns of one table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from scipy.sparse import csr_array, hstack

Rows: TypeAlias = Float[np.ndarray, "_ _"] | csr_array

# One table of 256 columns x 1024 features x 4 bytes is 1 MiB and its hot part stays in a core's L2 cache while all rows
# pass over it; a tile of 1024 rows is another 1 MiB. Measured on Zen 5: 128 to 512 columns differ by under 15%.
TABLE_COLUMNS = 256
TILE_ROWS = 1024


class KernelSums(NamedTuple):
    """Kernel totals over all pairs, and over the pairs of one group, for each bandwidth; and the counts of both."""

    total_K: Float64[np.ndarray, " K"]
    same_K: Float64[np.ndarray, " K"]
    num_pairs: int
    num_same: int

    def mean_K(self) -> Float64[np.ndarray, " K"]:
        """Over all pairs."""
        return self.total_K / self.num_pairs

    def mean_apart_K(self) -> Float64[np.ndarray, " K"]:
        """Over the pairs whose groups differ.

        Raises: ValueError if there is none.
        """
        if self.num_pairs == self.num_same:
            raise ValueError("mmd2_unbiased: every pair of rows is in one group, so no pair is left to average")
        return (self.total_K - self.same_K) / (self.num_pairs - self.num_same)


def kernel_sums(
    x_MD: Rows,
    y_ND: Rows | None = None,
    *,
    gamma: float,
    groups_M: Int64[np.ndarray, " M"] | None = None,
    groups_N: Int64[np.ndarray, " N"] | None = None,
    num_bandwidths: int = 1,
) -> KernelSums:
    """Sums of k(x_i, y_j) = exp(-2^k gamma |x_i - y_j|^2), k = 0 .. num_bandwidths - 1, over all pairs of rows.

    Args:
        y_ND: None for x with itself; each unordered pair is then computed once and counted twice.
        groups_M, groups_N: a number per row; default: no two rows share one (with itself: a row with itself does).
        num_bandwidths: each further one doubles gamma: exp(-2 g d) = exp(-g d)^2, one multiplication per pair.

    Floor for the three sums of an MMD of N rows per side with z non-zeros each: 2 N^2 pairs, each 2z FLOP and one exp. At
    N = 10,000, z = 30: 12 GFLOP and 0.2 G exp, about 0.12 s each on a Zen 5 core; dense rows of 1024 would be 410 GFLOP.
    Memory besides the rows: one table and one tile, 2 MiB.
    Error in float32: about 1e-7 in a kernel value, mostly alike in the three means. MMD^2 moved by 5e-10 at 10,000 a
    side (biased floor 6e-5) and by 1e-8 at 160 (floor 4e-3).
    """
    is_within = y_ND is None
    x_MD, groups_M = _sorted_by_group(x_MD, np.arange(x_MD.shape[0]) if groups_M is None else groups_M)
    if y_ND is None:
        y_ND, groups_N = x_MD, groups_M
    else:
        alone_N = -1 - np.arange(y_ND.shape[0])  # numbers that no row of x has
        y_ND, groups_N = _sorted_by_group(y_ND, alone_N if groups_N is None else groups_N)
    left, right = exponent_left(x_MD, gamma), exponent_right(y_ND, gamma)
    total_K, same_K = np.zeros(num_bandwidths), np.zeros(num_bandwidths)
    for columns in _blocks(0, y_ND.shape[0], TABLE_COLUMNS):
        table_DC = table(right[columns])
        for rows, weight in _row_blocks(x_MD.shape[0], columns if is_within else None):
            tile = times_table(left, table_DC, rows).exp_()
            band, same = _same_group(groups_M[rows], groups_N[columns])
            for k in range(num_bandwidths):
                total_K[k] += weight * _total(tile if k == 0 else tile.square_())
                same_K[k] += weight * _total(tile[band] * same)
    return KernelSums(total_K, same_K, x_MD.shape[0] * y_ND.shape[0], _num_same(groups_M, groups_N))


def _total(tile: Float[torch.Tensor, "R C"]) -> float:
    """Rows in their own precision, their totals in float64: a float32 total of a whole tile would cost MMD^2 1e-8."""
    return float(tile.sum(dim=1).double().sum())


# One product gives the whole exponent: -g |x_i - y_j|^2 = (2 g x_i, -g |x_i|^2, 1) . (y_j, 1, -g |y_j|^2)


def exponent_left(x_MD: Rows, gamma: float) -> Rows:
    """Rows (2 g x_i, -g |x_i|^2, 1)."""
    square_M1 = squared_norms(x_MD)[:, None]
    return _side_by_side([2 * gamma * x_MD, -gamma * square_M1, np.ones_like(square_M1)])


def exponent_right(y_ND: Rows, gamma: float) -> Rows:
    """Rows (y_j, 1, -g |y_j|^2)."""
    square_N1 = squared_norms(y_ND)[:, None]
    return _side_by_side([y_ND, np.ones_like(square_N1), -gamma * square_N1])


def _side_by_side(parts: list[np.ndarray | csr_array]) -> Rows:
    if isinstance(parts[0], np.ndarray):
        return np.hstack([np.asarray(part) for part in parts])
    return hstack([csr_array(part) for part in parts], format="csr")


def squared_norms(x_MD: Rows) -> Float[np.ndarray, " M"]:
    return np.asarray((x_MD * x_MD).sum(axis=1))


def table(y_CD: Rows) -> Float[torch.Tensor, "D C"]:
    """Rows as the columns of a dense [D, C]."""
    dense_DC = y_CD.T if isinstance(y_CD, np.ndarray) else y_CD.T.toarray(order="C")
    return torch.from_numpy(np.ascontiguousarray(dense_DC))


def times_table(x_MD: Rows, table_DC: Float[torch.Tensor, "D C"], rows: slice) -> Float[torch.Tensor, "R C"]:
    """x[rows] @ table. A sparse row is a weighted sum of few rows of the table, which is what an embedding bag computes.

    torch's own kernel for it keeps the sums in registers: 5 times scipy's sparse product, and per non-zero as fast as a
    dense product (50 G multiply-adds a second on a Zen 5 core).
    """
    if isinstance(x_MD, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(x_MD[rows])) @ table_DC
    starts = x_MD.indptr[rows.start : rows.stop + 1]
    entries = slice(starts[0], starts[-1])
    return torch.nn.functional.embedding_bag(
        torch.from_numpy(x_MD.indices[entries]),
        table_DC,
        torch.from_numpy(starts[:-1] - starts[0]),
        per_sample_weights=torch.from_numpy(x_MD.data[entries]),
        mode="sum",
    )


def summed_groups(
    tile_RC: Float[torch.Tensor, "R C"], groups_R: Int64[np.ndarray, " R"], weights_R: Float64[np.ndarray, " R"]
) -> Float[torch.Tensor, "G C"]:
    """Weighted sums of the rows of each group, groups ascending."""
    starts = torch.from_numpy(np.flatnonzero(np.diff(groups_R, prepend=groups_R[0] - 1)))
    weights = torch.from_numpy(weights_R).to(tile_RC.dtype)
    return torch.nn.functional.embedding_bag(
        torch.arange(len(groups_R)), tile_RC, starts, per_sample_weights=weights, mode="sum"
    )


# Blocks and groups


def _blocks(start: int, stop: int, size: int) -> Iterator[slice]:
    return (slice(first, min(first + size, stop)) for first in range(start, stop, size))


def _row_blocks(num_rows: int, columns: slice | None) -> Iterator[tuple[slice, int]]:
    """Row blocks and how often their pairs count. Of a sample with itself: rows above the columns twice, then theirs."""
    for rows in _blocks(0, num_rows if columns is None else columns.start, TILE_ROWS):
        yield rows, 1 if columns is None else 2
    if columns is not None:
        yield columns, 1


def _sorted_by_group(x_MD: Rows, groups_M: Int64[np.ndarray, " M"]) -> tuple[Rows, Int64[np.ndarray, " M"]]:
    """Rows of one group next to each other: pairs of one group are then in few tiles, and in few rows of those."""
    order = np.argsort(groups_M, kind="stable")
    return x_MD[order], groups_M[order]


def _same_group(groups_M: Int64[np.ndarray, " M"], groups_C: Int64[np.ndarray, " C"]) -> tuple[slice, torch.Tensor]:
    """The rows of a tile whose groups can occur among its columns, both ascending, and which pairs share a group."""
    band = slice(*np.searchsorted(groups_M, groups_C[[0, -1]] + np.array([0, 1])).tolist())
    return band, torch.from_numpy(groups_M[band, None] == groups_C[None, :])


def _num_same(groups_M: Int64[np.ndarray, " M"], groups_N: Int64[np.ndarray, " N"]) -> int:
    numbers = np.unique(np.concatenate([groups_M, groups_N]), return_inverse=True)[1]
    in_x, in_y = numbers[: len(groups_M)], numbers[len(groups_M) :]
    return int(np.bincount(in_x, minlength=len(numbers)) @ np.bincount(in_y, minlength=len(numbers)))
