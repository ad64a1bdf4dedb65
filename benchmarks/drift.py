"""Seconds for the drift of one run, as a study or `stateshape drift` measures it, beside the same from scikit-learn and POT.

    OMP_NUM_THREADS=1 taskset -c 1 python -m benchmarks.drift [--prompts 256] [--repeats 3]

Ours is `drift.measure.measure`: two samples of the base and one of a run, cut into prefix states; nine distances on response
prefixes and nine on prompt + prefix, each with its value, its null of 1,000 permutations within prompts, its interval from 500
resamples of prompts, and the base against itself. Hidden states (`--hidden`) are left out: most of their time is a model's.

The peers compute the same numbers from the same states under the same permutations and resamples, as one who knows how would
write it: rows, kernels and distances of pairs once, all permutations as one matrix product over rows, all refits of the
classifier as one ridge fit of many targets, projections once and sorted anew for each draw. What they have no tool for they
are given, untimed: the states, the draws, and the words cut to one number of tokens per prompt. Values, null means and interval
ends must agree with ours. Both run in turns, in one process, on the same threads; the best of the repeats counts.
"""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, NamedTuple

import numpy as np
import ot
import torch
from scipy.stats import rankdata
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel
from sklearn.model_selection import GroupKFold

from benchmarks.common import Options, Row, timed
from stateshape.core.records import DriftRecord
from stateshape.core.seeds import seed_for
from stateshape.drift.classifier import NUM_FOLDS, RIDGE
from stateshape.drift.features import NUM_FEATURES, TOKEN_PATTERN, words
from stateshape.drift.measure import measure
from stateshape.drift.nulls import NUM_PERMUTATIONS, NUM_RESAMPLES, Draws, Statistic, judged, pairwise_width
from stateshape.drift.overlap import Tokens, thinned_counts
from stateshape.drift.pairwise import BANDWIDTHS
from stateshape.drift.sliced import NUM_PROJECTIONS, random_directions
from stateshape.drift.states import Rollouts, matched, prefix_states
from stateshape.tasks.load import load_task
from stateshape.tasks.task import GenerationTask

PROMPTS, CUTS = 256, 2  # the quickstart's: 512 states a side
SEED = 0
BAR = 5.0
# largest allowed |ours - theirs|, of a value or of its null's or interval's numbers: float32 rows against float64 ones
TOLERANCE = 2e-6
AUC_TOLERANCE = 1e-3  # a pair of held-out rows whose scores are nearly equal may be ordered otherwise


# States


def arithmetic_rollouts(num_prompts: int, *, seed: int) -> Rollouts:
    """Prompts of the embedded world, each answered by some worked solution of that world: about 120 characters."""
    task = load_task("arithmetic")
    assert isinstance(task, GenerationTask)
    items = [task.train[i % len(task.train)] for i in range(num_prompts)]
    answers = np.random.default_rng(seed).integers(len(task.train), size=num_prompts)
    return Rollouts(
        prompt_ids=[f"item-{i}" for i in range(num_prompts)],
        prompts=[item.prompt for item in items],
        pieces=[re.findall(r" ?\w+|[^\w]", task.train[answer].completion) for answer in answers],
    )


def sentence_rollouts(num_prompts: int, *, seed: int) -> Rollouts:
    """Random words with Zipf's frequencies, responses of 60 to 200 words: the length of GSM8K solutions."""
    generator = np.random.default_rng(seed)
    # one object a word, as a vocabulary's pieces would be
    draw = lambda size: [sys.intern(f" w{min(word, 8000)}") for word in generator.zipf(1.3, size)]  # noqa: E731
    return Rollouts(
        prompt_ids=[f"item-{i}" for i in range(num_prompts)],
        prompts=[f"Question {i}:" for i in range(num_prompts)],
        pieces=[draw(length) for length in generator.integers(60, 200, size=num_prompts)],
    )


