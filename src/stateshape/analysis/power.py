"""What a study of a given size can see: power, the smallest effect it resolves, the items or seeds it would need.

Two noises: a finite set of items, and training seeds. Torch-free; nothing is random. Does not know claims or files.
Sources: Fleiss, Levin & Paik 2003 ch. 4 and 13 (two rates; McNemar's test given the discordant items); the t test is that of
analysis/statistics.py crossed_spread. Power is always for a stated effect: power "at the effect seen" only repeats the
p-value (Hoenig & Heisey 2001, doi:10.1198/000313001300339897).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, stdtrit
from scipy.stats import binom, chi2, norm

ALPHA = 0.05
POWER = 0.8  # what "can see" means here, by convention (Cohen 1988)
SURE = 0.8  # of an upper bound of the seed variance
MIN_SEEDS = 3  # fewer decide nothing (verdicts.py)
MAX_SEEDS = 1000
MAX_FACTOR = 1e6  # times as many items: as good as never
_QUANTILES = 256  # of the seed variance's law; power is then right to about 1e-3


class Design(NamedTuple):
    """The noise of a mean effect. seed_variance: of one training seed's effect around the mean over all seeds."""

    item_variance: float  # of the mean, from these items
    seed_variance: float
    num_seeds: int
    # of the mean, and part of item_variance: items that some seeds answer otherwise. It adds to what the seed means show
    interaction_variance: float = 0.0

    @property
    def variance(self) -> float:
        return self.seed_variance / self.num_seeds + self.item_variance

    @property
    def seed_means_variance(self) -> float:
        """Of the mean, as the means of the seeds show it: var over seeds / S."""
        return self.seed_variance / self.num_seeds + self.interaction_variance

    def with_items(self, factor: float) -> Design:
        """`factor` times as many items."""
        return self._replace(
            item_variance=self.item_variance / factor, interaction_variance=self.interaction_variance / factor
        )

    def with_seeds(self, num_seeds: int) -> Design:
        """Only the interaction becomes smaller with more seeds; the seeds' own part is divided by their number anyway."""
        interaction = self.interaction_variance * self.num_seeds / num_seeds
        return self._replace(
            item_variance=self.item_variance - self.interaction_variance + interaction,
            interaction_variance=interaction,
            num_seeds=num_seeds,
        )


# Measured noise


class SeedSd(NamedTuple):
    """Standard deviation of one seed's mean, and the degrees of freedom that it rests on."""

    sd: float
    df: int


def measured(*, stderr: float, seed_sd: float, values_S: Sequence[float]) -> Design:
    """The design that an Estimate of several seeds describes (core/study_records.py): its stderr, seed_sd and per_seed.

    Of V = V_seed + V_item - V_e (statistics.crossed_spread), stderr^2 is V, var(values) / S is V_seed, and seed_sd^2 / S is
    V - V_item. seed_sd may be 0 by luck; V_seed hardly is.
    """
    num_seeds = len(values_S)
    own = seed_sd**2 / num_seeds
    shown = float(np.var(values_S, ddof=1)) / num_seeds
    item_variance = max(0.0, stderr**2 - own)
    return Design(
        item_variance=item_variance,
        seed_variance=seed_sd**2,
        num_seeds=num_seeds,
        interaction_variance=min(max(0.0, shown - own), item_variance),
    )


def pooled_seed_sd(values: Sequence[Sequence[float]]) -> SeedSd:
    """One standard deviation of the seeds' means for several runs: sqrt(sum_r df_r var_r / sum_r df_r), df_r = S_r - 1.

    Assumes that the runs spread alike over seeds. Of runs, not of contrasts: contrasts that share a run are not independent.
    A contrast's variance is sum_r w_r^2 sd^2 over its trained runs.

    Args: values: the mean of each seed, for each run.
    Raises: ValueError if no run has two seeds.
    """
    several = [np.asarray(one, np.float64) for one in values if len(one) > 1]
    if not several:
        raise ValueError("pooled_seed_sd: expected a run with at least two seeds, got none")
    df = sum(len(one) - 1 for one in several)
    return SeedSd(math.sqrt(sum(float(((one - one.mean()) ** 2).sum()) for one in several) / df), df)


