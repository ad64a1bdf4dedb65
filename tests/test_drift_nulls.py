"""Every distance with a null against slow references: sides traded and prompts resampled by hand, and other libraries."""

import math
from dataclasses import replace

import numpy as np
import ot
import pytest
from benchmarks import reference_distances as d
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist
from scipy.stats import energy_distance, kstest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_info, threadpool_limits

from stateshape.drift import all_distances as comparison
from stateshape.drift import classifier, projection
from stateshape.drift.all_distances import Trials, geometric_distances, word_overlaps
from stateshape.drift.classifier import classifier_auc
from stateshape.drift.fourier import fourier_mmd2
from stateshape.drift.nulls import Draws, Statistic, judged
from stateshape.drift.overlap import Tokens, overlaps, thinned_counts
from stateshape.drift.paired import Paired
from stateshape.drift.pairwise import BANDWIDTHS, biased, centroid, contrasts, unbiased
from stateshape.drift.rulers import Ruler
from stateshape.drift.sliced import random_directions, sliced_wassersteins

GAMMA = 0.3
COUNTS = [2, 1, 3, 1, 2, 2, 1, 3, 2, 1, 1, 2]  # states of each prompt


def rng(seed=0):
    return np.random.default_rng(seed)


def pair_of(seed=1, *, counts=COUNTS, shift=0.0, prompts=0.0, dim=4):
    """Rows around a place of their prompt's; `shift` moves y."""
    prompt_M = np.repeat(np.arange(len(counts)), counts)
    places = prompts * rng(seed).normal(size=(len(counts), dim))[prompt_M]
    x, y = (rng([*np.atleast_1d(seed).tolist(), side]).normal(size=places.shape) for side in (1, 2))
    return Paired(x_MD=places + x, y_MD=places + y + shift, prompt_M=prompt_M)


def some_draws(num_prompts=12, *, num=7, seed=3):
    return Draws.make(num_prompts, seed=seed, num_permutations=num, num_resamples=num)


def swapped(pair, is_swapped_P):
    traded = is_swapped_P[pair.prompt_M][:, None]
    return replace(pair, x_MD=np.where(traded, pair.y_MD, pair.x_MD), y_MD=np.where(traded, pair.x_MD, pair.y_MD))


def resampled(pair, weights_P):
    """Copies of prompts, numbered as the prompt they are copies of."""
    rows = np.concatenate([np.flatnonzero(pair.prompt_M == p) for p, w in enumerate(weights_P) for _ in range(w)])
    return pair.x_MD[rows], pair.y_MD[rows], pair.prompt_M[rows]


def labels(prompts):
    return [str(p) for p in prompts]


def plain_unbiased(x, y, prompts):
    ids = labels(prompts)
    values = [d.mmd2_unbiased(x, y, GAMMA / w**2, groups_x=ids, groups_y=ids) for w in BANDWIDTHS]
    return np.mean(values)


def plain_energy(x, y, prompts):
    apart = prompts[:, None] != prompts
    gap = lambda a, b: np.linalg.norm(a[:, None] - b, axis=2)[apart].mean()  # noqa: E731
    return 2 * gap(x, y) - gap(x, x) - gap(y, y)


def statistics_of(pair, draws):
    sums = contrasts(pair, GAMMA)
    directions = sliced_wassersteins(pair, draws, seed=5, num_projections=20)
    return {
        "mmd2_unbiased": unbiased(sums.family_PP, pair.counts_P, draws),
        "mmd2_biased": biased(sums.median_PP, pair.counts_P, draws, floor=0.0),
        "energy": unbiased(sums.energy_PP, pair.counts_P, draws),
        "centroid": centroid([pair.differences()], pair.counts_P, draws),
        "sliced_wasserstein_1": directions.first,
        "sliced_wasserstein_2": directions.second,
    }


