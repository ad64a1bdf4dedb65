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

import numpy as np

from stateshape.core.files import BadInput
from stateshape.core.records import DriftRecord, DriftValue
from stateshape.drift.distances import (
    centroid,
    lexical_jaccard,
    median_gamma,
    mmd2_biased,
    mmd2_unbiased,
    ruzicka,
    sliced_wasserstein,
)
from stateshape.drift.features import LexicalFeatures, words
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
        distances |= _distances((a.responses, b.responses, r.responses), ids, seed=seed, prefix="")
        distances |= _distances((a.states, b.states, r.states), ids, seed=seed, prefix=FULL_STATE)
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


def _distances(
    texts: tuple[Sequence[str], Sequence[str], Sequence[str]],
    prompt_ids: tuple[Sequence[str], Sequence[str], Sequence[str]],
    *,
    seed: int,
    prefix: str,
) -> dict[str, DriftValue]:
    """Every distance on one kind of text; texts and ids are of base_a, base_b and run."""
    features = LexicalFeatures.fit(texts[0])
    a_ND, b_ND, run_ND = (features.transform(side) for side in texts)
    words_a, words_b, words_run = ([word for text in side for word in words(text)] for side in texts)
    try:
        gamma = median_gamma(np.concatenate([a_ND, b_ND]), seed=seed)
    except ValueError:  # the base says nearly always the same: there is no scale to measure by, so no MMD
        gamma = None
    budget = min(len(words_a), len(words_b), len(words_run))
    run_values = _values(a_ND, run_ND, gamma, (prompt_ids[0], prompt_ids[2]), seed=seed)
    base_values = _values(a_ND, b_ND, gamma, (prompt_ids[0], prompt_ids[1]), seed=seed)
    for values, other in ((run_values, words_run), (base_values, words_b)):
        values["jaccard"] = lexical_jaccard(words_a, other, seed=seed, budget=budget) if budget else None
        values["ruzicka"] = ruzicka(words_a, other, seed=seed, budget=budget) if budget else None
    return {prefix + name: DriftValue(value=run_values[name], base_vs_base=base_values[name]) for name in DISTANCES}


def _values(
    x_ND: np.ndarray, y_ND: np.ndarray, gamma: float | None, ids: tuple[Sequence[str], Sequence[str]], *, seed: int
) -> dict[str, float | None]:
    has_two_prompts = min(len(set(ids[0])), len(set(ids[1]))) > 1
    unbiased = None
    if gamma is not None and has_two_prompts:
        unbiased = mmd2_unbiased(x_ND, y_ND, gamma, groups_x=ids[0], groups_y=ids[1])
    return {
        "mmd2_biased": None if gamma is None else mmd2_biased(x_ND, y_ND, gamma),
        "mmd2_unbiased": unbiased,
        "centroid": centroid(x_ND, y_ND),
        "sliced_wasserstein": sliced_wasserstein(x_ND, y_ND, seed=seed),
    }
