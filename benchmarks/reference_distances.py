"""Distances between two samples, one at a time and as they are defined: what tests and benchmarks hold the package's own to.

Rows are samples, columns features; any sample sizes; dense arrays or sparse text features (kernels.Rows). Work is done in
blocks of rows, so memory stays bounded. Does not know where samples come from, and gives no null distribution: compare
with the same distance of base against base.
Sources: Gretton et al. 2012 (JMLR 13:723-773); Bonneel et al. 2015 (doi:10.1007/s10851-014-0506-3).

Suffixes: M, N rows of the first and second sample, D features, K bandwidths, L projections, Q merged quantile levels,
W words of a vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Integer

from stateshape.drift.kernels import (
    KernelSums,
    Rows,
    kernel_sums,
    times_table,
)
from stateshape.drift.overlap import jaccard_of_counts, ruzicka_of_counts
from stateshape.drift.sliced import NUM_PROJECTIONS, random_directions
from stateshape.drift.states import number_labels

# Kernel MMD


class Mmd2(NamedTuple):
    """Squared MMD for each bandwidth; `unbiased_K` is None if a mean has no pairs."""

    biased_K: Float64[np.ndarray, " K"]
    unbiased_K: Float64[np.ndarray, " K"] | None


def mmd2(within_x: KernelSums, within_y: KernelSums, across: KernelSums) -> Mmd2:
    """Both estimators, for every bandwidth, from three kernel sums; see mmd2_biased and mmd2_unbiased."""
    sums = (within_x, within_y, across)
    biased_K = within_x.mean_K() + within_y.mean_K() - 2 * across.mean_K()
    if any(each.num_pairs == each.num_same for each in sums):
        return Mmd2(biased_K, None)
    return Mmd2(biased_K, within_x.mean_apart_K() + within_y.mean_apart_K() - 2 * across.mean_apart_K())


def mmd2_biased(x_MD: Rows, y_ND: Rows, gamma: float) -> float:
    """Biased (V-statistic) squared MMD with k(a, b) = exp(-gamma |a - b|^2).

    mean_{i,j} k(x_i, x_j) + mean_{i,j} k(y_i, y_j) - 2 mean_{i,j} k(x_i, y_j)

    Includes i = j, so it is >= 0 and its mean under "no difference" is biased_mmd2_floor, not 0.
    Raises: ValueError if a sample is empty.
    Source: Gretton et al. 2012 eq. 5 (squared).
    """
    _check_rows(x_MD, y_ND, at_least=1)
    within_x, within_y = kernel_sums(x_MD, gamma=gamma), kernel_sums(y_ND, gamma=gamma)
    return float(mmd2(within_x, within_y, kernel_sums(x_MD, y_ND, gamma=gamma)).biased_K[0])


def mmd2_unbiased(
    x_MD: Rows,
    y_ND: Rows,
    gamma: float,
    *,
    groups_x: Sequence[str] | None = None,
    groups_y: Sequence[str] | None = None,
) -> float:
    """Unbiased (U-statistic) squared MMD: may be negative, and must be neither clipped nor rooted.

    sum_{i!=j} k(x_i,x_j)/(m(m-1)) + sum_{i!=j} k(y_i,y_j)/(n(n-1)) - 2 sum_{i,j} k(x_i,y_j)/(mn)

    Args: groups_x, groups_y: a label per row, e.g. the prompt a state came from. Given both, pairs with equal labels
        are left out of all three means. Without this, the same prompts on both sides make the cross mean too large and
        the value negative under no difference (about -.011 was measured for prompt + prefix states).
    Raises: ValueError if a mean has no pairs.
    Source: Gretton et al. 2012 eq. 3. Differs: the groups.
    """
    _check_rows(x_MD, y_ND, at_least=2)
    numbers_x, numbers_y = None, None
    if groups_x is not None and groups_y is not None:
        numbers_x, numbers_y = number_labels(groups_x, groups_y)
    within_x = kernel_sums(x_MD, gamma=gamma, groups_M=numbers_x)
    within_y = kernel_sums(y_ND, gamma=gamma, groups_M=numbers_y)
    across = kernel_sums(x_MD, y_ND, gamma=gamma, groups_M=numbers_x, groups_N=numbers_y)
    unbiased_K = mmd2(within_x, within_y, across).unbiased_K
    if unbiased_K is None:
        raise ValueError("mmd2_unbiased: every pair of rows is in one group, so no pair is left to average")
    return float(unbiased_K[0])


def biased_mmd2_floor(sample_ND: Rows, gamma: float, *, m: int, n: int) -> float:
    """Mean of mmd2_biased between m and n independent draws of the one distribution that `sample_ND` comes from.

    (1/m + 1/n) (1 - E k(x, x')),  x, x' independent; E k is estimated from the sample's pairs i != j

    Source: expectation of the V-statistic with k(x, x) = 1; Gretton et al. 2012 sec. 4.1.
    """
    _check_rows(sample_ND, sample_ND, at_least=2)
    return (1 / m + 1 / n) * (1 - float(kernel_sums(sample_ND, gamma=gamma).mean_apart_K()[0]))


def _check_rows(x_MD: Rows, y_ND: Rows, *, at_least: int) -> None:
    sizes = (x_MD.shape[0], y_ND.shape[0])
    if min(sizes) < at_least:
        raise ValueError(f"distance: expected at least {at_least} rows per side, got {sizes[0]} and {sizes[1]}")


# Centroid and sliced Wasserstein


def centroid(x_MD: Rows, y_ND: Rows) -> float:
    """Euclidean distance of the means. Under no difference it is about sqrt(tr S (1/m + 1/n)), not 0."""
    _check_rows(x_MD, y_ND, at_least=1)
    mean_x, mean_y = (np.asarray(rows.mean(axis=0, dtype=np.float64)) for rows in (x_MD, y_ND))
    return float(np.linalg.norm(mean_x - mean_y))


def sliced_wasserstein(
    x_MD: Rows,
    y_ND: Rows,
    *,
    seed: int,
    num_projections: int = NUM_PROJECTIONS,
    p: float | int = 2,
    directions_DL: Float64[np.ndarray, "D L"] | None = None,
) -> float:
    """Sliced Wasserstein distance over random directions, exact in each of them for any sample sizes.

    SW_p = (mean_l W_p^p(x u_l, y u_l))^(1/p);  W_p^p = integral_0^1 |F_x^-1(q) - F_y^-1(q)|^p dq

    Args: directions_DL: unit columns to use instead of seeded random ones.
    Raises: ValueError if a sample is empty.
    Source: Bonneel et al. 2015.
    """
    _check_rows(x_MD, y_ND, at_least=1)
    if directions_DL is None:
        directions_DL = random_directions(x_MD.shape[1], seed=seed, num_projections=num_projections)
    return quantile_distance(sorted_projections(x_MD, directions_DL), sorted_projections(y_ND, directions_DL), p=p)


def sorted_projections(x_MD: Rows, directions_DL: Float64[np.ndarray, "D L"]) -> Float[np.ndarray, "L M"]:
    """x u_l in ascending order, a contiguous row for each direction, in x's precision.

    Floor for M sparse rows of z non-zeros: 2zML FLOP, and ML log2 M comparisons to sort; the sort is most of it.
    """
    directions = torch.from_numpy(directions_DL.astype(x_MD.dtype, copy=False))
    projected_LM = times_table(x_MD, directions, slice(0, x_MD.shape[0])).T.contiguous().numpy()
    projected_LM.sort(axis=1)
    return projected_LM


def quantile_distance(
    sorted_LM: Float[np.ndarray, "L M"], sorted_LN: Float[np.ndarray, "L N"], *, p: float | int
) -> float:
    """(mean over rows l of W_p^p between the values of row l)^(1/p)."""
    m, n = sorted_LM.shape[1], sorted_LN.shape[1]
    # both quantile functions are steps: merge their jumps i/m and j/n, as integers over mn to stay exact
    levels_Q = np.unique(np.concatenate([np.arange(1, m + 1) * n, np.arange(1, n + 1) * m]))
    widths_Q = np.diff(levels_Q, prepend=0) / (m * n)
    at_x, at_y = (levels_Q - 1) // n, (levels_Q - 1) // m
    # one direction at a time: Q gaps instead of L x Q
    costs_L = [np.abs(x[at_x] - y[at_y]) ** p @ widths_Q for x, y in zip(sorted_LM, sorted_LN)]
    return float(np.mean(costs_L) ** (1 / p))


# Word overlap


def lexical_jaccard(tokens_x: Sequence[str], tokens_y: Sequence[str], *, seed: int, budget: int | None = None) -> float:
    """1 - |A n B| / |A u B| of the word types of two texts, each cut to the same number of tokens.

    Longer text has more types, so a length difference alone would look like drift: `budget` tokens (default: the
    smaller total) are drawn without replacement from each side that has more.
    Raises: ValueError if a side is empty or shorter than `budget`.
    """
    return jaccard_of_counts(*drawn_counts(*number_labels(tokens_x, tokens_y), seed=seed, budget=budget))


def ruzicka(tokens_x: Sequence[str], tokens_y: Sequence[str], *, seed: int, budget: int | None = None) -> float:
    """1 - sum_w min(a_w, b_w) / sum_w max(a_w, b_w) of word counts at an equal token budget (see lexical_jaccard)."""
    return ruzicka_of_counts(*drawn_counts(*number_labels(tokens_x, tokens_y), seed=seed, budget=budget))


def drawn_counts(
    words_x: Integer[np.ndarray, " S"], words_y: Integer[np.ndarray, " T"], *, seed: int, budget: int | None = None
) -> tuple[Int64[np.ndarray, " W"], Int64[np.ndarray, " W"]]:
    """How often each word, given as a number, is among `budget` tokens of either side (see lexical_jaccard)."""
    size = min(len(words_x), len(words_y)) if budget is None else budget
    if size < 1 or min(len(words_x), len(words_y)) < size:
        raise ValueError(f"word overlap: expected {max(size, 1)} tokens, got {len(words_x)} and {len(words_y)}")
    num_words = 1 + int(max(words_x.max(), words_y.max()))
    # one generator per side, so that swapping the sides swaps nothing else
    drawn_x, drawn_y = (_draw(each, size, np.random.default_rng(seed)) for each in (words_x, words_y))
    return np.bincount(drawn_x, minlength=num_words), np.bincount(drawn_y, minlength=num_words)


def _draw(words: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    return words if len(words) == size else words[generator.choice(len(words), size=size, replace=False)]
