"""Seconds for every distance between two sets of states, beside the same numbers composed from scikit-learn and POT.

    OMP_NUM_THREADS=1 taskset -c 1 python -m benchmarks.drift [--prompts 2500] [--repeats 3]

Both start from the same texts and end with the same six numbers: hashed 1-2-gram TF-IDF rows, the median heuristic, biased
MMD^2, unbiased MMD^2 without same-prompt pairs, centroid, sliced Wasserstein, Jaccard, Ruzicka. They run in turns, in one
process, on the same threads; the best of the repeats counts. The peers get what was fastest for them: kernels in chunks
(a whole one is 800 MB), from sparse or dense rows by a trial that is not timed, and POT in float32, 3 times faster.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import ot
import torch
from scipy.sparse import vstack
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel

from benchmarks.common import Options, Row, timed
from benchmarks.reference_distances import centroid, drawn_counts, mmd2, sliced_wasserstein
from stateshape.drift.features import NUM_FEATURES, TOKEN_PATTERN, LexicalFeatures, Vocabulary, gram_counts
from stateshape.drift.kernels import kernel_sums
from stateshape.drift.overlap import jaccard_of_counts, ruzicka_of_counts
from stateshape.drift.rulers import MEDIAN_ROWS, median_gamma
from stateshape.drift.sliced import NUM_PROJECTIONS, random_directions
from stateshape.drift.states import PrefixStates, Rollouts, number_labels, prefix_states
from stateshape.tasks.load import load_task
from stateshape.tasks.task import GenerationTask

PROMPTS = 2500  # x 4 cuts = 10,000 states a side
SEED = 0
BAR = 5.0
CHUNK_ROWS = 1000  # of the peer's kernels
# largest allowed |ours - theirs|. MMD^2: float32 kernels, against a biased floor of about 6e-5 at 10,000 a side.
# Sliced Wasserstein is about 1e-3, and POT's own float32 is 4e-8 from its float64. The rest is the same arithmetic.
TOLERANCES = {
    "mmd2_biased": 5e-9,
    "mmd2_unbiased": 5e-9,
    "centroid": 1e-7,
    "sliced_wasserstein": 1e-7,
    "jaccard": 1e-12,
    "ruzicka": 1e-12,
}


class Sample(NamedTuple):
    """One side: texts and the prompt each came from."""

    texts: list[str]
    prompt_ids: list[str]


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


def cases(num_prompts: int) -> dict[str, tuple[Sample, Sample]]:
    arithmetic = [_states(arithmetic_rollouts(num_prompts, seed=seed), seed=seed) for seed in (1, 2)]
    sentences = [_states(sentence_rollouts(num_prompts, seed=seed), seed=seed) for seed in (1, 2)]
    return {
        "arithmetic, response prefixes": _pair([Sample(s.responses, s.prompt_ids) for s in arithmetic]),
        "arithmetic, prompt + prefix": _pair([Sample(s.states, s.prompt_ids) for s in arithmetic]),
        "long texts, response prefixes": _pair([Sample(s.responses, s.prompt_ids) for s in sentences]),
    }


def _states(rollouts: Rollouts, *, seed: int) -> PrefixStates:
    return prefix_states(rollouts, generator=np.random.default_rng(seed))


def _pair(samples: Sequence[Sample]) -> tuple[Sample, Sample]:
    """Both sides cut to the same number of states, as `measure` does."""
    size = min(len(sample.texts) for sample in samples)
    x, y = (Sample(sample.texts[:size], sample.prompt_ids[:size]) for sample in samples)
    return x, y


# The two sides of the comparison


def ours(x: Sample, y: Sample) -> dict[str, float | None]:
    """Features and distances of the package, without nulls, every pair of rows visited."""
    vocabulary = Vocabulary()
    corpora = [vocabulary.read(side.texts) for side in (x, y)]
    counts = [gram_counts(corpus) for corpus in corpora]
    features = LexicalFeatures.fit_counts(counts[0])
    x_rows, y_rows = (features.weigh(side).astype(np.float32) for side in counts)
    gamma = median_gamma(vstack([x_rows, y_rows], format="csr"), seed=SEED)
    x_ids, y_ids = number_labels(x.prompt_ids, y.prompt_ids)
    within_x, within_y = (
        kernel_sums(rows, gamma=gamma, groups_M=ids) for rows, ids in ((x_rows, x_ids), (y_rows, y_ids))
    )
    both = mmd2(within_x, within_y, kernel_sums(x_rows, y_rows, gamma=gamma, groups_M=x_ids, groups_N=y_ids))
    budget = min(len(corpus.words_T) for corpus in corpora)
    drawn = drawn_counts(corpora[0].words_T, corpora[1].words_T, seed=SEED, budget=budget)
    return {
        "mmd2_biased": float(both.biased_K[0]),
        "mmd2_unbiased": None if both.unbiased_K is None else float(both.unbiased_K[0]),
        "centroid": centroid(x_rows, y_rows),
        "sliced_wasserstein": sliced_wasserstein(x_rows, y_rows, seed=SEED),
        "jaccard": jaccard_of_counts(*drawn),
        "ruzicka": ruzicka_of_counts(*drawn),
    }


def peers(x: Sample, y: Sample, *, use_sparse: bool) -> dict[str, float | None]:
    """The same from scikit-learn, POT and Python's sets, as one would write it down."""
    x_rows, y_rows = _peer_features(x.texts, y.texts)
    dense_x, dense_y = x_rows.toarray(), y_rows.toarray()
    gamma = _peer_gamma(np.concatenate([dense_x, dense_y]))
    sides = (x_rows, y_rows) if use_sparse else (dense_x, dense_y)
    _, numbers = np.unique(x.prompt_ids + y.prompt_ids, return_inverse=True)
    ids = (numbers[: len(x.texts)], numbers[len(x.texts) :])
    xx, yy, xy = (_peer_kernel_means(sides[a], sides[b], ids[a], ids[b], gamma) for a, b in ((0, 0), (1, 1), (0, 1)))
    directions = random_directions(NUM_FEATURES, seed=SEED, num_projections=NUM_PROJECTIONS).astype(np.float32)
    single_x, single_y = dense_x.astype(np.float32), dense_y.astype(np.float32)
    return {
        "mmd2_biased": xx[0] + yy[0] - 2 * xy[0],
        "mmd2_unbiased": xx[1] + yy[1] - 2 * xy[1],
        "centroid": float(np.linalg.norm(dense_x.mean(axis=0) - dense_y.mean(axis=0))),
        "sliced_wasserstein": float(ot.sliced_wasserstein_distance(single_x, single_y, projections=directions)),
        **_peer_overlap(x.texts, y.texts),
    }


