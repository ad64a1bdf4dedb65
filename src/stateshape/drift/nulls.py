"""How a distance between two samples is judged: permutations within prompts for the null, resampled prompts for the interval.

Both sides hold the same prompts, and each prompt the same number of rows on both (states.py sees to it). If base and run
wrote alike, a prompt's two sets of rows could trade places and nothing would change: that swap, prompt by prompt, is the
null. Rows of one prompt move together because they are not independent. Does not know any distance.

Suffixes: B permutations or resamples, P prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, UInt8
from numpy.typing import DTypeLike
from scipy.stats import norm
from scipy.stats import t as student_t

from stateshape.core.records import DriftValue
from stateshape.core.seeds import seed_for

NUM_PERMUTATIONS = 1000  # the smallest p is then 1/1001
NUM_RESAMPLES = 500  # of the interval: its ends move by under a tenth of its width
COVERAGE = 0.95
TAKEN_OFF = 1.5  # of the 2 by which the resamples of a sum over pairs are too wide, in pairwise_width
TIE = 1e-6  # in null sd: a permutation that is the data itself may differ from it by rounding


@dataclass(frozen=True, kw_only=True, slots=True)
class Draws:
    """Which prompts trade sides in each permutation, and how often each prompt is in each resample."""

    is_swapped_BP: Bool[np.ndarray, "B P"]
    weights_BP: UInt8[np.ndarray, "C P"]

    @classmethod
    def make(cls, num_prompts: int, *, seed: int, num_permutations: int, num_resamples: int) -> Draws:
        """Fair coins, and P prompts drawn with replacement."""
        coins = np.random.default_rng(seed_for(seed, "drift permutations"))
        drawn = np.random.default_rng(seed_for(seed, "drift resamples"))
        weights_BP = np.zeros((num_resamples, num_prompts), np.uint8)
        for weights_P in weights_BP:
            weights_P[:] = np.bincount(drawn.integers(num_prompts, size=num_prompts), minlength=num_prompts)
        bits = coins.integers(256, size=(num_permutations, -(-num_prompts // 8)), dtype=np.uint8)
        is_swapped_BP = np.unpackbits(bits, axis=1, count=num_prompts).view(bool)
        return cls(is_swapped_BP=is_swapped_BP, weights_BP=weights_BP)

    def signs(self, prompts: slice = slice(None), dtype: DTypeLike = np.float64) -> Float[np.ndarray, "B P"]:
        """-1 where a prompt's rows trade sides, else 1."""
        signs_BP = self.is_swapped_BP[:, prompts].astype(dtype)
        signs_BP *= -2
        signs_BP += 1
        return signs_BP

    def weights(self, prompts: slice = slice(None), dtype: DTypeLike = np.float64) -> Float[np.ndarray, "C P"]:
        return self.weights_BP[:, prompts].astype(dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistic:
    """One distance: its value, the values under the permutations, and those of the resamples."""

    value: float
    null_B: Float64[np.ndarray, " B"]
    resampled_B: Float64[np.ndarray, " C"]
    floor: float | None = None
    note: str | None = None  # how it was computed, where that is not the plain way
    width: float = 1.0  # of the interval, in widths of the resamples
    is_square: bool = False  # of the distance that is reported
    bounds: tuple[float, float] = (-math.inf, math.inf)  # what the distance can be; the interval ends there


def pairwise_width(value: float, null_B: np.ndarray, resampled_B: np.ndarray, *, num_prompts: int) -> float:
    """Width of the interval of a sum over pairs of different prompts, in widths of its resamples.

    With h_pq of a pair and R_p = sum_q h_pq, resamples have variance 4 sum R_p^2 + V, V = 2 sum h_pq^2 (over the squared
    number of pairs). R_p itself is a sum of noise, so sum R_p^2 is too large by sum h_pq^2: on average 2 V too much, which
    makes resamples wider by the root of 3 where there is no drift. Taking all of it off is right on average, but leaves too
    narrow an interval where a small drift comes out smaller by luck (coverage down to .89), so TAKEN_OFF V is taken off.
    V is the variance under permutations, less 2 value^2 / (P (P - 1)), which is no noise. For few prompts: Student's t with
    P - 1 degrees of freedom for the normal, and P / (P - 1) for the variance of P prompts. Coverage: docs/drift.md.
    Source: Hoeffding's variance of a U-statistic; Arcones & Gine 1992 (doi:10.1214/aos/1176348521): its plain bootstrap fails
    where it is degenerate.
    """
    if len(null_B) < 2 or len(resampled_B) < 2 or num_prompts < 2:
        return 1.0
    resampled = float(resampled_B.var(ddof=1))
    if resampled == 0:
        return 1.0
    noise = max(0.0, float(null_B.var(ddof=1)) - 2 * value**2 / (num_prompts * (num_prompts - 1)))
    tail = (1 + COVERAGE) / 2
    few = float(student_t.ppf(tail, num_prompts - 1) / norm.ppf(tail)) * math.sqrt(num_prompts / (num_prompts - 1))
    return few * math.sqrt(max(resampled - TAKEN_OFF * noise, (3 - TAKEN_OFF) * noise) / resampled)


def signed_root(values: np.ndarray) -> np.ndarray:
    """sqrt(|v|) with v's sign: keeps order, and the square of what is below 0."""
    return np.sign(values) * np.sqrt(np.abs(values))


def judged(
    statistic: Statistic | None, base: Statistic | None, *, num_states: int, reason: str | None = None
) -> DriftValue:
    """The record of a distance of run vs base, with base vs base for comparison.

    p = (1 + #{null >= value}) / (B + 1), one-sided: large is far. z = (value - null mean) / null sd, None where every
    permutation gives one value. The interval holds the middle 95% of the resamples, moved by mean(resamples) - value (a
    resample holds prompts several times, which by itself lifts every distance that is positive without drift) and
    stretched by `width` around the value, and ends where the distance does. A squared distance is judged as it is and
    reported by its signed root.
    Source: Phipson & Smyth 2010 (doi:10.2202/1544-6115.1585) for p; Efron & Tibshirani 1993 ch. 10 and 13 for the rest.
    """
    base_value = None if base is None else _value(base)
    if statistic is None:
        return DriftValue(value=None, base_vs_base=base_value, note=reason)
    null_mean = null_sd = z = p = low = high = None
    value = _value(statistic)
    if len(statistic.null_B):
        p = _share_beyond(statistic)
        null_B = _reported(statistic, statistic.null_B)
        null_mean, null_sd = float(null_B.mean()), float(null_B.std(ddof=1))
        is_flat = null_sd <= 1e-12 * max(1.0, abs(null_mean))
        z = None if is_flat else (value - null_mean) / null_sd
    if len(statistic.resampled_B):
        tails = np.quantile(statistic.resampled_B, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
        ends = (tails - statistic.resampled_B.mean()) * statistic.width + statistic.value
        low, high = np.clip(_reported(statistic, ends), *statistic.bounds).tolist()
    return DriftValue(
        value=value,
        base_vs_base=base_value,
        null_mean=null_mean,
        null_sd=null_sd,
        z=z,
        p=p,
        lo=low,
        hi=high,
        floor=statistic.floor,
        num_states=num_states,
        note=statistic.note,
    )


def _share_beyond(statistic: Statistic) -> float:
    tie = TIE * float(statistic.null_B.std(ddof=1))
    return (1 + int((statistic.null_B >= statistic.value - tie).sum())) / (len(statistic.null_B) + 1)


def _value(statistic: Statistic) -> float:
    return float(_reported(statistic, np.array([statistic.value]))[0])


def _reported(statistic: Statistic, values: np.ndarray) -> np.ndarray:
    return signed_root(values) if statistic.is_square else values