def plain_squared_centroid(x, y, prompts):
    """Less the part of pairs of one prompt: rows of x and y of as many copies as they have."""
    by_prompt = [y[prompts == p].sum(axis=0) - x[prompts == p].sum(axis=0) for p in np.unique(prompts)]
    return d.centroid(x, y) ** 2 - sum((one**2).sum() for one in by_prompt) / len(x) ** 2


def plain_of(x, y, prompts):
    return {
        "mmd2_unbiased": plain_unbiased(x, y, prompts),
        "mmd2_biased": d.mmd2_biased(x, y, GAMMA),
        "energy": plain_energy(x, y, prompts),
        "centroid": plain_squared_centroid(x, y, prompts),
        "sliced_wasserstein_1": d.sliced_wasserstein(x, y, seed=5, num_projections=20, p=1),
        "sliced_wasserstein_2": d.sliced_wasserstein(x, y, seed=5, num_projections=20, p=2),
    }


# Permutations and resamples


@pytest.mark.parametrize("name", plain_of(*resampled(pair_of(), [1] * 12)))
@pytest.mark.parametrize("as_rows", [np.asarray, csr_array])
def test_values_permutations_and_resamples_are_those_of_samples_traded_and_copied_by_hand(name, as_rows):
    pair, draws = pair_of(shift=0.4), some_draws()
    found = statistics_of(replace(pair, x_MD=as_rows(pair.x_MD), y_MD=as_rows(pair.y_MD)), draws)[name]
    assert found.value == pytest.approx(plain_of(pair.x_MD, pair.y_MD, pair.prompt_M)[name], rel=2e-6)
    for null, is_swapped_P in zip(found.null_B, draws.is_swapped_BP, strict=True):
        traded = swapped(pair, is_swapped_P)
        assert null == pytest.approx(plain_of(traded.x_MD, traded.y_MD, pair.prompt_M)[name], rel=2e-5, abs=1e-7)
    for value, weights_P in zip(found.resampled_B, draws.weights_BP, strict=True):
        assert value == pytest.approx(plain_of(*resampled(pair, weights_P))[name], rel=2e-5, abs=1e-7)


def test_small_tiles_and_blocks_change_nothing(monkeypatch):
    pair, draws = pair_of(shift=0.4), some_draws()
    whole = contrasts(pair, GAMMA)
    monkeypatch.setattr("stateshape.drift.pairwise.TABLE_COLUMNS", 5)
    monkeypatch.setattr("stateshape.drift.pairwise.TILE_ROWS", 3)
    for sums, expected in zip(contrasts(pair, GAMMA), whole):
        assert sums == pytest.approx(expected, abs=1e-6)  # a row's distance to itself is 1e-8
        assert sums == pytest.approx(sums.T)
    blocks = pair.blocks(4)
    assert [(r.stop - r.start, p.stop - p.start) for r, p in blocks] == [(3, 2), (4, 2), (4, 2), (4, 2), (4, 3), (2, 1)]
    parts = [pair.differences()[prompts] for _, prompts in blocks]
    some, one = centroid(parts, pair.counts_P, draws), centroid([pair.differences()], pair.counts_P, draws)
    assert some.null_B == pytest.approx(one.null_B, abs=1e-6)


def test_the_centroids_floor_is_its_root_mean_square_over_all_swaps():
    pair = pair_of(counts=[1, 2, 1, 1])
    swaps = np.array([[(n >> p) & 1 for p in range(4)] for n in range(16)], bool)
    draws = replace(some_draws(4), is_swapped_BP=swaps)
    found = centroid([pair.differences()], pair.counts_P, draws)
    assert found.null_B.mean() == pytest.approx(0.0, abs=1e-6 * found.floor**2)


