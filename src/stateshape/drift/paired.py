"""Two samples that hold the same prompts equally often: what every distance with a null is computed on.

Does not know texts or features; makes neither.

Suffixes: M rows of one side, N rows of both, P prompts, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, Int64
from scipy.sparse import csr_array, vstack

from stateshape.drift.kernels import Rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """Row i of both sides belongs to prompt `prompt_M[i]`, numbered 0 .. P - 1 and ascending."""

    x_MD: Rows
    y_MD: Rows
    prompt_M: Int64[np.ndarray, " M"]

    def __post_init__(self) -> None:
        sizes = (self.x_MD.shape[0], self.y_MD.shape[0], len(self.prompt_M))
        assert len(set(sizes)) == 1, sizes
        steps = np.diff(self.prompt_M, prepend=-1)
        assert ((steps == 0) | (steps == 1)).all(), "prompts must be numbered 0, 1, ... in order"

    @property
    def num_states(self) -> int:
        return len(self.prompt_M)

    @property
    def num_prompts(self) -> int:
        return int(self.prompt_M[-1]) + 1

    @property
    def counts_P(self) -> Int64[np.ndarray, " P"]:
        """Rows of each prompt on one side."""
        return np.bincount(self.prompt_M)

    def take(self, is_chosen_P: np.ndarray) -> Paired:
        """The rows of the chosen prompts (bool), renumbered."""
        rows = np.flatnonzero(is_chosen_P[self.prompt_M])
        numbers = np.cumsum(is_chosen_P) - 1
        return Paired(x_MD=self.x_MD[rows], y_MD=self.y_MD[rows], prompt_M=numbers[self.prompt_M[rows]])

    def blocks(self, num_rows: int) -> list[tuple[slice, slice]]:
        """Rows in blocks of whole prompts, about `num_rows` each: (rows, prompts)."""
        starts = np.searchsorted(self.prompt_M, np.arange(self.num_prompts + 1))
        edges, first = [0], 0
        while first < self.num_prompts:
            last = int(np.searchsorted(starts, starts[first] + num_rows, side="right")) - 1
            first = max(last, first + 1)
            edges.append(min(first, self.num_prompts))
        return [(slice(int(starts[a]), int(starts[b])), slice(a, b)) for a, b in pairwise(edges)]

    def pooled(self) -> tuple[Rows, Int64[np.ndarray, " N"], Float64[np.ndarray, " N"]]:
        """Both sides' rows in float64, prompt by prompt; the prompt of each; +1 for y, -1 for x."""
        both = np.concatenate([self.prompt_M, self.prompt_M])
        order = np.argsort(both, kind="stable")
        is_sparse = isinstance(self.x_MD, csr_array)
        rows = vstack([self.x_MD, self.y_MD], format="csr") if is_sparse else np.concatenate([self.x_MD, self.y_MD])
        sides = np.repeat([-1.0, 1.0], len(self.prompt_M))
        return rows[order].astype(np.float64), both[order], sides[order]

    def differences(self) -> Float64[np.ndarray, "P D"]:
        """Sum over a prompt's rows of y minus that of x."""
        return sum_by_prompt(self.y_MD - self.x_MD, self.prompt_M)


def sum_by_prompt(rows_MD: Rows, prompt_M: Int64[np.ndarray, " M"]) -> Float64[np.ndarray, "P D"]:
    """Sum of each prompt's rows; prompts ascend from the first row's, and none is left out."""
    numbers = prompt_M - prompt_M[0]
    starts = np.append(np.searchsorted(numbers, np.arange(numbers[-1] + 1)), len(numbers))
    sums = csr_array((np.ones(len(numbers)), np.arange(len(numbers)), starts), shape=(len(starts) - 1, len(numbers)))
    summed = sums @ rows_MD
    return summed.toarray() if isinstance(summed, csr_array) else np.asarray(summed)