def cases(num_prompts: int) -> dict[str, list[Rollouts]]:
    """Base, base again, run."""
    return {
        "arithmetic": [arithmetic_rollouts(num_prompts, seed=seed) for seed in (1, 2, 3)],
        "long texts": [sentence_rollouts(num_prompts, seed=seed) for seed in (1, 2, 3)],
    }


# Ours


def ours(sides: list[Rollouts]) -> DriftRecord:
    return measure(*sides, task="benchmark", seed=SEED, num_cuts=CUTS)


# The peers


class Given(NamedTuple):
    """What the peers start from, of one kind of text. Sides: base, base again, run. P prompts, M states of a side, W words."""

    all_texts: list[list[str]]  # of each side, for what is fitted
    all_prompts: list[list[str]]
    texts: list[list[str]]  # those compared, row i of prompt prompt_M[i] on every side
    prompt_M: np.ndarray
    words_PW: list[np.ndarray]  # counts of words, the same number of tokens of a prompt on every side
    draws: Draws


def given(sides: list[Rollouts]) -> dict[str, Given]:
    """By the prefix of the distances' names."""
    states = [
        prefix_states(side, generator=np.random.default_rng([SEED, stream]), num_cuts=CUTS)
        for stream, side in enumerate(sides)
    ]
    match = matched(states, seed=SEED)
    draws = Draws.make(match.num_prompts, seed=SEED, num_permutations=NUM_PERMUTATIONS, num_resamples=NUM_RESAMPLES)
    by_prefix = {}
    for prefix, of in (("", "responses"), ("state_", "states")):
        all_texts = [getattr(side, of) for side in states]
        texts = [[side[row] for row in rows] for side, rows in zip(all_texts, match.rows)]
        counts = thinned_words(texts, match.prompt_M, match.num_prompts)
        by_prefix[prefix] = Given(all_texts, [side.prompt_ids for side in states], texts, match.prompt_M, counts, draws)
    return by_prefix


def thinned_words(texts: list[list[str]], prompt_M: np.ndarray, num_prompts: int) -> list[np.ndarray]:
    numbers: dict[str, int] = {}
    tokens = []
    for side in texts:
        numbered = [[numbers.setdefault(word, len(numbers)) for word in words(text)] for text in side]
        tokens.append(
            Tokens(np.concatenate(numbered).astype(np.int64), np.repeat(prompt_M, [len(row) for row in numbered]))
        )
    budgets_P = np.min([np.bincount(side.prompt_T, minlength=num_prompts) for side in tokens], axis=0)
    return [
        thinned_counts(side, budgets_P, num_words=len(numbers), seed=seed_for(SEED, "drift tokens", i)).toarray()
        for i, side in enumerate(tokens)
    ]


def peers(given_by: dict[str, Given]) -> dict[str, Any]:
    """Our records' distances, by name."""
    by_distance = {}
    for prefix, known in given_by.items():
        moved, still = (
            peer_distances(known, run=2, fitted_on=[1]),
            peer_distances(known, run=1, fitted_on=[0, 1], draws=False),
        )
        by_distance |= {
            prefix + name: judged(statistic, still[name], num_states=len(known.prompt_M))
            for name, statistic in moved.items()
        }
    return by_distance


