"""Distances that are sums over pairs of rows, with their permutations and resamples as quadratic forms in the prompts.

For a pairwise function k(a, b) let H_pq = sum of s_i s_j k(i, j) over the rows i of prompt p and j of prompt q, s = +1 on
one side and -1 on the other. Trading the sides of prompts turns s into z_p s, so a permuted statistic is z' H z: all
permutations are one matrix product, and no pair is computed twice. Resamples put counts w for z. The diagonal does not
change under permutations. Pairs of one prompt are left out of the unbiased forms: both sides hold the same prompts, and
those pairs would pull the sides together (a negative value without any drift).

Suffixes: P, Q prompts, B permutations, C resamples, R and C rows and columns of a tile where a tile is meant, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64

from stateshape.drift.kernels import (
    TABLE_COLUMNS,
    TILE_ROWS,
    exponent_left,
    exponent_right,
    summed_groups,
    table,
    times_table,
)
from stateshape.drift.nulls import Draws, Statistic, pairwise_width
from stateshape.drift.paired import Paired

Array: TypeAlias = Float[np.ndarray, "..."]

# of the median distance; each is half of the one before, so its kernel is the fourth power of that one's
BANDWIDTHS = (4.0, 2.0, 1.0, 0.5, 0.25)


class Contrasts(NamedTuple):
    """H of the Gaussian kernel averaged over BANDWIDTHS, of the median width alone, and of minus the distance."""

    family_PP: Float64[np.ndarray, "P P"]
    median_PP: Float64[np.ndarray, "P P"]
    energy_PP: Float64[np.ndarray, "P P"]


def contrasts(pair: Paired, gamma: float) -> Contrasts:
    """All three in one pass over the pairs of rows, in tiles.

    Args: gamma: 1 / (2 median distance^2).
    Floor for M rows per side with z non-zeros each: 2 M^2 pairs, each 2z FLOP, one exp, one root, eight squarings.
    """
    rows_ND, prompt_N, side_N = pair.pooled()
    widest = gamma / BANDWIDTHS[0] ** 2
    left, right = exponent_left(rows_ND, widest), exponent_right(rows_ND, widest)
    sums = Contrasts(*(np.zeros((pair.num_prompts, pair.num_prompts)) for _ in Contrasts._fields))
    for first in range(0, len(prompt_N), TABLE_COLUMNS):
        columns = slice(first, min(first + TABLE_COLUMNS, len(prompt_N)))
        table_DC = table(right[columns])
        for rows in _row_blocks(columns):
            exponent_RC = times_table(left, table_DC, rows).clamp_(max=0.0)
            for sums_PP, tile_RC in zip(sums, _tiles(exponent_RC, widest)):
                _add(sums_PP, tile_RC, prompt_N, side_N, rows, columns)
    return sums


def _row_blocks(columns: slice) -> Iterator[slice]:
    """Rows before the columns, then the columns' own."""
    for first in range(0, columns.start, TILE_ROWS):
        yield slice(first, min(first + TILE_ROWS, columns.start))
    yield columns


