"""Features of states, and the ruler of a comparison: word weights, centre and scale, kernel width, mean kernel value.

A ruler that moved with the run would measure nothing, so it is fitted on base states alone. And it must favour neither side
it measures, or the null is none: words of the texts it was fitted on weigh less than words it has not seen, which alone
makes the other side look far. So base_a and a run are measured by a ruler fitted on base_b, base_a and base_b by one that
is fitted on both. Does not know models: an Encoder brings its own.

Suffixes: N states, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array, vstack

from stateshape.drift.features import LexicalFeatures
from stateshape.drift.kernels import Rows, exponent_left, exponent_right, kernel_sums, squared_norms, table, times_table
from stateshape.drift.states import PrefixStates

MEDIAN_ROWS = 2048  # rows drawn for the median heuristic
# a squared distance below this many roundings of the largest |x|^2 cannot be told from 0
ROUNDINGS = 64

ToRows: TypeAlias = Callable[[Rows], Rows]  # counts or vectors of any states -> rows that distances are measured on


@runtime_checkable
class Encoder(Protocol):
    """Turns states into vectors. `features` describes them in words; it is written to the record."""

    features: str

    def encode(self, states: PrefixStates) -> Float[np.ndarray, "N D"]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruler:
    """gamma = 1 / (2 median distance^2) of base states; None where they have no spread, with the reason in `reason`.

    `mean_kernel`: E k(x, x') of base states of different prompts, at gamma.
    """

    gamma: float | None
    mean_kernel: float | None
    reason: str | None = None

    @classmethod
    def fit(cls, raw_ND: Rows, to_rows: ToRows, prompt_N: np.ndarray, *, seed: int) -> Ruler:
        """On at most MEDIAN_ROWS of the states that `to_rows` was fitted on."""
        if raw_ND.shape[0] > MEDIAN_ROWS:
            drawn = np.sort(np.random.default_rng(seed).choice(raw_ND.shape[0], MEDIAN_ROWS, replace=False))
            raw_ND, prompt_N = raw_ND[drawn], prompt_N[drawn]
        base_ND = to_rows(raw_ND)
        try:
            gamma = median_gamma(base_ND, seed=seed)
            mean = float(kernel_sums(base_ND, gamma=gamma, groups_M=prompt_N).mean_apart_K()[0])
        except ValueError:
            return cls(gamma=None, mean_kernel=None, reason="the base's states have no spread to measure by")
        return cls(gamma=gamma, mean_kernel=mean)

    @property
    def median_distance(self) -> float | None:
        return None if self.gamma is None else float(np.sqrt(0.5 / self.gamma))

    def biased_floor(self, num_states: int) -> float:
        """(1/m + 1/n)(1 - E k): mean of biased MMD^2 between two sets of base states with prompts of their own."""
        assert self.mean_kernel is not None
        return 2 / num_states * (1 - self.mean_kernel)


def lexical(fitted_ND: Rows) -> ToRows:
    """TF-IDF rows in float32 from gram_counts; document frequencies are those of `fitted_ND`."""
    features = LexicalFeatures.fit_counts(fitted_ND)
    return lambda counts_ND: features.weigh(counts_ND).astype(np.float32)


def centred(fitted_ND: Rows) -> ToRows:
    """Vectors moved and scaled alike, so that those of `fitted_ND` have mean 0 and mean squared length 1.

    Distances between states change by that one factor; lengths then read like those of lexical rows.
    """
    mean_D = fitted_ND.mean(axis=0, dtype=np.float64)
    scale = max(float(np.sqrt(((fitted_ND - mean_D) ** 2).sum(axis=1).mean())), float(np.finfo(np.float32).tiny))
    return lambda rows_ND: ((rows_ND - mean_D) / scale).astype(np.float32)


def stacked(parts: Sequence[Rows]) -> Rows:
    return vstack(parts, format="csr") if isinstance(parts[0], csr_array) else np.concatenate(parts)


def median_gamma(sample_ND: Rows, *, seed: int = 0) -> float:
    """The median heuristic's kernel width: gamma = 1 / (2 median_{i<j} |x_i - x_j|^2), on at most MEDIAN_ROWS rows.

    Compute it once, on base states, and reuse it: a kernel that changes with the run measures nothing.
    Raises: ValueError if there are fewer than two rows, or more than half of the pairs coincide (median 0).
    Source: Gretton et al. 2012 sec. 8.
    """
    num_rows = sample_ND.shape[0]
    if num_rows > MEDIAN_ROWS:
        sample_ND = sample_ND[np.random.default_rng(seed).choice(num_rows, MEDIAN_ROWS, replace=False)]
        num_rows = MEDIAN_ROWS
    if num_rows < 2:
        raise ValueError(f"median_gamma: expected at least 2 rows, got {num_rows}")
    columns_DN = table(exponent_right(sample_ND, 1.0))
    squared_NN = -times_table(exponent_left(sample_ND, 1.0), columns_DN, slice(0, num_rows)).numpy()
    median = float(np.median(squared_NN[np.tri(num_rows, k=-1, dtype=bool)]))
    if median <= ROUNDINGS * np.finfo(sample_ND.dtype).eps * squared_norms(sample_ND).max():
        raise ValueError("median_gamma: more than half of the rows coincide, so the median distance is 0")
    return 1.0 / (2.0 * median)
