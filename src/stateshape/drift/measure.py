"""Drift of a run's rollout states from the base model's: every distance with its null, its interval and base vs base.

All sides use the same prompts, the same number of states of each prompt and the same token budget, so that two numbers
differ by the model alone. The null is label swaps within prompts (nulls.py). Does not know models, samplers or files.
Source: arXiv:2605.22731 sec. 4. Differs: the null, the second base sample, and all distances but four.

Names of distances, on response prefixes, which are the primary set:
    mmd2_unbiased        pairs of one prompt left out; a mean over five bandwidths around the median; about 0 without drift
    mmd2_biased          the paper's "MMD": squared, not rooted, every pair kept, median bandwidth; `floor` without drift
    centroid             distance of the means, its `floor` taken off the square
    energy               energy distance, pairs of one prompt left out; about 0 without drift
    sliced_wasserstein_1, sliced_wasserstein_2
    c2st_auc             held-out AUC of a classifier between the two sides: 1/2 without drift
    jaccard, ruzicka     word types, word counts
The same on prompt + prefix with "state_" in front, and on an encoder's vectors with its name in front (no word overlap); of
large samples these secondary sets take whole prompts drawn from all, at most MAX_EXACT states per side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from stateshape.core.files import BadInput
from stateshape.core.records import DriftRecord, DriftValue
from stateshape.drift.all_distances import (
    MAX_EXACT,
    Found,
    Trials,
    drawn_note,
    drawn_prompts,
    geometric_distances,
    word_overlaps,
)
from stateshape.drift.features import Corpus, Vocabulary, gram_counts
from stateshape.drift.kernels import Rows
from stateshape.drift.names import DISTANCES, FULL_STATE, GEOMETRIC
from stateshape.drift.nulls import NUM_PERMUTATIONS, NUM_RESAMPLES, judged
from stateshape.drift.overlap import Tokens
from stateshape.drift.paired import Paired
from stateshape.drift.rulers import Encoder, Ruler, ToRows, centred, lexical, stacked
from stateshape.drift.states import NUM_CUTS, Matched, PrefixStates, Rollouts, matched, number_labels, prefix_states

BASE_A, BASE_B, RUN = 0, 1, 2  # the three sides
MIN_PROMPTS = 8  # 2^7 different swaps, so p can't fall below .008; below that a null says nothing
FEATURES = "hashed word 1-2-grams, 1024-d, sublinear tf, idf of the base, L2"


def measure(
    base_a: Rollouts,
    base_b: Rollouts,
    run: Rollouts,
    *,
    task: str,
    seed: int,
    num_cuts: int = NUM_CUTS,
    encoders: Mapping[str, Encoder] | None = None,
    num_permutations: int = NUM_PERMUTATIONS,
    num_resamples: int = NUM_RESAMPLES,
) -> DriftRecord:
    """Distances of run against base_a with their nulls, and of base_b (the base sampled with another seed) against base_a.

    Nothing that is drawn favours a pair of sides: each has cuts of its own. The ruler is fitted on base states (rulers.py),
    the same for every run that is measured against these two base samples.

    Args: encoders: further features by name, e.g. {"hidden": HiddenStates(base)}.
    Raises: BadInput if the three sides do not hold the same item ids with the same prompts.
    """
    _check_same_items(base_a, base_b, side="base_b")
    _check_same_items(base_a, run, side="run")
    sides = [
        prefix_states(side, generator=np.random.default_rng([seed, stream]), num_cuts=num_cuts)
        for stream, side in enumerate((base_a, base_b, run))
    ]
    states = _States(sides, matched(sides, seed=seed))
    trials = Trials(seed=seed, num_permutations=num_permutations, num_resamples=num_resamples)
    encoders = encoders or {}
    num_prompts = states.match.num_prompts
    enough = num_prompts >= MIN_PROMPTS
    distances, medians = _distances(states, encoders, trials) if enough else (_too_few(num_prompts, encoders), {})
    return DriftRecord(
        task=task,
        features=FEATURES,
        num_prompts=num_prompts,
        num_states=len(states.match.prompt_M),
        distances=distances,
        num_permutations=num_permutations,
        num_resamples=num_resamples,
        seed=seed,
        num_prompts_left_out=len(set(base_a.prompt_ids)) - num_prompts,
        feature_sets={
            "": f"response prefix: {FEATURES}",
            FULL_STATE: f"prompt + response prefix: {FEATURES}",
            **{f"{name}_": encoder.features for name, encoder in encoders.items()},
        },
        median_distances=medians,
    )


def _distances(
    states: _States, encoders: Mapping[str, Encoder], trials: Trials
) -> tuple[dict[str, DriftValue], dict[str, float | None]]:
    """Every distance on every set of features, and each set's median distance."""
    distances: dict[str, DriftValue] = {}
    medians: dict[str, float | None] = {}
    by_distance, medians[""] = _lexical([side.responses for side in states.sides], states, trials)
    distances |= {name: by_distance[name] for name in DISTANCES}
    fewer, drawn = _at_most(states, MAX_EXACT, seed=trials.seed)
    by_distance, medians[FULL_STATE] = _lexical([side.states for side in fewer.sides], fewer, trials)
    distances |= {FULL_STATE + name: _noted(by_distance[name], drawn) for name in DISTANCES}
    for name, encoder in encoders.items():
        vectors: list[Rows] = [np.asarray(encoder.encode(side), np.float32) for side in fewer.sides]
        by_distance, medians[f"{name}_"] = _geometric(vectors, centred, fewer, trials)
        distances |= {f"{name}_{distance}": _noted(value, drawn) for distance, value in by_distance.items()}
    return distances, medians


