"""Intervals and paired tests for evaluation scores. Torch-free; every random draw comes from a seeded Generator.

Scores are in their own unit (rates in [0, 1]). Intervals are two-sided, 95% unless `confidence` says otherwise.
Does not know what a task, a run or a file is: only arrays of scores, rows aligned by the caller. N items, S training seeds.
Sources: Wilson 1927 (doi:10.1080/01621459.1927.10502953); McNemar 1947 (doi:10.1007/BF02295996); Holm 1979 (Scand. J.
Statist. 6:65-70); Cochran & Cox 1950, Experimental Designs, sec. 4.14; Efron & Tibshirani 1993 ch. 13 and 16; Chen et al.
2021 (arXiv:2107.03374).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Num
from scipy.special import stdtr, stdtrit
from scipy.stats import binomtest, norm

from stateshape.core.records import Metric

MIN_ITEMS = 50  # fewer decide nothing: a t interval of 0/1 scores is rough below
MIN_DIFFERING = 10  # items; with fewer, 95% intervals of rare flips miss up to 11%, all on one side (LOG.md)
NUM_RESAMPLES = 10_000  # Monte-Carlo error of a 95% bound is then about 0.02 standard errors
_CHUNK_DRAWS = 2_000_000  # random indices held at once: 16 MB


class Interval(NamedTuple):
    lo: float
    hi: float


class BootstrapTest(NamedTuple):
    """A percentile interval for a mean and a two-sided p-value of "the mean is zero"."""

    lo: float
    hi: float
    p: float


class Spread(NamedTuple):
    """A mean over training seeds and items, and how far it may be off. Variances are those of the mean."""

    value: float
    variance: float
    df: float  # degrees of freedom of `variance`
    seed_variance: float  # the part that only more seeds make smaller; 0 for one seed, where it is unknown
    seed_means_variance: (
        float  # var over seeds of their means / S: seed_variance with what items add to it; 0 for one seed
    )
    num_seeds: int


# Single rates and means


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson score interval of a rate.

    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n),  p = successes / n

    Args: successes: 0..n. n: at least 1.
    Raises: ValueError if successes is outside 0..n or n < 1.
    Source: Wilson 1927.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"wilson: expected n >= 1 and 0 <= successes <= n, got successes={successes}, n={n}")
    z = float(norm.ppf(0.5 + confidence / 2))
    rate = successes / n
    centre = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # exactly 0 or 1 at the ends, where rounding would leave a dust of 1e-18
    lo = 0.0 if successes == 0 else (centre - half) / scale
    hi = 1.0 if successes == n else (centre + half) / scale
    return Interval(lo, hi)


def mean_estimate(values: Sequence[float | int] | Num[np.ndarray, " N"], *, confidence: float = 0.95) -> Metric:
    """Mean of per-item scores with standard error and interval, as a Metric.

    Scores that are all 0 or 1 get Wilson's interval and sqrt(p(1-p)/n); others mean -+ z s/sqrt(n) with the sample
    standard deviation s (n - 1). One item that is not 0 or 1 has a value and no interval; no items, no value.
    """
    scores_N = np.asarray(values, dtype=np.float64)
    n = int(scores_N.size)
    if n == 0:
        return Metric(value=None, n=0, stderr=None, ci95=None)
    mean = float(scores_N.mean())
    if is_binary(scores_N):
        interval = wilson(round(float(scores_N.sum())), n, confidence)
        return Metric(value=mean, n=n, stderr=math.sqrt(mean * (1 - mean) / n), ci95=(interval.lo, interval.hi))
    if n == 1:
        return Metric(value=mean, n=1, stderr=None, ci95=None)
    stderr = float(scores_N.std(ddof=1)) / math.sqrt(n)
    half = float(norm.ppf(0.5 + confidence / 2)) * stderr
    return Metric(value=mean, n=n, stderr=stderr, ci95=(mean - half, mean + half))


def is_binary(values: Num[np.ndarray, " *shape"]) -> bool:
    """Whether every value is exactly 0 or 1."""
    return bool(np.all((values == 0) | (values == 1)))


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased chance that at least one of k samples is right, from n samples of which c are.

    pass@k = 1 - C(n-c, k) / C(n, k)

    Raises: ValueError unless 0 <= c <= n and 1 <= k <= n.
    Source: arXiv:2107.03374 eq. 1.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass_at_k: expected 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


# Paired comparisons


def exact_mcnemar(a_N: Bool[np.ndarray, " N"], b_N: Bool[np.ndarray, " M"]) -> float:
    """Two-sided exact McNemar p-value of "a and b are right equally often" on the same N items.

    p = P(|X - m/2| >= |b - m/2|),  X ~ Binomial(m, 1/2),  m = discordant items, b = items only a has right

    Returns: 1.0 where no item is discordant.
    Raises: ValueError if the lengths N and M differ.
    Source: McNemar 1947, exact conditional form.
    """
    if a_N.shape != b_N.shape:
        raise ValueError(f"exact_mcnemar: expected equal lengths, got {a_N.shape} and {b_N.shape}")
    only_a = int(np.sum(a_N & ~b_N))
    only_b = int(np.sum(b_N & ~a_N))
    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def paired_bootstrap(
    differences_N: Num[np.ndarray, " N"], seed: int, num: int = NUM_RESAMPLES, *, confidence: float = 0.95
) -> Interval:
    """Percentile bootstrap interval of a mean of paired differences, items resampled.

    Raises: ValueError if there are no items.
    Source: Efron & Tibshirani 1993 ch. 13.
    """
    scores_1N = np.asarray(differences_N, dtype=np.float64)[None, :]
    means_R = resampled_means([scores_1N], np.random.default_rng(seed), num=num)
    return percentile_interval(means_R, confidence=confidence)


def hierarchical_bootstrap(
    differences_SN: Num[np.ndarray, "S N"], seed: int, num: int = NUM_RESAMPLES, *, confidence: float = 0.95
) -> BootstrapTest:
    """Bootstrap of a mean over training seeds and items: S seeds, then N items, each drawn with replacement.

    The items of a seed are the items of every seed (crossed, not nested), so one draw of items serves all drawn seeds.
    The interval is the percentile interval of the resampled means; p is two-sided from the centred distribution:
    p = (1 + #{|m*_r - m| >= |m|}) / (num + 1). Few seeds understate the variance between seeds by (S-1)/S, and no draw
    leaves the range of the seeds: at 3 seeds a 95% interval holds the truth 95% of the time where items are all the noise,
    91% where seeds are half of it, 75% where seeds are all of it. crossed_spread does not have this fault.

    Raises: ValueError if S or N is 0.
    Source: Efron & Tibshirani 1993 ch. 13, 16.4; crossed scheme: Owen 2007 (arXiv:0712.1111), pigeonhole bootstrap.
    """
    scores_SN = np.asarray(differences_SN, dtype=np.float64)
    means_R = resampled_means([scores_SN], np.random.default_rng(seed), num=num)
    interval = percentile_interval(means_R, confidence=confidence)
    return BootstrapTest(interval.lo, interval.hi, centred_p(means_R, observed=float(scores_SN.mean())))


def crossed_spread(tasks_SN: Sequence[Num[np.ndarray, "S _"]]) -> Spread:
    """Mean over tasks, seeds and items, with seeds and items as crossed random effects.

    x_si = mu + a_s + b_i + e_si; with the mean squares of the two-way layout
    V_seed = var_s(mean_i x) / S,  V_item = var_i(mean_s x) / N,  V_e = MS_e / (S N)   (V_item, V_e summed over tasks / T^2)
    V = max(V_seed + V_item - V_e, V_seed, V_item),  1/df = sum_k (V_k / V) / df_k   (S-1, N-1, (S-1)(N-1))
    Satterthwaite's df, with (V_k / V)^2, is right on average but too large where S seeds happen to agree: at .001 its size
    is up to 1.6 times nominal with 10 seeds. Weights of first order, as Cochran and Cox's, err on the safe side.
    The seeds of all tasks are the same trainings, the items are not. One seed: V = V_item, without noise between seeds.

    Args: tasks_SN: one [S, N] array a task, rows aligned over tasks. N may differ.
    Raises: ValueError where there are fewer than 2 items, or tasks differ in S.
    Source: Searle, Casella & McCulloch 1992 ch. 4 (mean squares); Cochran & Cox 1950 sec. 4.14 (weights).
    """
    arrays = [np.asarray(task, dtype=np.float64) for task in tasks_SN]
    num_seeds, num_tasks = len(arrays[0]), len(arrays)
    if any(len(array) != num_seeds or array.shape[1] < 2 for array in arrays):
        raise ValueError(f"crossed_spread: expected equal S and N >= 2, got shapes {[array.shape for array in arrays]}")
    seed_means_S = np.mean([array.mean(axis=1) for array in arrays], axis=0)
    parts = []  # variance, its degrees of freedom
    item_variance = error_variance = 0.0
    for array in arrays:
        num_items, scale = array.shape[1], 1 / num_tasks**2
        item_means_N = array.mean(axis=0)
        v_item = scale * float(item_means_N.var(ddof=1)) / num_items
        parts.append((v_item, num_items - 1))
        item_variance += v_item
        if num_seeds > 1:
            residual_SN = array - item_means_N - array.mean(axis=1, keepdims=True) + array.mean()
            df = (num_seeds - 1) * (num_items - 1)
            v_error = scale * float((residual_SN**2).sum()) / df / array.size
            parts.append((v_error, df))
            error_variance += v_error
    seed_variance = 0.0
    if num_seeds > 1:
        seed_variance = float(seed_means_S.var(ddof=1)) / num_seeds
        parts.append((seed_variance, num_seeds - 1))
    variance = max(seed_variance + item_variance - error_variance, seed_variance, item_variance)
    below = sum(part / df for part, df in parts)
    return Spread(
        value=float(seed_means_S.mean()),
        variance=variance,
        df=variance / below if below > 0 else math.inf,
        seed_variance=max(0.0, variance - item_variance),
        seed_means_variance=seed_variance,
        num_seeds=num_seeds,
    )


def t_interval(spread: Spread, *, confidence: float = 0.95) -> Interval:
    """value -+ the larger of t_{df} sqrt(variance) and t_{S-1} sqrt(seed_means_variance).

    The second is what the seed means alone would give. Without it an interval could become narrower with noisier items:
    their many degrees of freedom hide that S seeds know little of their own spread. Sizes of its test over all shares of
    seeds in the noise, with item x seed noise from none to four times the items' (LOG.md): at most 1.12 times nominal at
    .05, .05/15 and .001 with 3, 5, 10 and 20 seeds. It is cautious where seeds are few and not the main noise: at .05/15 and
    3 seeds the size is then .05 to .75 times nominal.
    """
    at = 0.5 + confidence / 2  # stdtrit, stdtr: scipy.stats.t without its checks, which take longer than all else here
    half = float(stdtrit(spread.df, at)) * math.sqrt(spread.variance)
    if spread.seed_means_variance > 0:
        half = max(half, float(stdtrit(spread.num_seeds - 1, at)) * math.sqrt(spread.seed_means_variance))
    return Interval(spread.value - half, spread.value + half)


def t_test(spread: Spread, *, null: float = 0.0) -> float:
    """Two-sided p-value of "the true mean is `null`" that goes with t_interval: the larger of its two tests' p-values.

    1 where value and null are one; 0 where there is no spread at all.
    """
    distance = abs(spread.value - null)
    if distance <= 1e-12 or spread.variance == 0:  # rounding of a mean is no effect
        return float(distance <= 1e-12)
    p = 2 * stdtr(spread.df, -distance / math.sqrt(spread.variance))
    if spread.seed_means_variance > 0:
        p = max(p, 2 * stdtr(spread.num_seeds - 1, -distance / math.sqrt(spread.seed_means_variance)))
    return float(p)


def enough_items(tasks_SN: Sequence[Num[np.ndarray, "S _"]]) -> str | None:
    """Why these differences are too few for their interval to hold its level, in words; None if they suffice.

    A t interval needs items, and items that differ: where all but a few flips are 0, the mean's law is that of a small
    count. Counted over all tasks: items whose scores, in any seed, are not those of the commonest item. None differing is
    no fault: unanimous_half_width is exact there.

    Args: tasks_SN: one [S, N] array a task.
    """
    num_items = sum(array.shape[1] for array in tasks_SN)
    if num_items < MIN_ITEMS:
        return f"{num_items} items, fewer than {MIN_ITEMS}"
    common = [np.unique(np.round(array, 9), axis=1, return_counts=True)[1].max() for array in tasks_SN]
    num_differing = num_items - int(sum(common))
    if 0 < num_differing < MIN_DIFFERING:
        return f"{num_differing} of {num_items} items differ, fewer than {MIN_DIFFERING}"
    return None


def unanimous_half_width(num_items: int, width: float, *, confidence: float = 0.95) -> float:
    """How far a mean may be off if all of n items had one and the same value: width (1 - ((1 - confidence)/2)^(1/n)).

    If a share q of all items differed, n alike items would be drawn with chance (1 - q)^n; `width` is the most by which
    one item can differ. The resampled interval has width 0 there, which claims too much.
    Source: exact binomial bound at 0 of n (Clopper & Pearson 1934); "rule of three" for a one-sided 95% bound.
    """
    return width * (1 - ((1 - confidence) / 2) ** (1 / num_items))


def unanimous_p(num_items: int, width: float, distance: float) -> float:
    """Two-sided p-value of a true mean `distance` away from n items of one and the same value."""
    return min(1.0, 2 * max(0.0, 1 - distance / width) ** num_items)


def resampled_means(
    tasks_SN: Sequence[Float64[np.ndarray, "S _"]], generator: np.random.Generator, *, num: int = NUM_RESAMPLES
) -> Float64[np.ndarray, " R"]:
    """`num` bootstrap means over tasks, seeds and items (see hierarchical_bootstrap); one draw of seeds serves all tasks."""
    if any(0 in scores_SN.shape for scores_SN in tasks_SN):
        shapes = [scores_SN.shape for scores_SN in tasks_SN]
        raise ValueError(f"bootstrap: expected at least one seed and one item, got shapes {shapes}")
    weights_RS = seed_weights(len(tasks_SN[0]), generator, num=num)
    drawn = [(weights_RS * resampled_item_means(task_SN, generator, num=num)).sum(axis=1) for task_SN in tasks_SN]
    return np.mean(drawn, axis=0)


def seed_weights(num_seeds: int, generator: np.random.Generator, *, num: int) -> Float64[np.ndarray, "R S"]:
    """How often each seed is drawn in each resample, over S: rows sum to 1."""
    counts_RS = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num)
    return counts_RS / num_seeds


def resampled_item_means(
    scores_SN: Float64[np.ndarray, "S N"], generator: np.random.Generator, *, num: int = NUM_RESAMPLES
) -> Float64[np.ndarray, "R S"]:
    """Mean of each seed's scores in each of `num` resamples of the items; one draw of items serves all seeds.

    A draw of N items with replacement is its multinomial counts. Where scores take few distinct columns (0/1 scores
    of S seeds take at most 2^S), the counts are drawn per distinct column, which has the same law and costs far less.
    """
    num_items = scores_SN.shape[1]
    columns_KS, multiplicity_K = np.unique(scores_SN.T, axis=0, return_counts=True)
    if len(columns_KS) <= num_items // 4:
        counts_RK = generator.multinomial(num_items, multiplicity_K / num_items, size=num)
        return (counts_RK @ columns_KS) / num_items
    chunk = max(1, _CHUNK_DRAWS // num_items)
    parts = []
    for start in range(0, num, chunk):
        rows = min(chunk, num - start)
        index_CN = generator.integers(0, num_items, size=(rows, num_items))
        index_CN += np.arange(rows)[:, None] * num_items
        counts_CN = np.bincount(index_CN.ravel(), minlength=rows * num_items).reshape(rows, num_items)
        parts.append(counts_CN.astype(np.float64) @ scores_SN.T / num_items)
    return np.concatenate(parts)


def percentile_interval(values_R: Float64[np.ndarray, " R"], *, confidence: float = 0.95) -> Interval:
    """The central `confidence` of resampled values."""
    tail = (1 - confidence) / 2
    lo, hi = np.quantile(values_R, [tail, 1 - tail])
    return Interval(float(lo), float(hi))


def centred_p(values_R: Float64[np.ndarray, " R"], *, observed: float) -> float:
    """Two-sided bootstrap p-value of "the true value is zero": (1 + #{|v_r - observed| >= |observed|}) / (R + 1).

    Source: Efron & Tibshirani 1993 ch. 16 (shift to the null); the +1 is Davison & Hinkley 1997 eq. 4.11.
    """
    tolerance = 1e-12  # equal values that differ by rounding still count as "at least as extreme"
    exceed = int(np.sum(np.abs(values_R - observed) >= abs(observed) - tolerance))
    return (1 + exceed) / (len(values_R) + 1)


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given.

    With p_(1) <= ... <= p_(m): adjusted p_(i) = min(1, max_{j<=i} (m - j + 1) p_(j)),  i = 1..m

    Raises: ValueError if a value is outside [0, 1].
    Source: Holm 1979.
    """
    if any(not 0 <= p <= 1 for p in pvalues):
        raise ValueError(f"holm: expected p-values in [0, 1], got {list(pvalues)}")
    adjusted = [0.0] * len(pvalues)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(pvalues)), key=pvalues.__getitem__)):
        running = max(running, min(1.0, (len(pvalues) - rank) * pvalues[index]))
        adjusted[index] = running
    return adjusted
