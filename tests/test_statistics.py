"""Hand-worked and textbook values for intervals, tests and power; calibration of the bootstrap by simulation."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binom

from stateshape.evals.statistics import (
    centred_p,
    exact_mcnemar,
    hierarchical_bootstrap,
    holm,
    mean_estimate,
    minimal_difference,
    minimal_n,
    paired_bootstrap,
    pass_at_k,
    power_paired,
    power_unpaired,
    resampled_item_means,
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


def test_hierarchical_bootstrap_sees_the_seeds():
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


@pytest.mark.parametrize(("n", "mde"), [(200, 0.098), (500, 0.062), (817, 0.049), (1319, 0.038), (14_042, 0.012)])
def test_minimal_difference_at_a_base_rate_of_45_percent(n, mde):
    assert minimal_difference(0.45, n, 0.5) == pytest.approx(mde, abs=6e-4)


def test_power_agrees_with_itself_and_with_known_numbers():
    assert power_paired(0.45, 0.548, 200, 0.5) == pytest.approx(0.80, abs=0.01)
    assert power_unpaired(0.448, 0.466, 1319) == pytest.approx(0.15, abs=0.005)
    assert power_paired(0.448, 0.466, 1319, 0.5) == pytest.approx(0.26, abs=0.005)
    n = minimal_n(0.45, 0.50, 0.5)
    assert power_paired(0.45, 0.50, n, 0.5) >= 0.8 > power_paired(0.45, 0.50, n - 1, 0.5)
    with pytest.raises(ValueError, match="impossible"):
        power_paired(0.1, 0.9, 100, 0.9)
    with pytest.raises(ValueError, match="different rates"):
        minimal_n(0.4, 0.4, 0.5)


def test_power_by_simulation():
    rng = np.random.default_rng(4)
    n, rho, p0, p1, hits = 300, 0.5, 0.45, 0.55, 0
    shared = p0 * p1 + rho * math.sqrt(p0 * (1 - p0) * p1 * (1 - p1))  # P(both right)
    for _ in range(400):
        kind = rng.choice(4, size=n, p=[shared, p0 - shared, p1 - shared, 1 - p0 - p1 + shared])
        hits += exact_mcnemar((kind == 0) | (kind == 1), (kind == 0) | (kind == 2)) < 0.05
    assert hits / 400 == pytest.approx(power_paired(p0, p1, n, rho), abs=0.06)