def _too_few(num_prompts: int, encoders: Iterable[str]) -> dict[str, DriftValue]:
    """Every distance as missing, with the reason."""
    note = f"{num_prompts} prompts have states on all sides; {MIN_PROMPTS} are needed"
    names = [prefix + name for prefix in ("", FULL_STATE) for name in DISTANCES]
    names += [f"{prefix}_{name}" for prefix in encoders for name in GEOMETRIC]
    return {name: DriftValue(value=None, base_vs_base=None, note=note) for name in names}


def _check_same_items(base: Rollouts, other: Rollouts, *, side: str) -> None:
    ids, other_ids = Counter(base.prompt_ids), Counter(other.prompt_ids)
    if ids != other_ids:
        odd = sorted(((ids - other_ids) + (other_ids - ids)).keys())
        raise BadInput(f"drift: {side} has other items than base_a, e.g. {odd[0]!r}; sample both on the same prompts")
    texts = dict(zip(base.prompt_ids, base.prompts))
    for prompt_id, prompt in zip(other.prompt_ids, other.prompts):
        if texts[prompt_id] != prompt:
            raise BadInput(f"drift: item {prompt_id!r} has another prompt in {side} than in base_a")


class _States(NamedTuple):
    """base_a, base_b and run, and which states of theirs are compared."""

    sides: list[PrefixStates]
    match: Matched


def _at_most(states: _States, limit: int, *, seed: int) -> tuple[_States, str | None]:
    """The states, or those of whole prompts drawn from all; and how many were drawn, in words."""
    counts_P = np.bincount(states.match.prompt_M)
    if counts_P.sum() <= limit:
        return states, None
    is_chosen_P = drawn_prompts(counts_P, limit, seed=seed)
    first_rows = states.match.rows[0][np.searchsorted(states.match.prompt_M, np.flatnonzero(is_chosen_P))]
    chosen = {states.sides[0].prompt_ids[row] for row in first_rows.tolist()}
    fewer = [side.take([i for i, each in enumerate(side.prompt_ids) if each in chosen]) for side in states.sides]
    return _States(fewer, matched(fewer, seed=seed)), drawn_note(len(chosen), len(counts_P))


def _noted(value: DriftValue, note: str | None) -> DriftValue:
    if note is None:
        return value
    return replace(value, note=note if value.note is None else f"{value.note}; of a set with {note}")


def _lexical(
    texts: Sequence[Sequence[str]], states: _States, trials: Trials
) -> tuple[dict[str, DriftValue], float | None]:
    """Every distance on one kind of text, and the kernel's median distance."""
    vocabulary = Vocabulary()
    corpora = [vocabulary.read(side) for side in texts]
    values, median = _geometric([gram_counts(corpus) for corpus in corpora], lexical, states, trials)
    match = states.match
    tokens = [_tokens(corpus, rows, match.prompt_M) for corpus, rows in zip(corpora, match.rows)]
    moved, still = word_overlaps(tokens, np.bincount(match.prompt_M), trials)
    return values | _judged(moved, still), median


def _geometric(
    raw: list[Rows], fit: Callable[[Rows], ToRows], states: _States, trials: Trials
) -> tuple[dict[str, DriftValue], float | None]:
    """The distances that need vectors alone, and the median distance of the ruler that the run is measured by.

    Args: raw: counts or vectors of all states of base_a, base_b and run. fit: rulers.lexical or rulers.centred.
    """
    prompts = number_labels(*(side.prompt_ids for side in states.sides))
    x_rows, match = raw[0][states.match.rows[0]], states.match

    def compare(side: int, fitted_on: Sequence[int], trials: Trials) -> tuple[dict[str, Found], Ruler]:
        fitted_ND = stacked([raw[i] for i in fitted_on])
        to_rows = fit(fitted_ND)
        ruler = Ruler.fit(fitted_ND, to_rows, np.concatenate([prompts[i] for i in fitted_on]), seed=trials.seed)
        del fitted_ND
        y_rows = raw[side][match.rows[side]]
        pair = Paired(x_MD=to_rows(x_rows), y_MD=to_rows(y_rows), prompt_M=match.prompt_M)
        return geometric_distances(pair, ruler, trials), ruler

    moved, ruler = compare(RUN, [BASE_B], trials)
    still, _ = compare(BASE_B, [BASE_A, BASE_B], trials.none())
    return _judged(moved, still), ruler.median_distance


def _judged(moved: dict[str, Found], still: dict[str, Found]) -> dict[str, DriftValue]:
    return {
        name: judged(distance.statistic, still[name].statistic, num_states=distance.num_states, reason=distance.reason)
        for name, distance in moved.items()
    }


def _tokens(corpus: Corpus, rows: np.ndarray, prompt_M: np.ndarray) -> Tokens:
    """The words of the chosen states, in their order."""
    lengths = corpus.lengths_N[rows]
    starts = (np.cumsum(corpus.lengths_N) - corpus.lengths_N)[rows]
    place_T = np.arange(lengths.sum()) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return Tokens(corpus.words_T[place_T], np.repeat(prompt_M, lengths))