def test_the_centroid_is_the_distance_of_the_true_means():
    """True distance .2 and floor about .2: the norm less the floor would say .08."""
    values = []
    for seed in range(60):
        pair = pair_of(seed, counts=[1] * 200, shift=0.1, prompts=1.0)
        found = centroid([pair.differences()], pair.counts_P, some_draws(200, num=2))
        assert 0.15 < found.floor < 0.25
        values.append(found.value)
    assert math.sqrt(np.mean(values)) == pytest.approx(0.2, abs=0.03)
    record = judged(replace(found, value=0.2**2), replace(found, value=-(0.1**2)), num_states=200)
    assert (record.value, record.base_vs_base) == (pytest.approx(0.2), pytest.approx(-0.1))
    assert record.lo < record.value < record.hi


@pytest.mark.parametrize(("shift", "lowest", "most"), [(0.0, 0.97, 1.0), (0.25, 0.91, 0.995), (0.6, 0.89, 0.99)])
def test_pairwise_intervals_hold_the_truth_with_and_without_drift(shift, lowest, most):
    """Without drift resamples alone are 1.6 times too wide."""
    found = []
    for seed in range(200):
        pair = pair_of(seed, counts=[2] * 48, shift=shift, prompts=1.0)
        draws = Draws.make(48, seed=seed, num_permutations=200, num_resamples=200)
        made = unbiased(contrasts(pair, GAMMA).family_PP, pair.counts_P, draws)
        record = judged(made, None, num_states=96)
        found.append((record.value, record.lo, record.hi, made.width))
    values, lows, highs, widths = np.array(found).T
    truth = values.mean() if shift else 0.0
    assert lowest <= np.mean((lows <= truth) & (truth <= highs)) <= most
    assert np.mean(highs - lows) / (2 * 1.96 * values.std()) < (1.5 if shift == 0 else 1.25)
    assert np.mean((highs - lows) / widths) / (2 * 1.96 * values.std()) > (1.5 if shift == 0 else 0.8)


def test_draws_are_fair_seeded_and_those_of_so_many_prompts():
    draws = Draws.make(50, seed=1, num_permutations=2000, num_resamples=300)
    assert draws.is_swapped_BP.mean(axis=0) == pytest.approx([0.5] * 50, abs=0.06)
    assert (draws.weights_BP.sum(axis=1) == 50).all()
    assert draws.weights_BP.mean(axis=0) == pytest.approx([1] * 50, abs=0.3)
    again = Draws.make(50, seed=1, num_permutations=2000, num_resamples=300)
    other = Draws.make(50, seed=2, num_permutations=2000, num_resamples=300)
    assert (again.is_swapped_BP == draws.is_swapped_BP).all()
    assert (other.is_swapped_BP != draws.is_swapped_BP).any()
    assert (other.weights_BP != draws.weights_BP).any()


def test_p_z_and_interval_by_hand():
    null, resamples = np.array([1.0, 2.0, 3.0, 4.0]), np.array([5.0, 7.0])
    found = judged(Statistic(value=3.0, null_B=null, resampled_B=resamples), None, num_states=9)
    assert found.p == (1 + 2) / 5
    assert (found.null_mean, found.null_sd) == (2.5, pytest.approx(math.sqrt(5 / 3)))
    assert found.z == pytest.approx(0.5 / math.sqrt(5 / 3))
    # the resamples' 2.5% and 97.5% points are 5.05 and 6.95, and their mean 6 is moved to 3
    assert (found.lo, found.hi) == (pytest.approx(2.05), pytest.approx(3.95))
    half = judged(Statistic(value=3.0, null_B=null, resampled_B=resamples, width=0.5), None, num_states=9)
    assert (half.lo, half.hi) == (pytest.approx(2.525), pytest.approx(3.475))
    square = judged(Statistic(value=4.0, null_B=null - 2, resampled_B=null, is_square=True), None, num_states=9)
    assert (square.value, square.p) == (2.0, 1 / 5)
    assert square.null_mean == pytest.approx((-1 + 0 + 1 + math.sqrt(2)) / 4)
    bounded = judged(Statistic(value=3.0, null_B=null, resampled_B=resamples, bounds=(2.5, 3.5)), None, num_states=9)
    assert (bounded.lo, bounded.hi) == (2.5, 3.5)
    flat = judged(Statistic(value=0.0, null_B=np.zeros(9), resampled_B=np.zeros(3)), None, num_states=9)
    assert (flat.z, flat.p) == (None, 1.0)
    none = judged(None, Statistic(value=2.0, null_B=null, resampled_B=null), num_states=9, reason="why")
    assert (none.value, none.base_vs_base, none.p, none.note) == (None, 2.0, None, "why")


