"""The excess of drift over seeds that share their base rollouts: by hand, and its size and coverage by simulation."""

import math

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp

from stateshape.analysis.drift_excess import combined_p, drift_excess
from stateshape.core.records import DriftRecord, DriftValue
from stateshape.drift.nulls import Draws, judged
from stateshape.drift.paired import Paired
from stateshape.drift.pairwise import contrasts, unbiased

GAMMA, PROMPTS, STATES, WIDTH = 1 / 48, 24, 2, 6


def record(**values):
    return DriftRecord(
        task="t", features="f", num_prompts=1, num_states=1, distances={"mmd2_unbiased": DriftValue(**values)}
    )


def of_seeds(*values):
    return {seed: record(**value) for seed, value in enumerate(values)}


def test_by_hand():
    one = {"base_vs_base": 0.1, "null_sd": 0.02, "lo": 0.5 - 1.96 * 0.04, "hi": 0.5 + 1.96 * 0.04}
    found = drift_excess(of_seeds({**one, "value": 0.4, "p": 0.01}, {**one, "value": 0.6, "p": 0.001}), "mmd2_unbiased")
    assert found.estimate.value == pytest.approx(0.4)
    assert found.estimate.per_seed == {"0": pytest.approx(0.3), "1": pytest.approx(0.5)}
    assert found.estimate.seed_sd == pytest.approx(math.sqrt(0.02))
    shared = (0.04**2 + 0.02**2) / 2
    assert found.estimate.hi - 0.4 == pytest.approx(math.hypot(12.7062 * 0.1, 1.95996 * math.sqrt(shared)), rel=1e-4)
    z = (norm.isf(0.01) + norm.isf(0.001)) / 2 / math.sqrt((1 + 0.25) / 2)
    assert found.p == pytest.approx(2 * norm.sf(z))


def test_what_is_missing_is_said():
    none = drift_excess({}, "mmd2_unbiased")
    assert (none.estimate.value, none.p, none.estimate.note) == (None, None, "no drift was measured")
    one = drift_excess(of_seeds({"value": 0.3, "base_vs_base": 0.1, "p": 0.2}), "mmd2_unbiased")
    assert (one.estimate.lo, one.estimate.note) == (None, "one training seed: no interval")
    assert one.p == pytest.approx(0.4)
    bare = {"value": 0.3, "base_vs_base": 0.1}
    old = drift_excess(of_seeds(bare, bare), "mmd2_unbiased")
    assert (old.estimate.value, old.estimate.lo, old.p) == (pytest.approx(0.2), None, None)
    assert "without permutations" in old.estimate.note
    assert drift_excess(of_seeds(bare, {**bare, "base_vs_base": None}), "mmd2_unbiased").estimate.n_seeds == 1
    assert combined_p([1.0, 1.0, 1.0]) == 1.0


def measured(generator, num_seeds, shift):
    """Seeds of one study: all against one sample of the base, on the same prompts."""
    prompt_M = np.repeat(np.arange(PROMPTS), STATES)
    places = generator.normal(size=(PROMPTS, WIDTH))[prompt_M]
    sample = lambda moved=0.0: places + generator.normal(size=places.shape) + moved / math.sqrt(WIDTH)  # noqa: E731
    base, again, counts_P = sample(), sample(), np.full(PROMPTS, STATES)

    def against_base(rows, draws):
        pair = Paired(x_MD=base, y_MD=rows, prompt_M=prompt_M)
        return unbiased(contrasts(pair, GAMMA).family_PP, counts_P, draws)

    still = against_base(again, Draws.make(PROMPTS, seed=0, num_permutations=0, num_resamples=0))
    draws = Draws.make(PROMPTS, seed=0, num_permutations=200, num_resamples=100)
    values = [judged(against_base(sample(shift), draws), still, num_states=len(base)) for _ in range(num_seeds)]
    records = {}
    for seed, value in enumerate(values):
        records[seed] = record(value=0.0, base_vs_base=None)
        records[seed].distances["mmd2_unbiased"] = value
    return records


@pytest.mark.slow
def test_seeds_that_share_their_base_do_not_count_as_many_bases():
    generator = np.random.default_rng(0)
    num_studies, by_t, rejected, held = 150, 0, {3: 0, 10: 0}, {3: 0, 10: 0}
    for _ in range(num_studies):
        records = measured(generator, 10, 0.0)
        for num_seeds in rejected:
            found = drift_excess({seed: records[seed] for seed in range(num_seeds)}, "mmd2_unbiased")
            assert found.p is not None and found.estimate.lo is not None and found.estimate.hi is not None
            rejected[num_seeds] += found.p < 0.05
            held[num_seeds] += found.estimate.lo <= 0 <= found.estimate.hi
        by_t += ttest_1samp(list(found.estimate.per_seed.values()), 0).pvalue < 0.05
    assert by_t / num_studies > 0.2  # what a t test over the ten seeds does
    for num_seeds in rejected:
        assert rejected[num_seeds] / num_studies <= 0.06
        assert held[num_seeds] / num_studies >= 0.93


def test_a_drift_that_is_there_is_seen():
    generator = np.random.default_rng(1)
    found = [drift_excess(measured(generator, 3, 2.0), "mmd2_unbiased") for _ in range(20)]
    assert np.mean([one.p < 0.01 and one.estimate.lo > 0 for one in found]) > 0.8
