"""MMD^2 of samples too large for all pairs: random Fourier features in place of the kernel, cost linear in the rows.

With w ~ N(0, 2 gamma I), k(a, b) = E cos(w'(a - b)), so k is close to the product of (cos w'a, sin w'a) and (cos w'b, sin w'b),
averaged over drawn w. A prompt then is one vector d_p, the sum of its rows' features, y minus x; H_pq of contrasts.py becomes
d_p . d_q, and a permuted statistic |sum_p z_p d_p|^2. The diagonal is left out as there. The permutation test stays exact:
it is the test with this approximate kernel. The error of the approximation is reported as a standard error.
Source: Rahimi & Recht 2007.

Suffixes: M rows of a side, P prompts, Q prompts of a block, D features, F frequencies, B permutations, C resamples.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64

from stateshape.core.seeds import seed_for
from stateshape.drift.kernels import TABLE_COLUMNS, summed_groups, times_table
from stateshape.drift.nulls import Draws, Statistic, pairwise_width
from stateshape.drift.paired import Paired
from stateshape.drift.pairwise import BANDWIDTHS, num_apart, resampled_apart

NUM_FREQUENCIES = 256  # of each bandwidth
BLOCK_ROWS = 4096  # of a side: x 2 x 1280 frequencies x 4 bytes = 42 MB of features at a time


def fourier_mmd2(
    pair: Paired, gamma: float, draws: Draws, *, seed: int, floor: float, num_frequencies: int = NUM_FREQUENCIES
) -> tuple[Statistic, Statistic]:
    """(unbiased, averaged over BANDWIDTHS; biased, of the median width): as contrasts.unbiased and contrasts.biased.

    Floor for M rows per side with z non-zeros, F frequencies in all: 4 M z F FLOP and 4 M F sines and cosines, then
    4 (B + C) P F FLOP for the draws.
    """
    frequencies_DF = _frequencies(pair.x_MD.shape[1], gamma, num_frequencies, seed=seed)
    num_columns = 2 * frequencies_DF.shape[1]
    z_BF = np.zeros((len(draws.is_swapped_BP), num_columns), np.float32)
    w_CF = np.zeros((len(draws.weights_BP), num_columns), np.float32)
    total_F, square_F, square_P, median_P = np.zeros(num_columns), np.zeros(num_columns), [], []
    median = _columns_of(BANDWIDTHS.index(1.0), num_frequencies)
    for rows, prompts in pair.blocks(BLOCK_ROWS):
        d_QF = _differences(pair, rows, frequencies_DF)
        z_BF += draws.signs(prompts, np.float32) @ d_QF
        w_CF += draws.weights(prompts, np.float32) @ d_QF
        total_F += d_QF.sum(axis=0, dtype=np.float64)
        squares_QF = d_QF.astype(np.float64) ** 2
        square_F += squares_QF.sum(axis=0)
        square_P.append(squares_QF.sum(axis=1))
        median_P.append(squares_QF[:, median].sum(axis=1))
    counts_P, w_CP = pair.counts_P, draws.weights_BP
    all_frequencies = num_frequencies * len(BANDWIDTHS)
    apart = num_apart(counts_P)
    by_frequency_KF = _powers(total_F**2 - square_F, num_frequencies) / apart
    error = np.sqrt((by_frequency_KF.var(axis=1, ddof=1) / num_frequencies).sum()) / len(BANDWIDTHS)
    note = f"random Fourier features, {num_frequencies} frequencies per bandwidth; standard error {error:.1e}"
    diagonal_P = np.concatenate(square_P) / all_frequencies
    weighted_C = np.array([np.square(weights_P, dtype=np.float64) @ diagonal_P for weights_P in w_CP])
    apart_C = np.array([resampled_apart(weights_P[None].astype(np.float64), counts_P)[0] for weights_P in w_CP])
    value = float(by_frequency_KF.mean())
    null_B = (_square(z_BF) / all_frequencies - diagonal_P.sum()) / apart
    resampled_B = (_square(w_CF) / all_frequencies - weighted_C) / apart_C
    unbiased = Statistic(
        value=value,
        null_B=null_B,
        resampled_B=resampled_B,
        note=note,
        width=pairwise_width(value, null_B, resampled_B, num_prompts=len(counts_P)),
    )
    num_rows = counts_P.sum()
    biased = Statistic(
        value=float((total_F[median] ** 2).sum() / num_frequencies / num_rows**2),
        null_B=_square(z_BF[:, median]) / num_frequencies / num_rows**2,
        resampled_B=_square(w_CF[:, median]) / num_frequencies / (w_CP @ counts_P) ** 2,
        floor=floor,
        note=note,
    )
    return unbiased, biased


def _frequencies(num_features: int, gamma: float, num: int, *, seed: int) -> Float[torch.Tensor, "D F"]:
    """Columns bandwidth by bandwidth, as BANDWIDTHS."""
    normal_DF = np.random.default_rng(seed_for(seed, "drift frequencies")).standard_normal(
        (num_features, num * len(BANDWIDTHS)), dtype=np.float32
    )
    scale_F = np.repeat([np.sqrt(2 * gamma) / width for width in BANDWIDTHS], num).astype(np.float32)
    return torch.from_numpy(normal_DF * scale_F)


def _columns_of(bandwidth: int, num: int) -> np.ndarray:
    """The columns of one bandwidth among all cosines, then all sines."""
    cosines = np.arange(bandwidth * num, (bandwidth + 1) * num)
    return np.concatenate([cosines, cosines + num * len(BANDWIDTHS)])


def _differences(pair: Paired, rows: slice, frequencies_DF: torch.Tensor) -> Float[np.ndarray, "Q F"]:
    """d_p of the block's prompts: cosines, then sines."""
    prompts = pair.prompt_M[rows]
    once = np.ones(len(prompts))
    x_MD, y_MD = (side[rows].astype(np.float32) for side in (pair.x_MD, pair.y_MD))
    cos_and_sin: list[list[torch.Tensor]] = [[], []]
    # a part of the frequencies at a time: its table stays in a core's cache while the rows pass over it
    for part_DF in frequencies_DF.split(TABLE_COLUMNS, dim=1):
        table_DF = part_DF.contiguous()
        x_MF, y_MF = (times_table(side, table_DF, slice(0, len(prompts))) for side in (x_MD, y_MD))
        for parts, function in zip(cos_and_sin, (torch.cos, torch.sin)):
            parts.append(summed_groups(function(y_MF).sub_(function(x_MF)), prompts, once))
    return torch.cat([*cos_and_sin[0], *cos_and_sin[1]], dim=1).numpy()


def _powers(square_F: Float64[np.ndarray, " F"], num: int) -> Float64[np.ndarray, "K H"]:
    """Cosine and sine together, a row for each bandwidth."""
    return square_F.reshape(2, len(BANDWIDTHS), num).sum(axis=0)


def _square(sums_BF: Float[np.ndarray, "B F"]) -> Float64[np.ndarray, " B"]:
    return np.einsum("bf,bf->b", sums_BF, sums_BF, dtype=np.float64)