# Other libraries


def test_distances_equal_scikit_learns_pots_and_scipys():
    pair = pair_of(counts=[1] * 20, shift=0.5)
    x, y, none = pair.x_MD, pair.y_MD, some_draws(20, num=0)
    sums = contrasts(pair, GAMMA)
    kernel = lambda a, b: np.mean([rbf_kernel(a, b, GAMMA / w**2) for w in BANDWIDTHS], axis=0)  # noqa: E731
    apart = ~np.eye(20, dtype=bool)
    expected = kernel(x, x)[apart].mean() + kernel(y, y)[apart].mean() - 2 * kernel(x, y)[apart].mean()
    assert unbiased(sums.family_PP, pair.counts_P, none).value == pytest.approx(expected, abs=1e-12)
    one = rbf_kernel(x, x, GAMMA).mean() + rbf_kernel(y, y, GAMMA).mean() - 2 * rbf_kernel(x, y, GAMMA).mean()
    assert biased(sums.median_PP, pair.counts_P, none, floor=0.0).value == pytest.approx(one, abs=1e-12)
    energy = 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()
    # a row's distance to itself is the root of a rounding error, 1e-8
    assert sums.energy_PP.sum() / 20**2 == pytest.approx(energy, abs=1e-6)
    directions = random_directions(4, seed=5, num_projections=64)
    for p, found in zip((1, 2), sliced_wassersteins(pair, none, seed=5, num_projections=64)):
        assert found.value == pytest.approx(ot.sliced_wasserstein_distance(x, y, projections=directions, p=p), rel=1e-6)


def test_the_energy_distance_on_a_line_is_scipys():
    """scipy has it in one dimension, from the two cumulative distributions and not from pairs; it gives the root."""
    pair = pair_of(counts=[1] * 40, shift=0.5, dim=1)
    x, y = pair.x_MD[:, 0], pair.y_MD[:, 0]
    found = contrasts(pair, GAMMA).energy_PP.sum() / 40**2
    assert found == pytest.approx(energy_distance(x, y) ** 2, abs=1e-6)
    assert found > 0.05


def by_scikit_learn(pair):
    """Mean over folds of the AUC of a ridge regression on -1 and +1."""
    rows, groups = np.concatenate([pair.x_MD, pair.y_MD]), np.tile(pair.prompt_M, 2)
    side = np.repeat([-1, 1], pair.num_states)
    aucs = []
    for fitted, held in GroupKFold(5).split(rows, groups=groups):
        model = Ridge(alpha=1.0, fit_intercept=False).fit(rows[fitted], side[fitted])
        aucs.append(roc_auc_score(side[held], model.predict(rows[held])))
    return np.mean(aucs)


def test_the_classifier_is_scikit_learns_fitted_anew_for_every_permutation():
    pair, draws = pair_of(shift=0.4), some_draws()
    found = classifier_auc(pair, draws)
    assert found.value == pytest.approx(by_scikit_learn(pair), abs=1e-9)
    for null, is_swapped_P in zip(found.null_B, draws.is_swapped_BP, strict=True):
        assert null == pytest.approx(by_scikit_learn(swapped(pair, is_swapped_P)), abs=1e-9)
    sparse = replace(pair, x_MD=csr_array(pair.x_MD), y_MD=csr_array(pair.y_MD))
    assert classifier_auc(sparse, draws).null_B == pytest.approx(found.null_B, abs=1e-9)
    as_it_is = replace(draws, weights_BP=np.ones((1, len(COUNTS)), np.uint8))
    assert classifier_auc(pair, as_it_is).resampled_B == pytest.approx([found.value])


