"""Distances between two samples: kernel MMD^2, centroids, sliced Wasserstein, and word overlap.

Rows are samples, columns features; any sample sizes. Work is done in blocks of rows, so memory stays bounded. Does not
know where samples come from, and gives no null distribution: compare with the same distance of base against base.
Sources: Gretton et al. 2012 (JMLR 13:723-773); Bonneel et al. 2015 (doi:10.1007/s10851-014-0506-3).

Suffixes: M, N rows of the first and second sample, D features, L projections, K merged quantile levels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

BLOCK_ROWS = 2048  # a kernel block of 2048 x 2048 float64 is 32 MiB
MEDIAN_ROWS = 2048  # rows drawn for the median heuristic
NUM_PROJECTIONS = 256


class KernelMean(NamedTuple):
    """Sum of kernel values over the pairs that count, and how many there are."""

    total: float
    num_pairs: int


# Kernel MMD


def median_gamma(sample_ND: Float64[np.ndarray, "N D"], *, seed: int = 0) -> float:
    """The median heuristic's kernel width: gamma = 1 / (2 median_{i<j} |x_i - x_j|^2), on at most MEDIAN_ROWS rows.

    Compute it once, on base states, and reuse it: a kernel that changes with the run measures nothing.
    Raises: ValueError if there are fewer than two rows, or more than half of the pairs coincide (median 0).
    Source: Gretton et al. 2012 sec. 8.
    """
    if len(sample_ND) > MEDIAN_ROWS:
        sample_ND = sample_ND[np.random.default_rng(seed).choice(len(sample_ND), MEDIAN_ROWS, replace=False)]
    if len(sample_ND) < 2:
        raise ValueError(f"median_gamma: expected at least 2 rows, got {len(sample_ND)}")
    squared_NN = _squared_distances(sample_ND, sample_ND)
    median = float(np.median(squared_NN[np.triu_indices(len(sample_ND), k=1)]))
    if median <= 1e-12:
        raise ValueError("median_gamma: more than half of the rows coincide, so the median distance is 0")
    return 1.0 / (2.0 * median)


def mmd2_biased(x_MD: Float64[np.ndarray, "M D"], y_ND: Float64[np.ndarray, "N D"], gamma: float) -> float:
    """Biased (V-statistic) squared MMD with k(a, b) = exp(-gamma |a - b|^2).

    mean_{i,j} k(x_i, x_j) + mean_{i,j} k(y_i, y_j) - 2 mean_{i,j} k(x_i, y_j)

    Includes i = j, so it is >= 0 and its mean under "no difference" is biased_mmd2_floor, not 0.
    Raises: ValueError if a sample is empty.
    Source: Gretton et al. 2012 eq. 5 (squared).
    """
    _check_rows(x_MD, y_ND, at_least=1)
    within_x = _kernel_mean(x_MD, x_MD, gamma)
    within_y = _kernel_mean(y_ND, y_ND, gamma)
    across = _kernel_mean(x_MD, y_ND, gamma)
    return _mean(within_x) + _mean(within_y) - 2 * _mean(across)


def mmd2_unbiased(
    x_MD: Float64[np.ndarray, "M D"],
    y_ND: Float64[np.ndarray, "N D"],
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
    if groups_x is None or groups_y is None:
        own_x, own_y = np.arange(len(x_MD)), np.arange(len(y_ND))
        across = _kernel_mean(x_MD, y_ND, gamma)
    else:
        numbers = {label: number for number, label in enumerate(dict.fromkeys([*groups_x, *groups_y]))}
        own_x = np.array([numbers[label] for label in groups_x])
        own_y = np.array([numbers[label] for label in groups_y])
        across = _kernel_mean(x_MD, y_ND, gamma, own_x, own_y)
    within_x = _kernel_mean(x_MD, x_MD, gamma, own_x, own_x)
    within_y = _kernel_mean(y_ND, y_ND, gamma, own_y, own_y)
    return _mean(within_x) + _mean(within_y) - 2 * _mean(across)


def biased_mmd2_floor(sample_ND: Float64[np.ndarray, "N D"], gamma: float, *, m: int, n: int) -> float:
    """Mean of mmd2_biased between m and n independent draws of the one distribution that `sample_ND` comes from.

    (1/m + 1/n) (1 - E k(x, x')),  x, x' independent; E k is estimated from the sample's pairs i != j

    Source: expectation of the V-statistic with k(x, x) = 1; Gretton et al. 2012 sec. 4.1.
    """
    _check_rows(sample_ND, sample_ND, at_least=2)
    own = np.arange(len(sample_ND))
    return (1 / m + 1 / n) * (1 - _mean(_kernel_mean(sample_ND, sample_ND, gamma, own, own)))


def _kernel_mean(
    x_MD: Float64[np.ndarray, "M D"],
    y_ND: Float64[np.ndarray, "N D"],
    gamma: float,
    groups_M: Int64[np.ndarray, " M"] | None = None,
    groups_N: Int64[np.ndarray, " N"] | None = None,
) -> KernelMean:
    """Kernel total over all pairs, or over those whose groups differ."""
    total, num_pairs = 0.0, 0
    for rows in _blocks(len(x_MD)):
        for columns in _blocks(len(y_ND)):
            kernel = np.exp(-gamma * _squared_distances(x_MD[rows], y_ND[columns]))
            if groups_M is None or groups_N is None:
                num_pairs += kernel.size
            else:
                counts = groups_M[rows][:, None] != groups_N[columns][None, :]
                kernel = np.where(counts, kernel, 0.0)
                num_pairs += int(counts.sum())
            total += float(kernel.sum())
    return KernelMean(total, num_pairs)


def _mean(kernel: KernelMean) -> float:
    if kernel.num_pairs == 0:
        raise ValueError("mmd2_unbiased: every pair of rows is in one group, so no pair is left to average")
    return kernel.total / kernel.num_pairs


def _squared_distances(
    x_MD: Float64[np.ndarray, "M D"], y_ND: Float64[np.ndarray, "N D"]
) -> Float64[np.ndarray, "M N"]:
    """|x|^2 + |y|^2 - 2 x.y, clipped at 0 where rounding would leave a small negative."""
    squared = (x_MD**2).sum(axis=1)[:, None] + (y_ND**2).sum(axis=1)[None, :] - 2.0 * (x_MD @ y_ND.T)
    return np.maximum(squared, 0.0)


def _blocks(num_rows: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK_ROWS) for start in range(0, num_rows, BLOCK_ROWS))


def _check_rows(x_MD: np.ndarray, y_ND: np.ndarray, *, at_least: int) -> None:
    if min(len(x_MD), len(y_ND)) < at_least:
        raise ValueError(f"distance: expected at least {at_least} rows per side, got {len(x_MD)} and {len(y_ND)}")


# Centroids and sliced Wasserstein


def centroid(x_MD: Float64[np.ndarray, "M D"], y_ND: Float64[np.ndarray, "N D"]) -> float:
    """Euclidean distance of the means. Under no difference it is about sqrt(tr S (1/m + 1/n)), not 0."""
    _check_rows(x_MD, y_ND, at_least=1)
    return float(np.linalg.norm(x_MD.mean(axis=0) - y_ND.mean(axis=0)))


def sliced_wasserstein(
    x_MD: Float64[np.ndarray, "M D"],
    y_ND: Float64[np.ndarray, "N D"],
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
    sorted_ML = np.sort(x_MD @ directions_DL, axis=0)
    sorted_NL = np.sort(y_ND @ directions_DL, axis=0)
    m, n = len(x_MD), len(y_ND)
    # both quantile functions are steps: merge their jumps i/m and j/n, as integers over mn to stay exact
    levels_K = np.unique(np.concatenate([np.arange(1, m + 1) * n, np.arange(1, n + 1) * m]))
    widths_K = np.diff(levels_K, prepend=0) / (m * n)
    gaps_KL = np.abs(sorted_ML[(levels_K - 1) // n] - sorted_NL[(levels_K - 1) // m])
    return float((widths_K @ gaps_KL**p).mean() ** (1 / p))


def random_directions(num_features: int, *, seed: int, num_projections: int) -> Float64[np.ndarray, "D L"]:
    """Unit columns, uniform on the sphere."""
    normal_DL = np.random.default_rng(seed).standard_normal((num_features, num_projections))
    return normal_DL / np.linalg.norm(normal_DL, axis=0)


# Word overlap


def lexical_jaccard(tokens_x: Sequence[str], tokens_y: Sequence[str], *, seed: int, budget: int | None = None) -> float:
    """1 - |A n B| / |A u B| of the word types of two texts, each cut to the same number of tokens.

    Longer text has more types, so a length difference alone would look like drift: `budget` tokens (default: the
    smaller total) are drawn without replacement from each side that has more.
    Raises: ValueError if a side is empty or shorter than `budget`.
    """
    set_x, set_y = (set(tokens) for tokens in _equal_budget(tokens_x, tokens_y, seed=seed, budget=budget))
    return 1.0 - len(set_x & set_y) / len(set_x | set_y)


def ruzicka(tokens_x: Sequence[str], tokens_y: Sequence[str], *, seed: int, budget: int | None = None) -> float:
    """1 - sum_w min(a_w, b_w) / sum_w max(a_w, b_w) of word counts at an equal token budget (see lexical_jaccard)."""
    count_x, count_y = (Counter(tokens) for tokens in _equal_budget(tokens_x, tokens_y, seed=seed, budget=budget))
    return 1.0 - (count_x & count_y).total() / (count_x | count_y).total()


def _equal_budget(
    tokens_x: Sequence[str], tokens_y: Sequence[str], *, seed: int, budget: int | None
) -> tuple[list[str], list[str]]:
    size = min(len(tokens_x), len(tokens_y)) if budget is None else budget
    if size < 1 or min(len(tokens_x), len(tokens_y)) < size:
        raise ValueError(f"word overlap: expected {max(size, 1)} tokens, got {len(tokens_x)} and {len(tokens_y)}")
    # one generator per side, so that swapping the sides swaps nothing else
    return _draw(tokens_x, size, np.random.default_rng(seed)), _draw(tokens_y, size, np.random.default_rng(seed))


def _draw(tokens: Sequence[str], size: int, generator: np.random.Generator) -> list[str]:
    if len(tokens) == size:
        return list(tokens)
    return [tokens[i] for i in generator.choice(len(tokens), size=size, replace=False)]
