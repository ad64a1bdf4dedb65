"""What a study of a given size can see: power, the smallest effect it resolves, the items or seeds it would need.

Two noises: a finite set of items, and training seeds. Torch-free; nothing is random. Does not know claims or files.
Sources: normal approximation for two rates, Fleiss, Levin & Paik 2003 ch. 4 and 13; the t test is that of
analysis/statistics.py crossed_spread. Power is always for a stated effect: power "at the effect seen" only repeats the
p-value (Hoenig & Heisey 2001, doi:10.1198/000313001300339897).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import chi2, norm
from scipy.stats import t as student_t

ALPHA = 0.05
POWER = 0.8  # what "can see" means here, by convention (Cohen 1988)
MIN_SEEDS = 3  # fewer decide nothing (verdicts.py)
MAX_SEEDS = 1000
MAX_FACTOR = 1e6  # times as many items: as good as never
_QUANTILES = 256  # of the seed variance's law; power is then right to about 1e-3


class Design(NamedTuple):
    """The noise of a mean effect. seed_variance: of one training seed's effect around the mean over all seeds."""

    item_variance: float  # of the mean, from these items
    seed_variance: float
    num_seeds: int


# A t test over seeds and items


def power_of(design: Design, effect: float, *, alpha: float = ALPHA) -> float:
    """Chance that the two-sided test of "no effect" rejects on the side of `effect`.

    E_u Phi((|effect| - half(u)) / sqrt(V)),  V(u) = u V_seed / S + V_item,  (S-1) u ~ chi2(S-1)
    half(u) is that of analysis/statistics.py t_interval for the seeds' spread u that these seeds happen to show, which is
    independent of their mean. One seed, or seeds that do not differ: the normal test.
    """
    scale = math.sqrt(design.seed_variance / design.num_seeds + design.item_variance)
    return 1.0 if scale == 0 else _power(effect, _half_widths(design, alpha), scale)


def minimal_effect(design: Design, *, power: float = POWER, alpha: float = ALPHA) -> float:
    """The smallest effect that power_of gives `power` for."""
    scale = math.sqrt(design.seed_variance / design.num_seeds + design.item_variance)
    if scale == 0:
        return 0.0
    half_U = _half_widths(design, alpha)
    high = float(half_U.max()) + 8 * scale  # power is 1 there
    return float(brentq(lambda effect: _power(effect, half_U, scale) - power, 0.0, high, xtol=1e-6 * scale))


def _half_widths(design: Design, alpha: float) -> np.ndarray:
    """half(u) at _QUANTILES equally likely u: what must be exceeded to reject."""
    item, seed, df = design.item_variance, design.seed_variance / design.num_seeds, design.num_seeds - 1
    if df == 0 or seed == 0:
        return np.array([norm.ppf(1 - alpha / 2) * math.sqrt(item)])
    estimated_U = seed * chi2.ppf((np.arange(_QUANTILES) + 0.5) / _QUANTILES, df) / df
    variance_U = estimated_U + item
    both_U = student_t.ppf(1 - alpha / 2, df * (variance_U / estimated_U) ** 2) * np.sqrt(variance_U)
    return np.maximum(both_U, student_t.ppf(1 - alpha / 2, df) * np.sqrt(estimated_U))


def _power(effect: float, half_U: np.ndarray, scale: float) -> float:
    return float(ndtr((abs(effect) - half_U) / scale).mean())


def items_factor(design: Design, effect: float, *, power: float = POWER, alpha: float = ALPHA) -> float | None:
    """How many times the items would give `power` for `effect` with these seeds; None if no number of items would."""

    def short(log_factor: float) -> float:
        more = design._replace(item_variance=design.item_variance / math.exp(log_factor))
        return power_of(more, effect, alpha=alpha) - power

    limit = math.log(MAX_FACTOR)
    if effect == 0 or short(limit) < 0:
        return None
    return math.exp(float(brentq(short, -limit, limit))) if short(-limit) < 0 else 1 / MAX_FACTOR


def seeds_needed(design: Design, effect: float, *, power: float = POWER, alpha: float = ALPHA) -> int | None:
    """The fewest seeds that give `power` for `effect` on these items; None if no number (up to 1,000) would."""

    def suffices(num_seeds: int) -> bool:
        return power_of(design._replace(num_seeds=num_seeds), effect, alpha=alpha) >= power

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
    """Two rates on the same n items whose 0/1 outcomes correlate by rho; rho = 0: n different items a side.

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
    """Power of a two-sided test of two rates on the same n items: Phi(|p1 - p0| / sqrt(V_item) - z_{1-alpha/2})."""
    return power_of(rate_design(p0, p1, n, rho), p1 - p0, alpha=alpha)


def power_unpaired(p0: float, p1: float, n: int, *, alpha: float = ALPHA) -> float:
    """power_paired with rho = 0: n different items on each side."""
    return power_paired(p0, p1, n, 0.0, alpha=alpha)


def minimal_n(p0: float, p1: float, rho: float, *, power: float = POWER, alpha: float = ALPHA) -> int:
    """Fewest items (per side) at which power_paired reaches `power`: ceil(n V_item ((z_{1-a/2} + z_power) / (p1 - p0))^2).

    Raises: ValueError if p0 equals p1.
    """
    if p0 == p1:
        raise ValueError(f"minimal_n: expected two different rates, got {p0} twice")
    z = float(norm.ppf(1 - alpha / 2) + norm.ppf(power))
    return max(1, math.ceil(rate_design(p0, p1, 1, rho).item_variance * (z / (p1 - p0)) ** 2))


def minimal_difference(p0: float, n: int, rho: float, *, power: float = POWER, alpha: float = ALPHA) -> float:
    """Smallest difference detectable with n paired items, both rates taken near p0: (z + z) sqrt(2 v0 (1 - rho) / n)."""
    z = float(norm.ppf(1 - alpha / 2) + norm.ppf(power))
    return z * math.sqrt(rate_design(p0, p0, n, rho).item_variance)