def _peer_features(x_texts: list[str], y_texts: list[str]):
    hashing = HashingVectorizer(
        n_features=NUM_FEATURES, ngram_range=(1, 2), token_pattern=TOKEN_PATTERN, alternate_sign=False, norm=None
    )
    x_counts, y_counts = hashing.transform(x_texts), hashing.transform(y_texts)
    tfidf = TfidfTransformer(sublinear_tf=True, norm="l2").fit(x_counts)
    return tfidf.transform(x_counts), tfidf.transform(y_counts)


def _peer_gamma(pooled: np.ndarray) -> float:
    rows = pooled
    if len(pooled) > MEDIAN_ROWS:
        rows = pooled[np.random.default_rng(SEED).choice(len(pooled), MEDIAN_ROWS, replace=False)]
    return 1 / (2 * float(np.median(euclidean_distances(rows, squared=True)[np.triu_indices(len(rows), k=1)])))


def _peer_kernel_means(x, y, x_ids: np.ndarray, y_ids: np.ndarray, gamma: float) -> tuple[float, float]:
    """Means over all pairs, and over the pairs of different prompts."""
    total, same_total, num_same = 0.0, 0.0, 0
    for start in range(0, x.shape[0], CHUNK_ROWS):
        kernel = rbf_kernel(x[start : start + CHUNK_ROWS], y, gamma)
        same = kernel[x_ids[start : start + CHUNK_ROWS, None] == y_ids]
        total, same_total, num_same = total + kernel.sum(), same_total + same.sum(), num_same + len(same)
    num_pairs = len(x_ids) * len(y_ids)
    return total / num_pairs, (total - same_total) / (num_pairs - num_same)


