"""Hand-worked and textbook values for intervals and tests; calibration by simulation, at three training seeds too."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binom, norm, ttest_1samp

from stateshape.analysis.statistics import (
    centred_p,
    crossed_spread,
    enough_items,
    exact_mcnemar,
    hierarchical_bootstrap,
    holm,
    mean_estimate,
    paired_bootstrap,
    pass_at_k,
    resampled_item_means,
    t_interval,
    t_test,
    unanimous_half_width,
    unanimous_p,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "n", "lo", "hi"),
    [
        (8, 10, 0.4901625, 0.9433178),  # published: Newcombe's method 3 without continuity correction
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_has_the_published_values(successes, n, lo, hi):
    assert wilson(successes, n) == pytest.approx((lo, hi), abs=6e-5)


def test_wilson_mirrors_and_refuses_nonsense():
    assert wilson(3, 10).lo == pytest.approx(1 - wilson(7, 10).hi)
    assert wilson(20, 20).hi == 1.0
    for successes, n in ((0, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="wilson"):
            wilson(successes, n)


def test_exact_mcnemar_by_hand():
    # 8 against 2: 2 * (C(10,0) + C(10,1) + C(10,2)) / 2^10 = 112/1024
    a = np.array([True] * 8 + [False] * 2 + [True] * 5 + [False] * 5)
    b = np.array([False] * 8 + [True] * 2 + [True] * 5 + [False] * 5)
    assert exact_mcnemar(a, b) == pytest.approx(112 / 1024)
    assert exact_mcnemar(b, a) == exact_mcnemar(a, b)
    assert exact_mcnemar(a, a) == 1.0
    only = np.array([True] * 6)
    assert exact_mcnemar(only, ~only) == pytest.approx(2 / 64)
    with pytest.raises(ValueError, match="equal lengths"):
        exact_mcnemar(a, b[:-1])


def test_exact_mcnemar_is_the_doubled_binomial_tail():
    for only_a, only_b in ((5, 5), (9, 4), (1, 12)):
        a = np.array([True] * only_a + [False] * only_b)
        tail = 2 * binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)
        assert exact_mcnemar(a, ~a) == pytest.approx(min(1.0, tail))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2, 0.001, 0.9, 0.01]) == pytest.approx([0.4, 0.004, 0.9, 0.03])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(ValueError, match="p-values"):
        holm([1.2])


def test_pass_at_k_counts_subsets():
    for n, c in ((5, 0), (5, 2), (6, 6), (7, 3)):
        samples = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            drawn = [any(chosen) for chosen in combinations(samples, k)]
            assert pass_at_k(n, c, k) == pytest.approx(float(Fraction(sum(drawn), len(drawn))))


def test_mean_estimate():
    rate = mean_estimate([1, 0, 1, 1])
    assert (rate.value, rate.n) == (0.75, 4)
    assert rate.stderr == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    assert rate.ci95 == tuple(wilson(3, 4))
    real = mean_estimate([0.2, 0.4, 0.9])
    assert real.stderr == pytest.approx(np.std([0.2, 0.4, 0.9], ddof=1) / math.sqrt(3))
    assert real.ci95[1] - real.value == pytest.approx(1.959964 * real.stderr)
    assert mean_estimate([]).value is None
    assert mean_estimate([0.3]).ci95 is None


def test_paired_bootstrap_matches_the_normal_interval_and_its_seed():
    differences = np.random.default_rng(1).normal(0.1, 1.0, size=400)
    interval = paired_bootstrap(differences, 7)
    stderr = differences.std(ddof=1) / 20
    assert interval == pytest.approx((differences.mean() - 1.96 * stderr, differences.mean() + 1.96 * stderr), abs=0.01)
    assert interval == paired_bootstrap(differences, 7)
    assert interval != paired_bootstrap(differences, 8)
    assert paired_bootstrap(np.zeros(5), 0) == (0.0, 0.0)
    with pytest.raises(ValueError, match="at least one"):
        paired_bootstrap(np.zeros(0), 0)


def test_few_distinct_columns_and_plain_index_draws_have_one_law():
    scores = np.random.default_rng(2).integers(-1, 2, size=(2, 300)).astype(float)
    counted = resampled_item_means(scores, np.random.default_rng(0), num=20_000)
    # a jitter makes every column distinct, so that the other branch runs
    jittered = scores + 1e-9 * np.arange(300)
    indexed = resampled_item_means(jittered, np.random.default_rng(0), num=20_000)
    assert counted.mean(axis=0) == pytest.approx(scores.mean(axis=1), abs=2e-3)
    assert np.cov(counted.T) == pytest.approx(np.cov(indexed.T), abs=1e-4)
    assert np.cov(counted.T) == pytest.approx(np.cov(scores, ddof=0) / 300, abs=1e-4)


def test_trap_fragile_forgetting_claims_the_bootstrap_sees_the_seeds():
    # items of a seed all agree: item resampling alone would give an interval of width 0
    differences = np.repeat([[-0.1], [0.1], [0.3]], 50, axis=1)
    result = hierarchical_bootstrap(differences, 0)
    assert result.lo == pytest.approx(-0.1)
    assert result.hi == pytest.approx(0.3)
    assert result.p > 0.2
    sure = hierarchical_bootstrap(np.full((3, 50), 0.2), 0)
    assert sure.p == pytest.approx(1 / 10_001)
    assert hierarchical_bootstrap(np.zeros((3, 50)), 0).p == 1.0


def test_hierarchical_bootstrap_is_calibrated_when_items_dominate():
    rng = np.random.default_rng(3)
    pvalues, covered = [], []
    for trial in range(200):
        item = rng.normal(0, 0.5, size=(1, 300))
        seeds = rng.normal(0, 0.005, size=(3, 1))
        result = hierarchical_bootstrap(item + seeds + rng.normal(0, 0.3, size=(3, 300)), trial, num=1000)
        pvalues.append(result.p)
        covered.append(result.lo <= 0 <= result.hi)
    assert np.mean(covered) >= 0.92
    assert np.mean(np.array(pvalues) < 0.05) <= 0.08


def test_centred_p_by_hand():
    values = np.array([0.5, 1.0, 1.5, 2.1, -0.2])
    # centred on 1: -.5, 0, .5, 1.1, -1.2: two are at least 1 in size
    assert centred_p(values, observed=1.0) == pytest.approx(3 / 6)


# Seeds and items as random effects


def test_crossed_spread_by_hand():
    # seed means 2, 4 (variance 2); item means 2, 3, 4 (variance 1); additive but for one cell pair: residuals +-.5
    scores = np.array([[1.5, 2.0, 2.5], [2.5, 4.0, 5.5]])
    spread = crossed_spread([scores])
    v_seed, v_item = 2 / 2, 1 / 3
    v_error = (4 * 0.5**2 / 2) / 6  # residuals -.5, 0, .5 with signs: sum of squares 1, 2 df, 6 cells
    assert spread.value == 3
    assert spread.variance == pytest.approx(v_seed + v_item - v_error)
    assert spread.df == pytest.approx(spread.variance / (v_seed / 1 + v_item / 2 + v_error / 2))
    assert spread.seed_means_variance == pytest.approx(v_seed)
    assert spread.seed_variance == pytest.approx(v_seed - v_error)


def test_one_seed_is_the_t_test_over_items_and_endless_items_that_over_seeds():
    items = np.random.default_rng(0).normal(0.1, 1, size=(1, 60))
    assert t_test(crossed_spread([items])) == pytest.approx(ttest_1samp(items[0], 0).pvalue)
    seeds = np.repeat([[-0.01], [0.05], [0.04]], 60, axis=1)
    assert t_test(crossed_spread([seeds])) == pytest.approx(ttest_1samp(seeds[:, 0], 0).pvalue)
    assert t_test(crossed_spread([seeds]), null=seeds.mean()) == 1.0
    with pytest.raises(ValueError, match="N >= 2"):
        crossed_spread([np.zeros((3, 1))])


def test_tasks_share_their_seeds_and_not_their_items():
    generator = np.random.default_rng(1)
    shift = np.array([[-0.2], [0.0], [0.3]])
    tasks = [generator.normal(0, 1, size=(1, n)) + shift for n in (40, 90)]
    spread = crossed_spread(tasks)
    # no interaction: V_e is 0, the seeds' part is not halved by a second task, the items' is the mean's
    expected_items = sum(task.mean(axis=0).var(ddof=1) / task.shape[1] for task in tasks) / 4
    assert spread.seed_variance == pytest.approx(shift.var(ddof=1) / 3)
    assert spread.variance == pytest.approx(shift.var(ddof=1) / 3 + expected_items)


def test_the_interval_and_its_test_agree():
    scores = np.random.default_rng(2).normal(0.1, 1, size=(3, 80)) + np.array([[0.1], [0.0], [-0.2]])
    spread = crossed_spread([scores])
    for bound in t_interval(spread):
        assert t_test(spread, null=bound) == pytest.approx(0.05)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9, 1.0])
def test_trap_fragile_forgetting_claims_three_seeds_cover_what_they_say(share):
    """share: of the mean's variance, what is training seeds. Of the bootstrap's 95% intervals 75 to 95% hold the truth."""
    generator = np.random.default_rng(6)
    num_trials, num_items, num_seeds = 1500, 60, 3
    seed_sd, item_sd = math.sqrt(share * num_seeds), math.sqrt((1 - share) * num_items)
    covered = bootstrap_covered = 0
    for trial in range(num_trials):
        scores = generator.normal(0, seed_sd, (num_seeds, 1)) + generator.normal(0, item_sd, (1, num_items))
        interval = t_interval(crossed_spread([scores]))
        covered += interval.lo <= 0 <= interval.hi
        if share == 1 and trial < 300:
            resampled = hierarchical_bootstrap(scores, trial, num=500)
            bootstrap_covered += resampled.lo <= 0 <= resampled.hi
    # four standard errors of 1,500 trials are 2.3 points
    assert 0.93 <= covered / num_trials <= 0.975
    if share == 1:
        assert bootstrap_covered / 300 < 0.82


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_trap_fragile_forgetting_claims_the_test_has_its_size_at_small_p(num_seeds, share):
    """Where items differ by seed as much as by themselves, seeds often agree by luck. Their spread must count nevertheless.

    The half-width is independent of the mean, so the size is the mean of 2 Phi(-half / sd): no rejection is counted.
    """
    generator = np.random.default_rng(8)
    num_items = 40
    items = (1 - share) * num_items / (1 + 1 / num_seeds)  # all noise together gives the mean variance 1
    spreads = []
    for _ in range(800):
        scores = generator.normal(0, math.sqrt(share * num_seeds), (num_seeds, 1))
        scores = scores + generator.normal(0, math.sqrt(items), (1, num_items))
        scores = scores + generator.normal(0, math.sqrt(items), (num_seeds, num_items))
        spreads.append(crossed_spread([scores]))
    for alpha in (0.05, 0.05 / 15, 0.001):
        intervals = [t_interval(spread, confidence=1 - alpha) for spread in spreads]
        sizes = [2 * norm.sf((interval.hi - interval.lo) / 2) for interval in intervals]
        assert np.mean(sizes) <= 1.2 * alpha + 3 * np.std(sizes) / math.sqrt(len(sizes))


def test_zero_one_scores_of_three_seeds_cover():
    """Rates, as evaluated: items of unequal difficulty, answers that vary with the training seed."""
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(1000):
        difficulty = generator.beta(2, 2, size=(1, 200))
        shift = generator.normal(0, 0.03, size=(3, 1))
        scores = (generator.random((3, 200)) < np.clip(difficulty + shift, 0, 1)).astype(float)
        interval = t_interval(crossed_spread([scores]))
        covered += interval.lo <= 0.5 <= interval.hi
    assert 0.93 <= covered / 1000 <= 0.985


def test_items_that_all_agree_bound_the_rate_of_those_that_would_not():
    # 0 of 100 differ: Clopper-Pearson's upper bound at two-sided 95% is .0362
    assert unanimous_half_width(100, 1.0) == pytest.approx(0.0362, abs=1e-4)
    assert unanimous_p(100, 1.0, 0.0) == 1.0
    assert unanimous_p(100, 1.0, unanimous_half_width(100, 1.0)) == pytest.approx(0.05)


def rare_flips(generator, num_items, num_flips):
    """Three seeds; on average `num_flips` items flip, all to one side, each in every seed."""
    flips = generator.random(num_items) < num_flips / num_items
    return np.repeat(flips[None].astype(float), 3, axis=0)


@pytest.mark.parametrize("num_items", [60, 200, 1000])
@pytest.mark.parametrize("num_flips", [4, 8, 12, 20])
def test_intervals_that_may_decide_hold_their_level_with_rare_flips(num_items, num_flips):
    generator = np.random.default_rng(num_items + num_flips)
    misses = decided_misses = 0
    for _ in range(600):
        scores = rare_flips(generator, num_items, num_flips)
        if np.ptp(scores) == 0:
            continue
        interval = t_interval(crossed_spread([scores]))
        missed = not interval.lo <= num_flips / num_items <= interval.hi
        misses += missed
        decided_misses += missed and enough_items([scores]) is None
    assert decided_misses / 600 <= 0.065 + 3 * math.sqrt(0.065 * 0.935 / 600)
    if num_flips == 8:
        assert misses / 600 > 0.065 and decided_misses / 600 < 0.03  # without the rule one in ten misses


def test_enough_items_counts_items_that_differ_in_any_seed():
    scores = np.zeros((3, 100))
    assert enough_items([scores]) is None  # the exact bound holds
    scores[0, :5] = 1
    scores[1, 3:9] = -1
    assert enough_items([scores]) == "9 of 100 items differ, fewer than 10"
    scores[2, 20] = 1
    assert enough_items([scores]) is None
    assert enough_items([1 - scores]) is None
    assert enough_items([np.zeros((3, 20)), np.zeros((3, 29))]) == "49 items, fewer than 50"
    assert enough_items([scores[:, :20], np.zeros((3, 60))]) == "9 of 80 items differ, fewer than 10"
    assert enough_items([np.random.default_rng(0).normal(size=(2, 60))]) is None