def _tiles(exponent_RC: torch.Tensor, widest: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    energy_RC = exponent_RC.div(-widest).sqrt_().neg_()
    kernel_RC = exponent_RC.exp_()
    total_RC = kernel_RC.clone()
    median_RC = kernel_RC
    for width in BANDWIDTHS[1:]:
        total_RC += kernel_RC.square_().square_()
        if width == 1.0:
            median_RC = kernel_RC.clone()
    return total_RC.div_(len(BANDWIDTHS)), median_RC, energy_RC


def _add(
    sums_PP: np.ndarray,
    tile_RC: torch.Tensor,
    prompt_N: Int64[np.ndarray, " N"],
    side_N: Float64[np.ndarray, " N"],
    rows: slice,
    columns: slice,
) -> None:
    """Adds a tile's signed sums by prompt, and those of its mirror image unless it is on the diagonal."""
    by_row_QC = summed_groups(tile_RC, prompt_N[rows], side_N[rows])
    block_QP = summed_groups(by_row_QC.T.contiguous(), prompt_N[columns], side_N[columns]).T.numpy()
    at_rows, at_columns = (slice(prompt_N[part.start], prompt_N[part.stop - 1] + 1) for part in (rows, columns))
    sums_PP[at_rows, at_columns] += block_QP
    if rows != columns:
        sums_PP[at_columns, at_rows] += block_QP.T


# Statistics


def unbiased(sums_PP: Float64[np.ndarray, "P P"], counts_P: Int64[np.ndarray, " P"], draws: Draws) -> Statistic:
    """sum_{p != q} H_pq / sum_{p != q} n_p n_q: unbiased MMD^2 for a kernel, the energy distance for minus the distance.

    Source: Gretton et al. 2012 eq. 3; Szekely & Rizzo 2013. Differs: pairs of one prompt are left out of all three means.
    """
    diagonal_P = np.diag(sums_PP).copy()
    z_BP, w_CP = draws.signs(), draws.weights()
    value = float(sums_PP.sum() - diagonal_P.sum()) / num_apart(counts_P)
    null_B = (forms(z_BP, sums_PP) - diagonal_P.sum()) / num_apart(counts_P)
    resampled_B = (forms(w_CP, sums_PP) - w_CP**2 @ diagonal_P) / resampled_apart(w_CP, counts_P)
    width = pairwise_width(value, null_B, resampled_B, num_prompts=len(counts_P))
    return Statistic(value=value, null_B=null_B, resampled_B=resampled_B, width=width)


def biased(
    sums_PP: Float64[np.ndarray, "P P"], counts_P: Int64[np.ndarray, " P"], draws: Draws, *, floor: float
) -> Statistic:
    """sum_pq H_pq / M^2: the paper's MMD^2, every pair kept, a row with itself too."""
    w_CP = draws.weights()
    return Statistic(
        value=float(sums_PP.sum()) / counts_P.sum() ** 2,
        null_B=forms(draws.signs(), sums_PP) / counts_P.sum() ** 2,
        resampled_B=forms(w_CP, sums_PP) / (w_CP @ counts_P) ** 2,
        floor=floor,
    )


def forms(z_BP: Float64[np.ndarray, "B P"], sums_PP: Float64[np.ndarray, "P P"]) -> Float64[np.ndarray, " B"]:
    """z' H z of every row z."""
    return np.einsum("bp,bp->b", z_BP @ sums_PP, z_BP)


def num_apart(counts_P: Int64[np.ndarray, " P"]) -> int:
    """Pairs of rows of different prompts, of one side with either."""
    return int(counts_P.sum() ** 2 - (counts_P**2).sum())


def resampled_apart(w_CP: Float64[np.ndarray, "C P"], counts_P: Int64[np.ndarray, " P"]) -> Float64[np.ndarray, " C"]:
    return (w_CP @ counts_P) ** 2 - w_CP**2 @ counts_P**2


def centroid(
    differences: Iterable[Float64[np.ndarray, "_ D"]], counts_P: Int64[np.ndarray, " P"], draws: Draws
) -> Statistic:
    """Squared: |mean y - mean x|^2 - floor^2, floor^2 = sum_p |d_p|^2 / M^2, d_p = sum of a prompt's y minus its x rows.

    The floor^2 is exactly the mean of the squared distance under the permutations; for one row per prompt and prompts that
    do not matter it is tr S (1/M + 1/M). What is left is a sum over pairs of different prompts, d_p . d_q, whose mean is
    the squared distance of the true means. `differences` come in blocks of prompts, so that they need not be held at once.
    """
    z_BD: Array = np.zeros(())
    w_CD: Array = np.zeros(())
    total_D: Array = np.zeros(())
    square_P, first = [], 0
    for block_QD in differences:
        prompts = slice(first, first + len(block_QD))
        first = prompts.stop
        single_QD = block_QD.astype(np.float32)
        z_BD = z_BD + draws.signs(prompts, np.float32) @ single_QD
        w_CD = w_CD + draws.weights(prompts, np.float32) @ single_QD
        total_D = total_D + block_QD.sum(axis=0)
        square_P.append((block_QD**2).sum(axis=1))
    num_rows, squares_P = counts_P.sum(), np.concatenate(square_P)
    floor = float(squares_P.sum()) / num_rows**2
    value = float((total_D**2).sum()) / num_rows**2 - floor
    null_B = (z_BD.astype(np.float64) ** 2).sum(axis=-1) / num_rows**2 - floor
    weights_CP = draws.weights()
    rows_C = weights_CP @ counts_P
    resampled_B = ((w_CD.astype(np.float64) ** 2).sum(axis=-1) - weights_CP**2 @ squares_P) / rows_C**2
    return Statistic(
        value=value,
        null_B=null_B,
        resampled_B=resampled_B,
        floor=math.sqrt(floor),
        width=pairwise_width(value, null_B, resampled_B, num_prompts=len(counts_P)),
        is_square=True,
    )