def conservative(design: Design, seeds: SeedSd | None = None, *, confidence: float = SURE) -> Design:
    """The design with an upper bound of its seed variance: V_seed df / chi2_{1 - confidence}(df), less the interaction.

    Few seeds often agree by luck: with 3, the variance comes out below a quarter of its true value in 22 of 100 studies, and
    power printed from it is too high. With `confidence` the power of this design is at most the true one.

    Args: seeds: of the same effect and from elsewhere, as pooled_seed_sd over runs. Default: the design's own, df = S - 1.
    """
    if design.num_seeds == 1 and seeds is None:
        return design
    if seeds is None:
        seeds = SeedSd(math.sqrt(design.seed_means_variance * design.num_seeds), design.num_seeds - 1)
    bound = seeds.sd**2 * seeds.df / float(chi2.ppf(1 - confidence, seeds.df))
    return design._replace(seed_variance=max(0.0, bound - design.interaction_variance * design.num_seeds))


# A t test over seeds and items


def power_of(design: Design, effect: float, *, alpha: float = ALPHA) -> float:
    """Chance that the two-sided test of "no effect" rejects on the side of `effect`.

    E_u Phi((|effect| - half(u)) / sqrt(V)),  (S-1) u ~ chi2(S-1),  V the design's variance
    half(u) is that of analysis/statistics.py t_interval where these seeds' means happen to spread by u times what is
    expected, which is independent of their mean. One seed, or seeds that do not differ: the normal test.
    """
    scale = math.sqrt(design.variance)
    return 1.0 if scale == 0 else _power(effect, _half_widths(design, alpha), scale)


def minimal_effect(design: Design, *, power: float = POWER, alpha: float = ALPHA) -> float:
    """The smallest effect that power_of gives `power` for."""
    scale = math.sqrt(design.variance)
    if scale == 0:
        return 0.0
    half_U = _half_widths(design, alpha)
    high = float(half_U.max()) + 8 * scale  # power is 1 there
    return float(brentq(lambda effect: _power(effect, half_U, scale) - power, 0.0, high, xtol=1e-6 * scale))


def _half_widths(design: Design, alpha: float) -> np.ndarray:
    """half(u) at _QUANTILES equally likely u: what must be exceeded to reject. Items are taken to be many: their df endless."""
    item, df = design.item_variance, design.num_seeds - 1
    if df == 0 or design.seed_means_variance == 0:
        return np.array([norm.ppf(1 - alpha / 2) * math.sqrt(item)])
    shown_U = design.seed_means_variance * _chi2_quantiles(df) / df
    variance_U = np.maximum(shown_U + item - design.interaction_variance, np.maximum(shown_U, item))
    # stdtrit: the quantile of Student's t without the checks of scipy.stats, which take most of the time of a verdict
    both_U = stdtrit(df * variance_U / shown_U, 1 - alpha / 2) * np.sqrt(variance_U)
    return np.maximum(both_U, stdtrit(df, 1 - alpha / 2) * np.sqrt(shown_U))


@cache
def _chi2_quantiles(df: int) -> np.ndarray:
    """[U]: equally likely values of a chi-squared variable."""
    return chi2.ppf((np.arange(_QUANTILES) + 0.5) / _QUANTILES, df)


def _power(effect: float, half_U: np.ndarray, scale: float) -> float:
    return float(ndtr((abs(effect) - half_U) / scale).mean())


def items_factor(design: Design, effect: float, *, power: float = POWER, alpha: float = ALPHA) -> float | None:
    """How many times the items would give `power` for `effect` with these seeds; None if no number of items would."""

    def short(log_factor: float) -> float:
        return power_of(design.with_items(math.exp(log_factor)), effect, alpha=alpha) - power

    limit = math.log(MAX_FACTOR)
    if effect == 0 or short(limit) < 0:
        return None
    return math.exp(float(brentq(short, -limit, limit))) if short(-limit) < 0 else 1 / MAX_FACTOR


def seeds_needed(design: Design, effect: float, *, power: float = POWER, alpha: float = ALPHA) -> int | None:
    """The fewest seeds that give `power` for `effect` on these items; None if no number (up to 1,000) would."""

    def suffices(num_seeds: int) -> bool:
        return power_of(design.with_seeds(num_seeds), effect, alpha=alpha) >= power

    return _smallest(suffices, MIN_SEEDS, MAX_SEEDS)


def _smallest(suffices: Callable[[int], bool], low: int, high: int) -> int | None:
    if not suffices(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle + 1, high)
    return low


# Two rates


