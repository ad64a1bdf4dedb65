"""Word overlap of two samples, with its permutations and resamples: Jaccard of word types, Ruzicka of word counts.

Longer text holds more word types, so the two sides are cut to the same number of tokens, within each prompt: of the longer
side's tokens, that many are drawn without replacement. Sides of a prompt then trade places without changing the totals.
Does not know what a word is.

Suffixes: T tokens of a side, P prompts, W words, B permutations, C resamples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, Integer
from scipy.sparse import csr_array

from stateshape.drift.nulls import Draws, Statistic

DRAWS_AT_ONCE = 64  # x 10,000 words x 8 bytes x 2 sides = 10 MB


class Overlap(NamedTuple):
    jaccard: Statistic
    ruzicka: Statistic


class Tokens(NamedTuple):
    """The words of one side as numbers, and the prompt of each."""

    words_T: Integer[np.ndarray, " T"]
    prompt_T: Int64[np.ndarray, " T"]


def thinned_counts(side: Tokens, budgets_P: Int64[np.ndarray, " P"], *, num_words: int, seed: int) -> csr_array:
    """How often each word is among `budgets_P[p]` tokens drawn from prompt p's, [P W]."""
    shuffled = np.lexsort((np.random.default_rng(seed).random(len(side.words_T)), side.prompt_T))
    prompts = side.prompt_T[shuffled]
    rank_T = np.arange(len(prompts)) - np.searchsorted(prompts, prompts)
    chosen = shuffled[rank_T < budgets_P[prompts]]
    counts = csr_array(
        (np.ones(len(chosen), np.int64), (side.prompt_T[chosen], side.words_T[chosen])),
        shape=(len(budgets_P), num_words),
    )
    counts.sum_duplicates()
    return counts


def overlaps(x_PW: csr_array, y_PW: csr_array, draws: Draws) -> Overlap:
    """1 - |A n B| / |A u B| and 1 - sum min / sum max, of counts by prompt whose totals agree on both sides."""
    assert (x_PW.sum(axis=1) == y_PW.sum(axis=1)).all(), "token budgets differ"
    total_W, x_W = x_PW.sum(axis=0) + y_PW.sum(axis=0), x_PW.sum(axis=0)
    nulls = []
    for swapped_BP in _parts(draws.is_swapped_BP):
        # a swap moves a prompt's y to the first side and takes its x away
        first_WB = x_W[:, None] + (y_PW - x_PW).T @ swapped_BP.T.astype(np.float64)
        nulls.append(_both(first_WB, total_W[:, None] - first_WB))
    resampled = []
    for weights_CP in _parts(draws.weights_BP):
        weights_PC = weights_CP.T.astype(np.float64)
        resampled.append(_both(x_PW.T @ weights_PC, y_PW.T @ weights_PC))
    null_B2, resampled_C2 = (np.concatenate(each) if each else np.zeros((0, 2)) for each in (nulls, resampled))
    values = (jaccard_of_counts(x_W, total_W - x_W), ruzicka_of_counts(x_W, total_W - x_W))
    return Overlap(
        *(
            Statistic(value=v, null_B=null_B2[:, i], resampled_B=resampled_C2[:, i], bounds=(0.0, 1.0))
            for i, v in enumerate(values)
        )
    )


def _parts(draws_BP: np.ndarray) -> list[np.ndarray]:
    return [draws_BP[first : first + DRAWS_AT_ONCE] for first in range(0, len(draws_BP), DRAWS_AT_ONCE)]


def _both(first_WB: np.ndarray, second_WB: np.ndarray) -> np.ndarray:
    """(Jaccard, Ruzicka) of each column, [B 2]."""
    smaller_WB, larger_WB = np.minimum(first_WB, second_WB), np.maximum(first_WB, second_WB)
    jaccard_B = 1 - _num(smaller_WB > 0) / _num(larger_WB > 0)
    return np.stack([jaccard_B, 1 - smaller_WB.sum(axis=0) / larger_WB.sum(axis=0)], axis=1)


def _num(is_there_WB: Bool[np.ndarray, "W B"]) -> np.ndarray:
    return np.count_nonzero(is_there_WB, axis=0)


def jaccard_of_counts(counts_x: Int64[np.ndarray, " W"], counts_y: Int64[np.ndarray, " W"]) -> float:
    in_x, in_y = counts_x > 0, counts_y > 0
    return 1.0 - int((in_x & in_y).sum()) / int((in_x | in_y).sum())


def ruzicka_of_counts(counts_x: Int64[np.ndarray, " W"], counts_y: Int64[np.ndarray, " W"]) -> float:
    return 1.0 - int(np.minimum(counts_x, counts_y).sum()) / int(np.maximum(counts_x, counts_y).sum())
