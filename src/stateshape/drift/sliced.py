"""Sliced Wasserstein distances, p = 1 and 2, with their permutations and resamples. Exact in each direction.

Rows are sorted once along each direction; a permutation only decides which of the sorted values belong to which side, and a
resample how often each occurs. Source: Bonneel et al. 2015 (doi:10.1007/s10851-014-0506-3).

Suffixes: M rows of a side, N rows of both, T of all permutations, D features, L directions, B permutations, C resamples,
K the two orders p.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, UInt8

from stateshape.drift.kernels import Rows, times_table
from stateshape.drift.nulls import Draws, Statistic
from stateshape.drift.paired import Paired

NUM_PROJECTIONS = 256
DRAWS_AT_ONCE = 128  # x 1024 rows x 8 bytes of places = 1 MB, which stays in a core's cache


class SlicedWasserstein(NamedTuple):
    first: Statistic  # p = 1
    second: Statistic  # p = 2


def sliced_wassersteins(
    pair: Paired, draws: Draws, *, seed: int, num_projections: int = NUM_PROJECTIONS
) -> SlicedWasserstein:
    """SW_p = (mean_l W_p^p)^(1/p) along seeded directions l; see benchmarks/reference_distances.py.

    Cost: L (B + C) passes over the rows of both sides, about 3 ns a row and pass.
    """
    directions_DL = random_directions(pair.x_MD.shape[1], seed=seed, num_projections=num_projections)
    x_LM, y_LM = _projected(pair.x_MD, directions_DL), _projected(pair.y_MD, directions_DL)
    value_K = _costs(np.sort(x_LM, axis=1).ravel(), np.sort(y_LM, axis=1).ravel(), size=x_LM.size)[0]
    costs_BK = np.zeros((len(draws.is_swapped_BP), 2))
    for x_M, y_M in zip(x_LM, y_LM):
        for first in range(0, len(costs_BK), DRAWS_AT_ONCE):
            some = slice(first, first + DRAWS_AT_ONCE)
            costs_BK[some] += _permuted_costs(x_M, y_M, pair.prompt_M, draws.is_swapped_BP[some])
    null_BK = costs_BK / num_projections
    resampled_CK = _resampled_costs(x_LM, y_LM, pair, draws)
    return SlicedWasserstein(
        Statistic(value=float(value_K[0]), null_B=null_BK[:, 0], resampled_B=resampled_CK[:, 0]),
        Statistic(
            value=float(np.sqrt(value_K[1])), null_B=np.sqrt(null_BK[:, 1]), resampled_B=np.sqrt(resampled_CK[:, 1])
        ),
    )


def _projected(rows_MD: Rows, directions_DL: Float64[np.ndarray, "D L"]) -> Float[np.ndarray, "L M"]:
    """In float32: half the memory to pass over, and 1e-7 of the value."""
    directions = torch.from_numpy(directions_DL.astype(np.float32))
    return times_table(rows_MD.astype(np.float32), directions, slice(0, rows_MD.shape[0])).T.contiguous().numpy()


def _permuted_costs(
    x_M: Float[np.ndarray, " M"],
    y_M: Float[np.ndarray, " M"],
    prompt_M: Int64[np.ndarray, " M"],
    is_swapped_BP: Bool[np.ndarray, "B P"],
) -> Float64[np.ndarray, "B 2"]:
    """(W_1, W_2^2) along one direction, under each permutation."""
    values_N = np.concatenate([x_M, y_M])
    order_N = np.argsort(values_N)
    values_N = values_N[order_N]
    is_x_N, prompt_N = order_N < len(x_M), np.tile(prompt_M, 2)[order_N]
    is_first_T = (is_swapped_BP[:, prompt_N] ^ is_x_N).ravel()
    values_T = np.tile(values_N, len(is_swapped_BP))
    # every permutation has M values on either side: picked in order, they are the two sorted samples
    return _costs(np.compress(is_first_T, values_T), np.compress(~is_first_T, values_T), size=len(x_M))


def _resampled_costs(
    x_LM: Float[np.ndarray, "L M"], y_LM: Float[np.ndarray, "L M"], pair: Paired, draws: Draws
) -> Float64[np.ndarray, "C 2"]:
    """(W_1, W_2^2) as means over directions, of each resample."""
    orders = [np.argsort(side_LM, axis=1) for side_LM in (x_LM, y_LM)]
    values = [np.take_along_axis(side_LM, order_LM, axis=1).ravel() for side_LM, order_LM in zip((x_LM, y_LM), orders)]
    prompts = [pair.prompt_M[order_LM].ravel() for order_LM in orders]
    made_CK = np.zeros((len(draws.weights_BP), 2))
    for costs_K, weights_P in zip(made_CK, draws.weights_BP):
        first, second = (_repeated(side, weights_P[prompt]) for side, prompt in zip(values, prompts))
        costs_K[:] = _costs(first, second, size=len(first))[0]
    return made_CK


def _repeated(values_N: Float[np.ndarray, " N"], counts_N: UInt8[np.ndarray, " N"]) -> Float[np.ndarray, " n"]:
    """np.repeat, 2.5 times as fast for counts that are mostly 0 and 1: places step where a value's copies end."""
    ends_N = np.cumsum(counts_N, dtype=np.int64)
    steps = np.bincount(ends_N[:-1], minlength=ends_N[-1])[: ends_N[-1]]
    return values_N[np.cumsum(steps)]


def _costs(first: Float[np.ndarray, " n"], second: Float[np.ndarray, " n"], *, size: int) -> Float64[np.ndarray, "B 2"]:
    """Mean absolute and mean squared gap of sorted values: samples of `size` values, one after another."""
    gaps_BM = (first - second).reshape(-1, size)
    absolute_B = np.abs(gaps_BM).sum(axis=1, dtype=np.float64)
    return np.stack([absolute_B, np.einsum("bm,bm->b", gaps_BM, gaps_BM, dtype=np.float64)], axis=1) / size


def random_directions(num_features: int, *, seed: int, num_projections: int) -> Float64[np.ndarray, "D L"]:
    """Unit columns, uniform on the sphere."""
    normal_DL = np.random.default_rng(seed).standard_normal((num_features, num_projections))
    return normal_DL / np.linalg.norm(normal_DL, axis=0)