def rate_design(p0: float, p1: float, n: int, rho: float, *, num_seeds: int = 1, seed_sd: float = 0.0) -> Design:
    """Two rates on the same n items whose 0/1 outcomes correlate by rho; rho = 0: n different items per side.

    V_item = (v0 + v1 - 2 rho sqrt(v0 v1)) / n,  v = p(1-p). Every seed answers the items alike: more seeds make the items'
    noise no smaller, which is the worst case.
    Raises: ValueError if a rate, n or rho is out of range, or rho is impossible for these rates.
    """
    if not (0 < p0 < 1 and 0 < p1 < 1 and -1 <= rho < 1):
        raise ValueError(f"power: expected rates inside (0, 1) and -1 <= rho < 1, got p0={p0}, p1={p1}, rho={rho}")
    if n < 1 or num_seeds < 1 or seed_sd < 0:
        raise ValueError(f"power: expected n >= 1, seeds >= 1, seed_sd >= 0, got {n}, {num_seeds}, {seed_sd}")
    v0, v1 = p0 * (1 - p0), p1 * (1 - p1)
    variance = v0 + v1 - 2 * rho * math.sqrt(v0 * v1)
    # discordant items must be at least |p1 - p0|: a higher correlation cannot happen at these rates
    if variance < abs(p1 - p0) - (p1 - p0) ** 2 - 1e-12:
        raise ValueError(f"power: rho={rho} is impossible for rates {p0} and {p1}")
    return Design(item_variance=variance / n, seed_variance=seed_sd**2, num_seeds=num_seeds)


def power_paired(p0: float, p1: float, n: int, rho: float, *, alpha: float = ALPHA) -> float:
    """Power of the exact McNemar test of two rates on the same n items, one seed, on the side of the effect.

    sum_m Binomial(m; n, d) P(X > m - c(m) - 1),  X ~ Binomial(m, q): of m discordant items those that the higher rate has right
    d = V_item n + (p1 - p0)^2 of the items are discordant, q = (d + |p1 - p0|) / 2d; c(m): the most of the rarer kind at
    which the test of analysis/statistics.py exact_mcnemar has p < alpha.

    Raises: ValueError as rate_design.
    """
    variance = rate_design(p0, p1, 1, rho).item_variance
    gap = abs(p1 - p0)
    discordant = min(1.0, variance + gap * gap)
    middle, spread = n * discordant, math.sqrt(n * discordant * (1 - discordant))
    m = np.arange(max(0, math.floor(middle - 9 * spread)), min(n, math.ceil(middle + 9 * spread)) + 1)
    c_m = binom.ppf(alpha / 2, m, 0.5)
    c_m -= 2 * binom.cdf(c_m, m, 0.5) >= alpha  # ppf gives the first count whose tail reaches alpha / 2
    more = min(1.0, (discordant + gap) / (2 * discordant)) if discordant > 0 else 0.5
    rejects_m = np.where(c_m >= 0, binom.sf(m - c_m - 1, m, more), 0.0)
    return float(binom.pmf(m, n, discordant) @ rejects_m)


def power_unpaired(p0: float, p1: float, n: int, *, alpha: float = ALPHA) -> float:
    """Power of a normal test of two rates on n different items each: Phi(|p1 - p0| / sqrt(V_item) - z_{1-alpha/2})."""
    return power_of(rate_design(p0, p1, n, 0.0), p1 - p0, alpha=alpha)


def minimal_n(p0: float, p1: float, rho: float, *, power: float = POWER, alpha: float = ALPHA) -> int:
    """Items at which power_paired reaches `power`, and does not with one less. None of the numbers below is tried: a jump
    of the exact test may let an odd smaller number reach it, too.

    Raises: ValueError if p0 equals p1, or as rate_design.
    """
    if p0 == p1:
        raise ValueError(f"minimal_n: expected two different rates, got {p0} twice")
    z = float(norm.ppf(1 - alpha / 2) + norm.ppf(power))
    normal = math.ceil(rate_design(p0, p1, 1, rho).item_variance * (z / (p1 - p0)) ** 2)
    found = _smallest(lambda n: power_paired(p0, p1, n, rho, alpha=alpha) >= power, 1, 4 * normal + 40)
    assert found is not None
    return found


def minimal_difference(p0: float, n: int, rho: float, *, power: float = POWER, alpha: float = ALPHA) -> float:
    """Smallest difference detectable with n paired items, both rates taken near p0: (z + z) sqrt(2 v0 (1 - rho) / n).

    Of the normal test; the exact one needs a few hundredths more.
    """
    z = float(norm.ppf(1 - alpha / 2) + norm.ppf(power))
    return z * math.sqrt(rate_design(p0, p0, n, rho).item_variance)