def test_an_auc_and_overlaps_know_where_they_end():
    pair, draws = pair_of(), some_draws()
    assert classifier_auc(pair, draws).bounds == (0, 1)
    sides = [Tokens(np.arange(24) % 5, np.arange(24) // 2) for _ in range(2)]
    counts = [thinned_counts(side, np.full(12, 2), num_words=5, seed=seed) for seed, side in enumerate(sides)]
    assert {one.bounds for one in overlaps(*counts, draws)} == {(0, 1)}


def test_equal_rows_are_a_tie_for_the_classifier():
    pair = pair_of(counts=[2] * 10)
    same = replace(pair, y_MD=pair.x_MD)
    found = classifier_auc(same, some_draws(10))
    assert found.value == 0.5
    assert found.null_B == pytest.approx([0.5] * 7)


def test_solving_keeps_to_one_thread_of_linear_algebra(monkeypatch):
    """The libraries' threads spin while they wait for a core that others use: ten times the work was measured."""
    seen = []
    monkeypatch.setattr(classifier, "cho_factor", noting_threads(seen, classifier.cho_factor))
    monkeypatch.setattr(projection.np.linalg, "eigh", noting_threads(seen, np.linalg.eigh))
    with threadpool_limits(2, user_api="blas"):
        classifier_auc(pair_of(), some_draws())
        projection.project({"base": ["a b", "b c"], "run": ["c d"]}, base="base")
    assert len(seen) == 6 and all(
        each <= {1} for each in seen
    )  # five folds and the map; no number where it can't be set


def noting_threads(seen, function):
    def noting(*args, **kwargs):
        seen.append({each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"})
        return function(*args, **kwargs)

    return noting


# Word overlap


def tokens_of(*texts):
    """A text is a prompt's words, letters here."""
    words = np.array([ord(letter) - ord("a") for text in texts for letter in text])
    return Tokens(words, np.repeat(np.arange(len(texts)), [len(text) for text in texts]))


def counts_of(*texts):
    side = tokens_of(*texts)
    return thinned_counts(side, np.bincount(side.prompt_T), num_words=6, seed=0)


def test_overlap_by_hand_with_its_swaps_and_resamples():
    x, y = counts_of("aab", "c"), counts_of("abd", "d")
    draws = Draws(is_swapped_BP=np.array([[False, True], [True, True]]), weights_BP=np.array([[2, 0]], np.uint8))
    found = overlaps(x, y, draws)
    # a:2 b:1 c:1 against a:1 b:1 d:2: types 2 of 4, min 2, max 6
    assert (found.jaccard.value, found.ruzicka.value) == (1 - 2 / 4, 1 - 2 / 6)
    # the second prompt traded: a:2 b:1 d:1 against a:1 b:1 c:1 d:1: types 3 of 4, min 3, max 5; both traded: as it is
    assert found.jaccard.null_B == pytest.approx([1 - 3 / 4, 1 - 2 / 4])
    assert found.ruzicka.null_B == pytest.approx([1 - 3 / 5, 1 - 2 / 6])
    # the first prompt twice: a:4 b:2 against a:2 b:2 d:2
    assert (found.jaccard.resampled_B, found.ruzicka.resampled_B) == (pytest.approx([1 / 3]), pytest.approx([1 / 2]))


def test_overlap_takes_as_many_tokens_of_each_prompt_from_all_sides():
    base_a, base_b, run = tokens_of("aaaa", "bb", "c"), tokens_of("aaaaaa", "b", "cc"), tokens_of("aa", "bbb", "")
    moved, still = word_overlaps(
        [base_a, base_b, run], np.array([1, 1, 1]), Trials(seed=0, num_permutations=9, num_resamples=9)
    )
    assert (moved["ruzicka"].statistic.value, still["jaccard"].statistic.value) == (0.0, 0.0)
    assert moved["ruzicka"].statistic.null_B == pytest.approx([0.0] * 9)
    nothing = [tokens_of("ab", ""), tokens_of("", "ab"), tokens_of("a", "b")]
    moved, _ = word_overlaps(nothing, np.array([1, 1]), Trials(seed=0, num_permutations=9, num_resamples=9))
    assert moved["jaccard"].statistic is None
    assert "no prompt has words" in moved["jaccard"].reason
    drawn = thinned_counts(tokens_of("abcdef"), np.array([3]), num_words=6, seed=1)
    assert (drawn.sum(), drawn.max()) == (3, 1)


# Large samples


def test_random_features_come_near_the_exact_kernel_and_say_how_near():
    pair, draws = pair_of(counts=[2] * 100, shift=0.3), some_draws(100, num=200)
    sums = contrasts(pair, GAMMA)
    exact = unbiased(sums.family_PP, pair.counts_P, draws), biased(sums.median_PP, pair.counts_P, draws, floor=0.5)
    near = fourier_mmd2(pair, GAMMA, draws, seed=1, floor=0.5, num_frequencies=2000)
    error = float(near[0].note.split()[-1])
    assert abs(near[0].value - exact[0].value) < 3 * error < 0.1 * exact[0].value
    assert near[1].value == pytest.approx(exact[1].value, rel=0.1)
    for approximate, true in zip(near, exact):
        assert np.corrcoef(approximate.null_B, true.null_B)[0, 1] > 0.99
        assert np.corrcoef(approximate.resampled_B, true.resampled_B)[0, 1] > 0.98
        assert approximate.null_B.mean() == pytest.approx(true.null_B.mean(), abs=0.1 * true.null_B.std())
        assert approximate.floor == true.floor


def test_the_stated_error_of_random_features_is_theirs():
    pair, none = pair_of(counts=[2] * 40, shift=0.5), some_draws(40, num=0)
    exact = unbiased(contrasts(pair, GAMMA).family_PP, pair.counts_P, none).value
    found = [fourier_mmd2(pair, GAMMA, none, seed=s, floor=0.0, num_frequencies=100)[0] for s in range(60)]
    stated = np.mean([float(each.note.split()[-1]) for each in found])
    assert np.std([each.value - exact for each in found]) == pytest.approx(stated, rel=0.3)
    assert np.mean([each.value for each in found]) == pytest.approx(exact, abs=3.5 * stated / math.sqrt(60))


def test_large_samples_say_what_they_rest_on(monkeypatch):
    pair, trials = pair_of(counts=[2] * 60, shift=0.5), Trials(seed=0, num_permutations=99, num_resamples=20)
    ruler = Ruler(gamma=GAMMA, mean_kernel=0.4)
    small = geometric_distances(pair, ruler, trials)
    assert {found.num_states for found in small.values()} == {120}
    assert {found.statistic.note for found in small.values()} == {None}
    monkeypatch.setattr(comparison, "MAX_EXACT", 50)
    monkeypatch.setattr(comparison, "MAX_SLICED", 20)
    large = geometric_distances(pair, ruler, trials)
    assert {name: found.num_states for name, found in large.items()} == {
        "mmd2_unbiased": 120, "mmd2_biased": 120, "centroid": 120, "energy": 50, "c2st_auc": 50,
        "sliced_wasserstein_1": 20, "sliced_wasserstein_2": 20,
    }  # fmt: skip
    assert "Fourier" in large["mmd2_unbiased"].statistic.note
    assert large["energy"].statistic.note == "value and null on 25 of 60 prompts, drawn at random"
    assert large["mmd2_unbiased"].statistic.value == pytest.approx(small["mmd2_unbiased"].statistic.value, rel=0.3)
    assert large["mmd2_biased"].statistic.floor == pytest.approx(2 / 120 * 0.6)
    assert large["centroid"].statistic.value == pytest.approx(small["centroid"].statistic.value, rel=1e-12)


# Is the null a null


@pytest.mark.slow
def test_p_is_uniform_without_drift_even_where_prompts_dominate():
    found = {}
    for i in range(200):
        pair = pair_of([7, i], prompts=3.0)
        draws = Draws.make(pair.num_prompts, seed=i, num_permutations=99, num_resamples=0)
        values = {**statistics_of(pair, draws), "c2st_auc": classifier_auc(pair, draws)}
        for name, statistic in values.items():
            found.setdefault(name, []).append(judged(statistic, None, num_states=21).p)
    for name, p in found.items():
        assert kstest(np.array(p) - rng(1).random(200) / 100, "uniform").pvalue > 0.005, name


def test_rows_of_one_prompt_are_not_independent_and_the_null_knows():
    """Four copies of each row: a null that traded rows one by one would find drift in most samples without any."""

    def copies(i):
        pair = pair_of([8, i], counts=[1] * 30)
        rows = np.repeat(np.arange(30), 4)
        return Paired(x_MD=pair.x_MD[rows], y_MD=pair.y_MD[rows], prompt_M=rows)

    def p_of(pair, seed):
        draws = Draws.make(pair.num_prompts, seed=seed, num_permutations=99, num_resamples=0)
        found = unbiased(contrasts(pair, GAMMA).family_PP, pair.counts_P, draws)
        return judged(found, None, num_states=120).p

    clustered = [p_of(copies(i), i) for i in range(120)]
    alone = [p_of(replace(copies(i), prompt_M=np.arange(120)), i) for i in range(120)]
    assert np.mean(np.array(clustered) < 0.05) < 0.12
    assert np.mean(np.array(alone) < 0.05) > 0.3


def test_trap_paired_prompts_hide_drift():
    """Same prompts on both sides, features that prompts dominate, no drift: the textbook estimators fall far below what
    they are without drift, and a real drift hides; leaving out pairs of one prompt gives 0, and the null finds the drift."""
    textbook, ours, biased_values = [], [], []
    for i in range(40):
        pair = pair_of([9, i], counts=[1] * 40, prompts=3.0)
        textbook.append(d.mmd2_unbiased(pair.x_MD, pair.y_MD, 0.05))
        ids = labels(pair.prompt_M)
        ours.append(d.mmd2_unbiased(pair.x_MD, pair.y_MD, 0.05, groups_x=ids, groups_y=ids))
        biased_values.append(d.mmd2_biased(pair.x_MD, pair.y_MD, 0.05))
    floor = d.biased_mmd2_floor(pair.x_MD, 0.05, m=40, n=40)
    assert np.mean(textbook) < -0.4 * floor
    assert np.mean(biased_values) < 0.6 * floor
    assert abs(np.mean(ours)) < 4 * np.std(ours) / math.sqrt(40)
    moved = pair_of([9, 0], counts=[1] * 40, prompts=3.0, shift=0.8)
    assert d.mmd2_biased(moved.x_MD, moved.y_MD, 0.05) < 1.3 * floor
    trials = Trials(seed=0, num_permutations=999, num_resamples=0)
    found = geometric_distances(moved, Ruler(gamma=0.05, mean_kernel=0.4), trials)
    for name in ("mmd2_unbiased", "energy", "centroid", "c2st_auc"):
        assert judged(found[name].statistic, None, num_states=40).p <= 0.005, name


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    draws = Draws.make(40, seed=0, num_permutations=0, num_resamples=300)
    # for N(0, 1) against N(shift, 1) in 4 dimensions, k = exp(-g r^2): E k is known in closed form
    g = GAMMA
    expected = 2 * (1 + 4 * g) ** -2 * (1 - math.exp(-g * 4 * 0.5**2 / (1 + 4 * g)))
    covered = 0
    for i in range(150):
        pair = pair_of([12, i], counts=[1] * 40, shift=0.5)
        found = judged(unbiased(contrasts(pair, GAMMA).median_PP, pair.counts_P, draws), None, num_states=40)
        covered += found.lo <= expected <= found.hi
    assert 0.85 <= covered / 150 <= 0.99
