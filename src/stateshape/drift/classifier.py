"""Classifier two-sample test: how well a linear classifier separates the two sides on prompts it was not fitted on.

A ridge classifier: least squares on labels -1 and +1. Its held-out scores are linear in the labels, so under permutations
it is refitted each time at the cost of one matrix product; a null from fixed scores would ignore that folds share
training prompts. Source: Lopez-Paz & Oquab 2017 (arXiv:1610.06545). Differs: AUC in place of accuracy, as ties and the
threshold then do not matter; folds of whole prompts, or the shared prompt would be what is separated.

Suffixes: M rows of a side, N of both, P prompts, D features, B permutations, C resamples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array
from scipy.stats import rankdata
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits

from stateshape.drift.kernels import Rows
from stateshape.drift.nulls import Draws, Statistic
from stateshape.drift.paired import Paired

NUM_FOLDS = 5
RIDGE = 1.0  # added to the diagonal of X'X; scikit-learn's default. Rows have about unit length


class _Fold(NamedTuple):
    """Held-out rows: prompt and side, scores of the data's own labels, and of each permutation's."""

    prompt_N: Int64[np.ndarray, " N"]
    side_N: Float64[np.ndarray, " N"]
    score_N: Float32[np.ndarray, " N"]
    score_NB: Float32[np.ndarray, "N B"]


def classifier_auc(pair: Paired, draws: Draws) -> Statistic:
    """Held-out AUC, a mean over folds of whole prompts: 1/2 for indistinguishable sides, 1 for separable ones.

    Resamples keep the scores: their interval covers the AUC of this classifier, not the variation of its fit.
    """
    folds = _held_out(pair, draws)
    auc_KB = [_permuted_auc(fold, draws) for fold in folds]
    values, resampled_KC = zip(*(_auc(fold, draws) for fold in folds))
    return Statistic(
        value=float(np.mean(values)),
        null_B=np.mean(auc_KB, axis=0),
        resampled_B=np.nanmean(resampled_KC, axis=0),
        bounds=(0.0, 1.0),
    )


@threadpool_limits.wrap(
    limits=1, user_api="blas"
)  # threads save little at this size, and beside other work spin for most of it
def _held_out(pair: Paired, draws: Draws) -> list[_Fold]:
    """One fold after another: fitted on the other folds' prompts under the data's labels and every permutation's."""
    rows_ND, prompt_N, side_N = pair.pooled()
    differences_PD = pair.differences()  # X'y, prompt by prompt
    signs_BP = np.concatenate([np.ones((1, pair.num_prompts)), draws.signs()])
    products_DD, gradients_DB = _products(rows_ND), differences_PD.T @ signs_BP.T
    folds = []
    for _, heldout in GroupKFold(NUM_FOLDS).split(prompt_N, groups=prompt_N):
        rows, prompts = rows_ND[heldout], np.unique(prompt_N[heldout])
        system_DD = products_DD - _products(rows) + RIDGE * np.eye(products_DD.shape[0])
        gradient_DB = gradients_DB - differences_PD[prompts].T @ signs_BP[:, prompts].T
        score_NB = rows @ cho_solve(cho_factor(system_DD, overwrite_a=True), gradient_DB, overwrite_b=True)
        # equal texts get equal scores: rounding must not decide a tie
        score_NB = score_NB.astype(np.float32)
        folds.append(_Fold(prompt_N[heldout], side_N[heldout], score_NB[:, 0], score_NB[:, 1:]))
    return folds


def _products(rows_ND: Rows) -> Float64[np.ndarray, "D D"]:
    """X'X."""
    return (rows_ND.T @ rows_ND).toarray() if isinstance(rows_ND, csr_array) else rows_ND.T @ rows_ND


def _permuted_auc(fold: _Fold, draws: Draws) -> Float64[np.ndarray, " B"]:
    """From rank sums: the two sides are of one size in every fold, and stay so."""
    is_second_NB = (fold.side_N[:, None] > 0) ^ draws.is_swapped_BP[:, fold.prompt_N].T
    rank_NB = rankdata(fold.score_NB, axis=0).astype(
        np.float64
    )  # from SciPy 1.18 on, ranks have their scores' precision
    size = len(fold.side_N) // 2
    return ((rank_NB * is_second_NB).sum(axis=0) - size * (size + 1) / 2) / size**2


def _auc(fold: _Fold, draws: Draws) -> tuple[float, Float64[np.ndarray, " C"]]:
    """The AUC and its resamples, from wins_pq = pairs (x of p, y of q) in which y scores higher, ties half."""
    is_second = fold.side_N > 0
    x, y = fold.score_N[~is_second], fold.score_N[is_second]
    # both sides list the fold's prompts in the same order
    prompts, starts = np.unique(fold.prompt_N[is_second], return_index=True)
    wins_MM = (y[None, :] > x[:, None]) + 0.5 * (y[None, :] == x[:, None])
    wins_PP = np.add.reduceat(np.add.reduceat(wins_MM, starts, axis=0), starts, axis=1)
    counts_P = np.diff(np.append(starts, len(x)))
    w_CP = draws.weights()[:, prompts]
    with np.errstate(invalid="ignore"):  # a resample may hold none of a small fold's prompts
        resampled_C = np.einsum("cp,cp->c", w_CP @ wins_PP, w_CP) / (w_CP @ counts_P) ** 2
    return float(wins_MM.mean()), resampled_C
