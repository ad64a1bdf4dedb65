"""Is a run's drift, over training seeds, more than base against base? Torch-free.

All seeds of a run are measured against the same base rollouts: their values share that sample's noise, which a t test over
seeds does not see. Here each seed's permutation p carries the test and the interval has the shared noise in it. Reads
drift records; does not know claims, nor which distance matters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

from stateshape.core.records import DriftRecord, DriftValue
from stateshape.core.study_records import Estimate

# Correlation of two seeds' values without drift. To first order a value is |r - a|^2 less its mean, r and a independent
# errors of one size; of its variance, 8 in some unit, the base's |a|^2 has 2.
SHARED = 0.25
CONFIDENCE = 0.95


class DriftExcess(NamedTuple):
    """Mean over seeds of value minus base_vs_base, and a two-sided p of "no drift in any seed". p None: nothing to test by."""

    estimate: Estimate
    p: float | None


def drift_excess(records: Mapping[int, DriftRecord], distance: str) -> DriftExcess:
    """From a run's records by training seed, those that have the distance and its base against base.

    p = 2 P(Z > z), z = mean_s Phi^{-1}(1 - p_s) / sqrt((1 + (S - 1) r) / S), r = SHARED, p_s each seed's permutation p
    (Stouffer's sum with the correlation that shared base rollouts give it; values below the null count against drift).
    half^2 = t_{S-1}^2 var_s / S + z^2 (V + N) / 2: the seeds; half of V, a value's variance over prompts and samples, which
    comes from the base's side; half of N, the null's variance, for base_vs_base, whose other half cancels.
    Size without drift at .05, one side: .02 at 3, 5 and 10 seeds; coverage .95 to .99 with and without drift (LOG.md).

    Args: records: by seed. distance: a name of drift/measure.py.
    """
    found = {seed: record.distances.get(distance) for seed, record in sorted(records.items())}
    known = {seed: v for seed, v in found.items() if v is not None and None not in (v.value, v.base_vs_base)}
    if not known:
        return DriftExcess(
            Estimate(value=None, lo=None, hi=None, n_items=0, n_seeds=0, note="no drift was measured"), None
        )
    per_seed = {str(seed): _excess(value) for seed, value in known.items()}
    values_S = np.array(list(per_seed.values()))
    num_seeds, mean = len(values_S), float(values_S.mean())
    lo = hi = sd = stderr = None
    shared = _shared_variance(list(known.values()))
    note: str | None = "one training seed: no interval"
    if num_seeds > 1:
        note = None if shared is not None else "drift was measured without permutations: no interval"
        sd = float(values_S.std(ddof=1))
    if sd is not None and shared is not None:
        tail = (1 + CONFIDENCE) / 2
        own = sd / math.sqrt(num_seeds)
        half = math.hypot(student_t.ppf(tail, num_seeds - 1) * own, norm.ppf(tail) * math.sqrt(shared))
        lo, hi, stderr = mean - half, mean + half, math.hypot(own, math.sqrt(shared))
    estimate = Estimate(
        value=mean,
        lo=lo,
        hi=hi,
        n_items=0,
        n_seeds=num_seeds,
        per_seed=per_seed,
        stderr=stderr,
        seed_sd=sd,
        note=note,
    )
    return DriftExcess(estimate, combined_p([value.p for value in known.values()]))


def combined_p(pvalues: list[float | None]) -> float | None:
    """Two-sided p of one-sided p-values whose normal scores correlate by SHARED; None where one is missing.

    Source: Stouffer et al. 1949; Strube 1985 (doi:10.1037/0033-2909.97.2.334) for correlated scores.
    """
    if not pvalues or any(p is None for p in pvalues):
        return None
    num = len(pvalues)
    # 1: the value lies below every permutation, of which there are some hundreds
    scores_S = norm.isf(np.clip(np.array(pvalues, np.float64), None, 1 - 1e-3))
    z = float(scores_S.mean()) / math.sqrt((1 + (num - 1) * SHARED) / num)
    return min(1.0, 2 * float(norm.sf(z)))


def _excess(value: DriftValue) -> float:
    assert value.value is not None and value.base_vs_base is not None
    return value.value - value.base_vs_base


def _shared_variance(values: list[DriftValue]) -> float | None:
    """Of the mean, what more seeds do not make smaller; None where a record is without a null or an interval."""
    parts = []
    for value in values:
        if value.null_sd is None or value.lo is None or value.hi is None:
            return None
        own = (value.hi - value.lo) / 2 / float(norm.ppf((1 + CONFIDENCE) / 2))
        parts.append((own**2 + value.null_sd**2) / 2)
    return float(np.mean(parts))