def peer_distances(known: Given, *, run: int, fitted_on: list[int], draws: bool = True) -> dict[str, Statistic]:
    """Every distance of a side from the base. Suffixes: N rows of both sides, B permutations, C resamples, L directions."""
    hashing = HashingVectorizer(
        n_features=NUM_FEATURES, ngram_range=(1, 2), token_pattern=TOKEN_PATTERN, alternate_sign=False, norm=None
    )
    fitted = hashing.transform([text for side in fitted_on for text in known.all_texts[side]])
    tfidf = TfidfTransformer(sublinear_tf=True, norm="l2").fit(fitted)
    base_rows = tfidf.transform(fitted)
    squared = euclidean_distances(base_rows, squared=True)[np.triu_indices(base_rows.shape[0], k=1)]
    gamma = 1 / (2 * float(np.median(squared)))
    rows = tfidf.transform(hashing.transform(known.texts[0] + known.texts[run]))
    num = len(known.prompt_M)
    prompt_N, side_N = np.tile(known.prompt_M, 2), np.repeat([-1.0, 1.0], num)
    swaps_BP = known.draws.is_swapped_BP if draws else known.draws.is_swapped_BP[:0]
    weights_CP = (known.draws.weights_BP if draws else known.draws.weights_BP[:0]).astype(np.float64)
    signs_BN = (1.0 - 2 * swaps_BP)[:, prompt_N] * side_N
    weights_CN = weights_CP[:, prompt_N] * side_N
    counts_P = np.bincount(known.prompt_M)
    apart_NN = prompt_N[:, None] != prompt_N
    num_apart = num**2 - (counts_P**2).sum()
    num_apart_C = (weights_CP @ counts_P) ** 2 - weights_CP**2 @ counts_P**2
    num_C = weights_CP @ counts_P

    def unbiased(values_NN: np.ndarray) -> Statistic:
        kept_NN = values_NN * apart_NN
        value = float(side_N @ kept_NN @ side_N) / num_apart
        null_B, resampled_B = forms(signs_BN, kept_NN) / num_apart, forms(weights_CN, kept_NN) / num_apart_C
        width = pairwise_width(value, null_B, resampled_B, num_prompts=len(counts_P))
        return Statistic(value=value, null_B=null_B, resampled_B=resampled_B, width=width)

    median_NN = rbf_kernel(rows, gamma=gamma)
    family_NN = np.mean([rbf_kernel(rows, gamma=gamma / width**2) for width in BANDWIDTHS], axis=0)
    dense_ND = rows.toarray()
    difference_PD = np.zeros((len(counts_P), NUM_FEATURES))
    np.add.at(difference_PD, prompt_N, side_N[:, None] * dense_ND)
    squares_P = (difference_PD**2).sum(axis=1)
    floor = float(squares_P.sum()) / num**2
    value = float((side_N @ dense_ND) @ (side_N @ dense_ND)) / num**2 - floor
    null_B = np.linalg.norm(signs_BN @ dense_ND, axis=1) ** 2 / num**2 - floor
    resampled_C = (
        np.linalg.norm(weights_CN @ dense_ND, axis=1) ** 2 - weights_CP.astype(float) ** 2 @ squares_P
    ) / num_C**2
    statistics = {
        "mmd2_unbiased": unbiased(family_NN),
        "mmd2_biased": Statistic(
            value=float(side_N @ median_NN @ side_N) / num**2,
            null_B=forms(signs_BN, median_NN) / num**2,
            resampled_B=forms(weights_CN, median_NN) / num_C**2,
        ),
        "centroid": Statistic(
            value=value,
            null_B=null_B,
            resampled_B=resampled_C,
            width=pairwise_width(value, null_B, resampled_C, num_prompts=len(counts_P)),
            is_square=True,
        ),
        "energy": unbiased(-euclidean_distances(rows)),
    }
    statistics |= peer_sliced(dense_ND, prompt_N, side_N, swaps_BP, weights_CP)
    statistics["c2st_auc"] = peer_classifier(rows, prompt_N, side_N, signs_BN, weights_CP)
    return statistics | peer_overlap(known.words_PW[0], known.words_PW[run], swaps_BP, weights_CP)


def forms(signs_BN: np.ndarray, values_NN: np.ndarray) -> np.ndarray:
    return np.einsum("bn,bn->b", signs_BN @ values_NN, signs_BN)


