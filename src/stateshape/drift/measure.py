"""Drift of a run's rollout states from the base model's, each distance beside the same distance of base against base.

All sides use the same prompts, the same number of states and the same token budget, so that the two numbers differ by
the model alone. Does not know models, samplers or files, and gives no p-value: base_vs_base is one draw of the null.
Source: arXiv:2605.22731 sec. 4. Differs: the second base sample, and the unbiased and prompt + prefix variants.

Names: mmd2_biased (the paper's "MMD": squared, not rooted), mmd2_unbiased (pairs of one prompt left out), centroid,
sliced_wasserstein, jaccard, ruzicka, all on response prefixes; the same with "state_" in front on prompt + prefix.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, vstack

from stateshape.core.files import BadInput
from stateshape.core.records import DriftRecord, DriftValue
from stateshape.drift.distances import (
    NUM_PROJECTIONS,
    centroid,
    drawn_counts,
    jaccard_of_counts,
    median_gamma,
    mmd2,
    number_labels,
    quantile_distance,
    random_directions,
    ruzicka_of_counts,
    sorted_projections,
)
from stateshape.drift.features import LexicalFeatures, Vocabulary, gram_counts
from stateshape.drift.kernels import KernelSums, kernel_sums
from stateshape.drift.states import NUM_CUTS, PrefixStates, Rollouts, prefix_states

DISTANCES = ("mmd2_biased", "mmd2_unbiased", "centroid", "sliced_wasserstein", "jaccard", "ruzicka")
FULL_STATE = "state_"
MIN_STATES = 8  # per side; below this a distance says nothing and is left out
FEATURES = "hashed word 1-2-grams, 1024-d, sublinear tf, idf of the base, L2"


def measure(
    base_a: Rollouts, base_b: Rollouts, run: Rollouts, *, task: str, seed: int, num_cuts: int = NUM_CUTS
) -> DriftRecord:
    """Distances of run against base_a, and of base_b (the base sampled with another seed) against base_a.

    The cuts of base_b and of run are drawn from the same stream: a run that equals base_b has exactly its values.
    Raises: BadInput if the three sides do not hold the same item ids with the same prompts.
    """
    _check_same_items(base_a, base_b, side="base_b")
    _check_same_items(base_a, run, side="run")
    sides = [
        prefix_states(side, generator=np.random.default_rng([seed, stream]), num_cuts=num_cuts)
        for side, stream in ((base_a, 0), (base_b, 1), (run, 1))
    ]
    num_states = min(len(states) for states in sides)
    distances: dict[str, DriftValue] = {}
    if num_states < MIN_STATES:
        missing = DriftValue(value=None, base_vs_base=None)
        distances = {prefix + name: missing for prefix in ("", FULL_STATE) for name in DISTANCES}
    else:
        a, b, r = (_subsample(states, num_states, seed=seed, stream=i) for i, states in zip((0, 1, 1), sides))
        ids = (a.prompt_ids, b.prompt_ids, r.prompt_ids)
        kinds = {"": [a.responses, b.responses, r.responses], FULL_STATE: [a.states, b.states, r.states]}
        for prefix, texts in kinds.items():
            base, moved = distances_from_first(texts, ids, seed=seed)
            distances |= {prefix + name: DriftValue(value=moved[name], base_vs_base=base[name]) for name in DISTANCES}
    return DriftRecord(
        task=task,
        features=FEATURES,
        num_prompts=len(set(base_a.prompt_ids)),
        num_states=num_states,
        distances=distances,
    )


def _check_same_items(base: Rollouts, other: Rollouts, *, side: str) -> None:
    ids, other_ids = Counter(base.prompt_ids), Counter(other.prompt_ids)
    if ids != other_ids:
        odd = sorted(((ids - other_ids) + (other_ids - ids)).keys())
        raise BadInput(f"drift: {side} has other items than base_a, e.g. {odd[0]!r}; sample both on the same prompts")
    texts = dict(zip(base.prompt_ids, base.prompts))
    for prompt_id, prompt in zip(other.prompt_ids, other.prompts):
        if texts[prompt_id] != prompt:
            raise BadInput(f"drift: item {prompt_id!r} has another prompt in {side} than in base_a")


def _subsample(states: PrefixStates, size: int, *, seed: int, stream: int) -> PrefixStates:
    if len(states) == size:
        return states
    chosen = np.random.default_rng([seed, 2 + stream]).choice(len(states), size=size, replace=False)
    return states.take(np.sort(chosen).tolist())


def distances_from_first(
    texts: Sequence[Sequence[str]], prompt_ids: Sequence[Sequence[str]], *, seed: int
) -> list[dict[str, float | None]]:
    """Every distance of each further side from the first, on one kind of text.

    The ruler is the base's: features are fitted on side 0, the kernel width on sides 0 and 1. Each side is read,
    projected and paired with itself once. A distance that cannot be said is None.
    """
    vocabulary = Vocabulary()
    corpora = [vocabulary.read(side) for side in texts]
    counts = [gram_counts(corpus) for corpus in corpora]
    features = LexicalFeatures.fit_counts(counts[0])
    rows = [features.weigh(side).astype(np.float32) for side in counts]
    try:
        gamma = median_gamma(vstack(rows[:2], format="csr"), seed=seed)
    except ValueError:  # the base says nearly always the same: there is no scale to measure by, so no MMD
        gamma = None
    directions = random_directions(rows[0].shape[1], seed=seed, num_projections=NUM_PROJECTIONS)
    budget = min(len(corpus.words_T) for corpus in corpora)
    sides = [
        _Side(
            rows=side,
            groups=groups,
            words=corpus.words_T,
            within=None if gamma is None else kernel_sums(side, gamma=gamma, groups_M=groups),
            projections=sorted_projections(side, directions),
        )
        for side, groups, corpus in zip(rows, number_labels(*prompt_ids), corpora)
    ]
    return [_values(sides[0], other, gamma, seed=seed, budget=budget) for other in sides[1:]]


class _Side(NamedTuple):
    """One side's texts as every distance needs them."""

    rows: csr_array
    groups: np.ndarray
    words: np.ndarray
    within: KernelSums | None
    projections: np.ndarray


def _values(x: _Side, y: _Side, gamma: float | None, *, seed: int, budget: int) -> dict[str, float | None]:
    values: dict[str, float | None] = dict.fromkeys(DISTANCES)
    if gamma is not None and x.within is not None and y.within is not None:
        across = kernel_sums(x.rows, y.rows, gamma=gamma, groups_M=x.groups, groups_N=y.groups)
        both = mmd2(x.within, y.within, across)
        values["mmd2_biased"] = float(both.biased_K[0])
        values["mmd2_unbiased"] = None if both.unbiased_K is None else float(both.unbiased_K[0])
    values["centroid"] = centroid(x.rows, y.rows)
    values["sliced_wasserstein"] = quantile_distance(x.projections, y.projections, p=2)
    if budget:
        counts = drawn_counts(x.words, y.words, seed=seed, budget=budget)
        values["jaccard"], values["ruzicka"] = jaccard_of_counts(*counts), ruzicka_of_counts(*counts)
    return values