def _peer_overlap(x_texts: list[str], y_texts: list[str]) -> dict[str, float]:
    sides = [
        [word for text in texts for word in re.findall(TOKEN_PATTERN, text.lower())] for texts in (x_texts, y_texts)
    ]
    budget = min(map(len, sides))
    drawn = [
        side
        if len(side) == budget
        else [side[i] for i in np.random.default_rng(SEED).choice(len(side), budget, replace=False).tolist()]
        for side in sides
    ]
    (set_x, set_y), (count_x, count_y) = map(set, drawn), map(Counter, drawn)
    return {
        "jaccard": 1 - len(set_x & set_y) / len(set_x | set_y),
        "ruzicka": 1 - (count_x & count_y).total() / (count_x | count_y).total(),
    }


def _is_sparse_faster(x: Sample, y: Sample) -> bool:
    """One chunk of the peer's kernel each way."""
    x_rows, y_rows = _peer_features(x.texts, y.texts)
    dense_x, dense_y = x_rows[:CHUNK_ROWS].toarray(), y_rows.toarray()
    sparse = best_of(2, lambda: rbf_kernel(x_rows[:CHUNK_ROWS], y_rows, 0.3))
    return sparse < best_of(2, lambda: rbf_kernel(dense_x, dense_y, 0.3))


# Timing


def best_of(repeats: int, work: Callable[[], object]) -> float:
    return min(timed(work)[0] for _ in range(repeats))


def compare(name: str, x: Sample, y: Sample, *, repeats: int) -> Row:
    """One case, both sides in turns. Raises: ValueError if their values differ by more than TOLERANCES."""
    use_sparse = _is_sparse_faster(x, y)
    our_seconds, peer_seconds = [], []
    for _ in range(repeats):
        seconds, our_values = timed(lambda: ours(x, y))
        our_seconds.append(seconds)
        seconds, peer_values = timed(lambda: peers(x, y, use_sparse=use_sparse))
        peer_seconds.append(seconds)
    differences = {key: abs(our_values[key] - peer_values[key]) for key in TOLERANCES}
    for key, difference in differences.items():
        if difference > TOLERANCES[key]:
            raise ValueError(f"{name}: {key} is {our_values[key]} here, {peer_values[key]} there")
    return {
        "name": f"drift: {name}",
        "ours_seconds": min(our_seconds),
        "peer_seconds": min(peer_seconds),
        "ratio": min(peer_seconds) / min(our_seconds),
        "bar": BAR,
        "max_abs_difference": max(differences.values()),
        "peer": f"scikit-learn ({'sparse' if use_sparse else 'dense'} rows), POT",
        "ours_all_seconds": our_seconds,
        "peer_all_seconds": peer_seconds,
        "settings": {
            "states_a_side": len(x.texts),
            "mean_characters": float(np.mean([len(text) for text in x.texts + y.texts])),
            "features": NUM_FEATURES,
            "projections": NUM_PROJECTIONS,
            "threads": torch.get_num_threads(),
            "values": our_values,
            "differences": differences,
            "tolerances": TOLERANCES,
        },
    }


def run(model: str = "embedded", options: Options = Options()) -> list[Row]:  # noqa: B008
    """One row a case. No model takes part; `model` only labels the rows."""
    made = cases(options.limit or options.pick(PROMPTS, 250))
    return [{"model": model, **compare(name, *pair, repeats=options.num_repeats())} for name, pair in made.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    print(f"{'':46}{'states':>8}{'ours s':>8}{'peer s':>8}{'ratio':>7}{'bar':>5}{'max diff':>10}  peer")
    for row in run(options=Options(repeats=chosen.repeats, limit=chosen.prompts)):
        print(
            f"{row['name']:46}{2 * row['settings']['states_a_side']:>8}{row['ours_seconds']:>8.2f}"
            f"{row['peer_seconds']:>8.2f}{row['ratio']:>7.1f}{row['bar']:>5.0f}{row['max_abs_difference']:>10.1e}"
            f"  {row['peer']}"
        )


if __name__ == "__main__":
    main()