def peer_sliced(
    dense_ND: np.ndarray, prompt_N: np.ndarray, side_N: np.ndarray, swaps_BP: np.ndarray, weights_CP: np.ndarray
) -> dict[str, Statistic]:
    """POT for the value; for each draw, the projections sorted anew, which is all that POT's would do for equal sizes."""
    directions_DL = random_directions(NUM_FEATURES, seed=SEED, num_projections=NUM_PROJECTIONS).astype(np.float32)
    rows_ND = dense_ND.astype(np.float32)
    is_y_N = side_N > 0
    values = [
        float(ot.sliced_wasserstein_distance(rows_ND[~is_y_N], rows_ND[is_y_N], projections=directions_DL, p=p))
        for p in (1, 2)
    ]
    projected_LN = np.ascontiguousarray((rows_ND @ directions_DL).T)

    def both(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        gaps_LM = np.sort(projected_LN[:, x], axis=1) - np.sort(projected_LN[:, y], axis=1)
        return float(np.abs(gaps_LM).mean(dtype=np.float64)), float(np.sqrt((gaps_LM**2).mean(dtype=np.float64)))

    places = np.arange(len(prompt_N))
    null = [both(places[is_y_N == swaps_P[prompt_N]], places[is_y_N != swaps_P[prompt_N]]) for swaps_P in swaps_BP]
    resampled = []
    for weights_P in weights_CP.astype(np.int64):
        drawn = np.repeat(places, weights_P[prompt_N])
        resampled.append(both(drawn[~is_y_N[drawn]], drawn[is_y_N[drawn]]))
    null_B2, resampled_C2 = (np.array(sample).reshape(-1, 2) for sample in (null, resampled))
    return {
        f"sliced_wasserstein_{p}": Statistic(
            value=values[p - 1], null_B=null_B2[:, p - 1], resampled_B=resampled_C2[:, p - 1]
        )
        for p in (1, 2)
    }


def peer_classifier(
    rows: Any, prompt_N: np.ndarray, side_N: np.ndarray, signs_BN: np.ndarray, weights_CP: np.ndarray
) -> Statistic:
    """One ridge fit per fold, with the data's labels and every permutation's as its targets."""
    labels_NB = np.concatenate([side_N[None], signs_BN]).T
    aucs, resampled = [], []
    for train, heldout in GroupKFold(NUM_FOLDS).split(prompt_N, groups=prompt_N):
        model = Ridge(alpha=RIDGE, fit_intercept=False, solver="cholesky").fit(rows[train], labels_NB[train])
        scores_NB = model.predict(rows[heldout]).reshape(len(heldout), -1).astype(np.float32)
        size = len(heldout) // 2  # rows of a side; rank sums are 40 times as fast as so many calls of roc_auc_score
        ranks_NB = rankdata(scores_NB, axis=0) * (labels_NB[heldout] > 0)
        aucs.append((ranks_NB.sum(axis=0) - size * (size + 1) / 2) / size**2)
        is_y, score = side_N[heldout] > 0, scores_NB[:, 0]
        x, y, of_x, of_y = score[~is_y], score[is_y], prompt_N[heldout][~is_y], prompt_N[heldout][is_y]
        wins = (y[None] > x[:, None]) + 0.5 * (y[None] == x[:, None])
        w_x, w_y = weights_CP[:, of_x], weights_CP[:, of_y]
        with np.errstate(invalid="ignore"):
            resampled.append(np.einsum("cx,cx->c", w_y @ wins.T, w_x) / (w_x.sum(1) * w_y.sum(1)))
    mean_B = np.mean(aucs, axis=0)
    return Statistic(value=float(mean_B[0]), null_B=mean_B[1:], resampled_B=np.nanmean(resampled, axis=0))


def peer_overlap(
    x_PW: np.ndarray, y_PW: np.ndarray, swaps_BP: np.ndarray, weights_CP: np.ndarray
) -> dict[str, Statistic]:
    both = [both_overlaps(x_PW.sum(0), y_PW.sum(0))]
    null = [
        both_overlaps(np.where(s[:, None], y_PW, x_PW).sum(0), np.where(s[:, None], x_PW, y_PW).sum(0))
        for s in swaps_BP
    ]
    resampled = [both_overlaps(w @ x_PW, w @ y_PW) for w in weights_CP]
    null_B2, resampled_C2 = (np.array(sample).reshape(-1, 2) for sample in (null, resampled))
    return {
        name: Statistic(value=both[0][i], null_B=null_B2[:, i], resampled_B=resampled_C2[:, i])
        for i, name in enumerate(("jaccard", "ruzicka"))
    }


def both_overlaps(x_W: np.ndarray, y_W: np.ndarray) -> tuple[float, float]:
    smaller_W, larger_W = np.minimum(x_W, y_W), np.maximum(x_W, y_W)
    return 1 - np.count_nonzero(smaller_W) / np.count_nonzero(larger_W), 1 - float(smaller_W.sum() / larger_W.sum())


# Timing


NUMBERS = ("value", "base_vs_base", "null_mean", "null_sd", "lo", "hi")


def compare(name: str, sides: list[Rollouts], *, repeats: int) -> Row:
    """One case, both sides in turns. Raises: ValueError if their numbers differ by more than the tolerances."""
    known = given(sides)
    our_seconds, peer_seconds = [], []
    for _ in range(repeats):
        seconds, record = timed(lambda: ours(sides))
        our_seconds.append(seconds)
        seconds, peer_values = timed(lambda: peers(known))
        peer_seconds.append(seconds)
    differences = {}
    for distance, theirs in peer_values.items():
        tolerance = AUC_TOLERANCE if distance.endswith("c2st_auc") else TOLERANCE
        for number in NUMBERS:
            mine, other = getattr(record.distances[distance], number), getattr(theirs, number)
            if abs(mine - other) > tolerance:
                raise ValueError(f"{name}: {distance}, {number}: {mine} here, {other} there")
            differences[distance] = max(differences.get(distance, 0.0), abs(mine - other))
    return {
        "name": f"drift of a run: {name}",
        "ours_seconds": min(our_seconds),
        "peer_seconds": min(peer_seconds),
        "ratio": min(peer_seconds) / min(our_seconds),
        "bar": BAR,
        "max_abs_difference": max(differences.values()),
        "peer": "scikit-learn, POT, numpy",
        "ours_all_seconds": our_seconds,
        "peer_all_seconds": peer_seconds,
        "settings": {
            "states_a_side": record.num_states,
            "mean_characters": float(np.mean([len(text) for text in known[""].texts[0]])),
            "permutations": NUM_PERMUTATIONS,
            "resamples": NUM_RESAMPLES,
            "features": NUM_FEATURES,
            "projections": NUM_PROJECTIONS,
            "threads": torch.get_num_threads(),
            "values": {distance: value.value for distance, value in record.distances.items()},
            "differences": differences,
        },
    }


def run(model: str = "embedded", options: Options = Options()) -> list[Row]:  # noqa: B008
    """One row a case. No model takes part; `model` only labels the rows."""
    sides_by_case = cases(options.limit or options.pick(PROMPTS, 16))
    return [
        {"model": model, **compare(name, sides, repeats=options.num_repeats())} for name, sides in sides_by_case.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    print(f"{'':30}{'states':>8}{'ours s':>8}{'peer s':>8}{'ratio':>7}{'bar':>5}{'max diff':>10}  peer")
    for row in run(options=Options(repeats=chosen.repeats, limit=chosen.prompts)):
        print(
            f"{row['name']:30}{2 * row['settings']['states_a_side']:>8}{row['ours_seconds']:>8.2f}"
            f"{row['peer_seconds']:>8.2f}{row['ratio']:>7.1f}{row['bar']:>5.0f}{row['max_abs_difference']:>10.1e}"
            f"  {row['peer']}"
        )


if __name__ == "__main__":
    main()
