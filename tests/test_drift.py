"""Distances against hand-worked values, other libraries and invariances; the whole measurement on made-up text."""

import json
import math

import numpy as np
import ot
import pytest
from benchmarks import reference_distances as d
from scipy.stats import kstest
from sklearn.metrics.pairwise import rbf_kernel

from stateshape.core.files import BadInput, read_json, write_json
from stateshape.core.records import DriftRecord
from stateshape.drift import kernels
from stateshape.drift.features import LexicalFeatures, Vocabulary, gram_counts, words
from stateshape.drift.measure import measure
from stateshape.drift.names import DISTANCES
from stateshape.drift.nulls import Draws, judged
from stateshape.drift.paired import Paired
from stateshape.drift.pairwise import contrasts, unbiased
from stateshape.drift.rulers import lexical, median_gamma
from stateshape.drift.sliced import random_directions
from stateshape.drift.states import Rollouts, matched, prefix_states


def rng(seed=0):
    return np.random.default_rng(seed)


# Kernel MMD


def test_mmd_by_hand():
    x, y = np.array([[0.0], [1.0]]), np.array([[2.0]])
    e = math.exp
    gamma = 0.5
    within_x = (2 + 2 * e(-0.5)) / 4
    across = (e(-2.0) + e(-0.5)) / 2
    assert d.mmd2_biased(x, y, gamma) == pytest.approx(within_x + 1 - 2 * across)
    y2 = np.array([[2.0], [4.0]])
    across2 = (e(-2.0) + e(-8.0) + e(-0.5) + e(-4.5)) / 4
    assert d.mmd2_unbiased(x, y2, gamma) == pytest.approx(e(-0.5) + e(-2.0) - 2 * across2)


def test_mmd_equals_scikit_learns_kernel_means_in_any_blocks(monkeypatch):
    x, y = rng(1).normal(size=(37, 5)), rng(2).normal(0.3, 1, size=(23, 5))
    gamma = 0.2
    kxx, kyy, kxy = rbf_kernel(x, x, gamma), rbf_kernel(y, y, gamma), rbf_kernel(x, y, gamma)
    biased = kxx.mean() + kyy.mean() - 2 * kxy.mean()
    m, n = 37, 23
    unbiased = (kxx.sum() - m) / (m * (m - 1)) + (kyy.sum() - n) / (n * (n - 1)) - 2 * kxy.mean()
    for rows, columns in ((4, 16), (16, 3), (5, 5), (2048, 2048)):
        monkeypatch.setattr(kernels, "TILE_ROWS", rows)
        monkeypatch.setattr(kernels, "TABLE_COLUMNS", columns)
        assert d.mmd2_biased(x, y, gamma) == pytest.approx(biased, abs=1e-12)
        assert d.mmd2_unbiased(x, y, gamma) == pytest.approx(unbiased, abs=1e-12)


def test_unbiased_mmd_is_zero_on_average_and_biased_sits_on_its_floor():
    draws = [(rng(i).normal(size=(20, 4)), rng(1000 + i).normal(size=(30, 4))) for i in range(300)]
    unbiased = np.array([d.mmd2_unbiased(x, y, 0.2) for x, y in draws])
    assert abs(unbiased.mean()) < 3.5 * unbiased.std() / math.sqrt(len(draws))
    assert (unbiased < 0).any()
    biased = np.mean([d.mmd2_biased(x, y, 0.2) for x, y in draws])
    floor = d.biased_mmd2_floor(rng(5).normal(size=(1500, 4)), 0.2, m=20, n=30)
    assert biased == pytest.approx(floor, rel=0.03)


def test_groups_take_the_shared_prompts_out():
    # rows are dominated by the prompt they belong to; both sides have the same prompts and no difference
    values, plain = [], []
    for i in range(200):
        prompts = rng(i).normal(size=(12, 3))
        labels = [str(k) for k in range(12) for _ in range(2)]
        x = np.repeat(prompts, 2, axis=0) + rng(500 + i).normal(0, 0.3, size=(24, 3))
        y = np.repeat(prompts, 2, axis=0) + rng(900 + i).normal(0, 0.3, size=(24, 3))
        values.append(d.mmd2_unbiased(x, y, 0.2, groups_x=labels, groups_y=labels))
        plain.append(d.mmd2_unbiased(x[::2], y[::2], 0.2))
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(200)
    assert np.mean(plain) < -5 * np.std(plain) / math.sqrt(200)


def test_groups_by_hand():
    x, y = np.array([[0.0], [1.0], [5.0]]), np.array([[0.5], [2.0]])
    k = lambda a, b: math.exp(-0.5 * (a - b) ** 2)  # noqa: E731
    expected = (k(0, 5) + k(1, 5)) / 2 + k(0.5, 2) - 2 * (k(0, 2) + k(1, 2) + k(5, 0.5)) / 3
    got = d.mmd2_unbiased(x, y, 0.5, groups_x=["p", "p", "q"], groups_y=["p", "q"])
    assert got == pytest.approx(expected)


def test_median_gamma_by_hand():
    # distances 1, 2, 3 between 0, 1, 3: the median is 2 and gamma = 1 / (2 * 4)
    assert median_gamma(np.array([[0.0], [1.0], [3.0]])) == pytest.approx(1 / 8)
    with pytest.raises(ValueError, match="coincide"):
        median_gamma(np.zeros((5, 2)))
    with pytest.raises(ValueError, match="at least 2"):
        median_gamma(np.zeros((1, 2)))


# Centroid, sliced Wasserstein


def test_centroid_by_hand():
    assert d.centroid(np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[1.0, 3.0]])) == pytest.approx(3.0)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(("m", "n"), [(30, 30), (30, 17), (5, 64), (12, 18)])
def test_sliced_wasserstein_equals_pot(m, n, p):
    x, y = rng(3).normal(size=(m, 6)), rng(4).normal(0.5, 2, size=(n, 6))
    directions = random_directions(6, seed=9, num_projections=40)
    expected = ot.sliced_wasserstein_distance(x, y, projections=directions, p=p)
    assert d.sliced_wasserstein(x, y, seed=9, num_projections=40, p=p) == pytest.approx(expected, rel=1e-9)


def test_sliced_wasserstein_by_hand_and_invariances():
    one = np.array([[1.0]])
    x, y = np.array([[0.0], [1.0]]), np.array([[0.0], [3.0], [6.0]])
    # quantile pieces: [0,1/3] 0-0, [1/3,1/2] 0-3, [1/2,2/3] 1-3, [2/3,1] 1-6
    assert d.sliced_wasserstein(x, y, seed=0, p=1, directions_DL=one) == pytest.approx(0.5 + 2 / 6 + 5 / 3)
    assert d.sliced_wasserstein(x, y, seed=0, directions_DL=one) == pytest.approx(math.sqrt(9 / 6 + 4 / 6 + 25 / 3))
    a, b = rng(5).normal(size=(20, 4)), rng(6).normal(size=(15, 4))
    base = d.sliced_wasserstein(a, b, seed=1)
    assert d.sliced_wasserstein(b, a, seed=1) == pytest.approx(base)
    assert d.sliced_wasserstein(a[::-1], b + 0, seed=1) == pytest.approx(base)
    assert d.sliced_wasserstein(a + 7, b + 7, seed=1) == pytest.approx(base)
    assert d.sliced_wasserstein(3 * a, 3 * b, seed=1) == pytest.approx(3 * base)
    assert d.sliced_wasserstein(a, np.repeat(a, 3, axis=0), seed=1) == pytest.approx(0, abs=1e-9)


# Words and features


def test_words_keep_digits_and_signs():
    assert words("Ann has 7 + 8 = 15.") == ["ann", "has", "7", "+", "8", "=", "15", "."]


def test_jaccard_and_ruzicka_by_hand():
    assert d.lexical_jaccard(list("aabc"), list("abdd"), seed=0) == pytest.approx(1 - 2 / 4)
    # counts 2,1,1,0 against 1,1,0,2: min 2, max 6
    assert d.ruzicka(list("aabc"), list("abdd"), seed=0) == pytest.approx(1 - 2 / 6)
    assert d.lexical_jaccard(["a"], ["a"], seed=0) == 0.0
    with pytest.raises(ValueError, match="tokens"):
        d.lexical_jaccard([], ["a"], seed=0)


def test_a_longer_text_is_not_farther():
    vocabulary = [f"w{i}" for i in range(300)]
    draw = lambda seed, n: rng(seed).choice(vocabulary, n).tolist()  # noqa: E731
    same = [d.lexical_jaccard(draw(i, 200), draw(50 + i, 200), seed=0) for i in range(40)]
    longer = [d.lexical_jaccard(draw(i, 200), draw(50 + i, 2000), seed=0) for i in range(40)]
    assert np.mean(longer) == pytest.approx(np.mean(same), abs=0.02)
    assert d.ruzicka(draw(1, 50), draw(2, 80), seed=4) == pytest.approx(d.ruzicka(draw(2, 80), draw(1, 50), seed=4))


def test_features_are_unit_rows_weighted_by_the_base():
    base = ["the cat sat", "the dog sat", "the end"]
    features = LexicalFeatures.fit(base)
    rows = features.transform(["the cat", "", "the the the the cat"])
    assert rows.shape == (3, 1024)
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 0, 1])
    the, cat = (features.transform([word])[0].argmax() for word in ("the", "cat"))
    idf = features.idf_D
    assert idf[the] == pytest.approx(math.log(4 / 4) + 1)
    assert idf[cat] == pytest.approx(math.log(4 / 2) + 1)
    # "the" four times: 1 + log 4, not 4
    assert rows[2, the] / rows[2, cat] == pytest.approx((1 + math.log(4)) * idf[the] / idf[cat])
    with pytest.raises(ValueError, match="at least one text"):
        LexicalFeatures.fit([])


def test_no_drift_gives_the_papers_value():
    """64 states a side without any drift lie near .011, the value the paper prints for three different runs."""
    texts = [_sentence(i) for i in range(128)]
    rows = LexicalFeatures.fit(texts).transform(texts)
    gamma = median_gamma(rows)
    assert d.mmd2_biased(rows[:64], rows[64:], gamma) == pytest.approx(0.0115, abs=0.002)
    assert d.biased_mmd2_floor(rows, gamma, m=64, n=64) == pytest.approx(0.0115, abs=0.002)


# States and the measurement


def _sentence(seed: int, *, shift: int = 0) -> str:
    chosen = rng(seed).integers(0, 200, size=25) + shift
    return " ".join(f"w{i}" for i in chosen)


def _rollouts(first_seed: int, *, num: int = 30, shift: int = 0) -> Rollouts:
    return Rollouts(
        prompt_ids=[f"item-{i}" for i in range(num)],
        prompts=[f"Question {i}: {_sentence(10_000 + i)}\nAnswer:" for i in range(num)],
        pieces=[[" " + w for w in _sentence(first_seed + i, shift=shift).split()] for i in range(num)],
    )


def test_prefix_states_cut_inside_the_response():
    rollouts = Rollouts(prompt_ids=list("abc"), prompts=list("PQR"), pieces=[list("123"), [], list("45678")])
    states = prefix_states(rollouts, generator=rng(0), num_cuts=4)
    assert states.responses[:3] == ["1", "12", "123"]
    assert states.states[:3] == ["P1", "P12", "P123"]
    assert states.prompt_ids == ["a"] * 3 + ["c"] * 4
    assert all("45678".startswith(prefix) and prefix for prefix in states.responses[3:])
    assert len(set(states.responses)) == 7
    again = prefix_states(rollouts, generator=rng(0), num_cuts=4)
    assert again == states


def test_cut_points_are_uniform():
    rollouts = Rollouts(prompt_ids=["a"] * 4000, prompts=[""] * 4000, pieces=[list("12345")] * 4000)
    states = prefix_states(rollouts, generator=rng(1), num_cuts=1)
    counts = np.bincount([len(prefix) for prefix in states.responses], minlength=6)
    assert counts[0] == 0
    assert counts[1:] == pytest.approx([800] * 5, abs=100)


FEW = {"num_permutations": 99, "num_resamples": 50}


def test_measure_separates_drift_from_none(tmp_path):
    base_a, base_b = _rollouts(0), _rollouts(100)
    still = measure(base_a, base_b, _rollouts(200), task="t", seed=3, **FEW)
    moved = measure(base_a, base_b, _rollouts(300, shift=200), task="t", seed=3, **FEW)
    assert set(still.distances) == {*DISTANCES, *(f"state_{name}" for name in DISTANCES)}
    assert (still.num_prompts, still.num_states, still.num_prompts_left_out) == (30, 120, 0)
    assert still.median_distances == moved.median_distances  # the ruler is the base's
    for name, none in still.distances.items():
        drift = moved.distances[name]
        assert none.base_vs_base == drift.base_vs_base
        assert (drift.p, none.num_states) == (0.01, 120), name
        assert drift.z > 4
        assert none.p > 0.05, name
        assert none.lo <= none.value <= none.hi
        assert drift.lo > none.value
    assert abs(still.distances["mmd2_unbiased"].value) < 0.003
    assert still.distances["mmd2_biased"].floor == pytest.approx(2 / 120 * 0.4, rel=0.2)
    assert (
        abs(still.distances["centroid"].value) < 0.4 * still.distances["centroid"].floor
    )  # its square: .16 of the floor's
    write_json(tmp_path / "drift.json", moved)
    assert read_json(tmp_path / "drift.json", DriftRecord) == moved


def test_records_of_older_versions_are_read(tmp_path):
    old = {"task": "t", "features": "f", "num_prompts": 1, "num_states": 2}
    (tmp_path / "drift.json").write_text(json.dumps({**old, "distances": {"x": {"value": 1.0, "base_vs_base": None}}}))
    found = read_json(tmp_path / "drift.json", DriftRecord)
    assert (found.distances["x"].value, found.distances["x"].p, found.seed) == (1.0, None, None)


def test_a_measurement_is_the_same_again_and_changes_with_the_seed():
    base_a, base_b, run = _rollouts(0), _rollouts(100), _rollouts(200)
    record = measure(base_a, base_b, run, task="t", seed=3, **FEW)
    assert record == measure(base_a, base_b, run, task="t", seed=3, **FEW)
    assert record != measure(base_a, base_b, run, task="t", seed=4, **FEW)


def test_words_that_the_ruler_has_not_seen_do_not_look_like_drift():
    """Small samples of many rare words: with weights fitted on base_a itself p is far from uniform here (mean .39)."""
    p = []
    for i in range(150):
        draw = rng([5, i])
        frequencies = [each / each.sum() for each in draw.gamma(0.3, size=(24, 400)) / np.arange(1, 401) ** 1.1]
        sides = [
            Rollouts(
                prompt_ids=[str(k) for k in range(24)],
                prompts=["?"] * 24,
                pieces=[[f" w{word}" for word in draw.choice(400, 30, p=each)] for each in frequencies],
            )
            for _ in range(3)
        ]
        states = [prefix_states(side, generator=draw, num_cuts=2) for side in sides]
        vocabulary = Vocabulary()
        counts = [gram_counts(vocabulary.read(side.responses)) for side in states]
        rows = lexical(counts[1])
        pair = Paired(x_MD=rows(counts[0]), y_MD=rows(counts[2]), prompt_M=np.repeat(np.arange(24), 2))
        draws = Draws.make(24, seed=i, num_permutations=99, num_resamples=0)
        sums = contrasts(pair, median_gamma(rows(counts[1])))
        p.append(judged(unbiased(sums.family_PP, pair.counts_P, draws), None, num_states=48).p)
    assert np.mean(p) == pytest.approx(0.5, abs=0.08)
    assert kstest(np.array(p) - rng(1).random(150) / 100, "uniform").pvalue > 0.005


def test_the_set_is_that_of_its_parts():
    """One state a prompt: the values of `measure` from scikit-learn's kernel and POT on the package's features."""
    sides = [_rollouts(0), _rollouts(100), _rollouts(200, shift=20)]
    got = measure(*sides, task="t", seed=3, num_cuts=1, num_permutations=0, num_resamples=0).distances
    streams = [np.random.default_rng([3, stream]) for stream in (0, 1, 2)]
    texts = [prefix_states(s, generator=g, num_cuts=1).responses for s, g in zip(sides, streams)]
    features = LexicalFeatures.fit(texts[1])
    x, b, y = (features.transform(side) for side in texts)
    gamma = median_gamma(b)
    apart = ~np.eye(30, dtype=bool)
    mmd2 = lambda g, on: sum(s * rbf_kernel(u, v, g)[on].mean() for u, v, s in ((x, x, 1), (y, y, 1), (x, y, -2)))  # noqa: E731
    family = np.mean([mmd2(gamma / w**2, apart) for w in (0.25, 0.5, 1, 2, 4)])
    assert got["mmd2_unbiased"].value == pytest.approx(family, abs=1e-7)
    assert got["mmd2_biased"].value == pytest.approx(mmd2(gamma, apart | ~apart), abs=1e-7)
    centroid = got["centroid"]
    assert math.hypot(centroid.value, centroid.floor) == pytest.approx(d.centroid(x, y), rel=1e-6)
    directions = random_directions(1024, seed=3, num_projections=256)
    for p in (1, 2):
        expected = ot.sliced_wasserstein_distance(x, y, projections=directions, p=p)
        assert got[f"sliced_wasserstein_{p}"].value == pytest.approx(expected, rel=1e-5)
    assert got["energy"].p is None  # no permutations were asked for


def test_measure_leaves_out_what_it_cannot_say():
    base = _rollouts(0, num=10)
    silent = Rollouts(prompt_ids=base.prompt_ids, prompts=base.prompts, pieces=[[]] * 9 + [[" w1"]])
    record = measure(base, _rollouts(100, num=10), silent, task="t", seed=0, **FEW)
    assert (record.num_states, record.num_prompts_left_out) == (1, 9)
    for value in record.distances.values():
        assert (value.value, value.base_vs_base) == (None, None)
        assert value.note == "1 prompts have states on all sides; 8 are needed"
    same = Rollouts(prompt_ids=base.prompt_ids, prompts=base.prompts, pieces=[[" yes"]] * 10)
    stuck = measure(same, same, base, task="t", seed=0, **FEW)
    for name in ("mmd2_biased", "mmd2_unbiased"):
        assert stuck.distances[name].value is None
        assert "no spread" in stuck.distances[name].note
    assert stuck.distances["centroid"].value > 0
    assert stuck.distances["c2st_auc"].value > 0.9
    wordless = Rollouts(prompt_ids=base.prompt_ids, prompts=base.prompts, pieces=[[" "]] * 10)
    empty = measure(wordless, wordless, wordless, task="t", seed=0, **FEW)
    assert empty.distances["jaccard"].value is None
    assert empty.distances["jaccard"].note == "no prompt has words on all sides"
    assert (empty.distances["energy"].value, empty.distances["energy"].z, empty.distances["energy"].p) == (0, None, 1)
    assert empty.distances["c2st_auc"].value == 0.5


def test_a_prompt_that_only_some_sides_answered_counts_for_none():
    base_a, base_b = _rollouts(0), _rollouts(100)
    half = _rollouts(300, shift=200)
    short = Rollouts(
        prompt_ids=half.prompt_ids,
        prompts=half.prompts,
        pieces=[[] if i < 10 else each[:2] if i < 20 else each for i, each in enumerate(half.pieces)],
    )
    record = measure(base_a, base_b, short, task="t", seed=3, **FEW)
    assert (record.num_prompts, record.num_prompts_left_out, record.num_states) == (20, 10, 10 * 2 + 10 * 4)
    states = [prefix_states(side, generator=rng(1), num_cuts=4) for side in (base_a, base_b, short)]
    match = matched(states, seed=0)
    for side, rows in zip(states, match.rows):
        assert [side.prompt_ids[row] for row in rows] == [f"item-{10 + p}" for p in match.prompt_M]
        assert len(set(rows.tolist())) == 60


def test_large_samples_keep_the_primary_set_whole_and_say_so(monkeypatch):
    for module in ("measure", "all_distances"):
        monkeypatch.setattr(f"stateshape.drift.{module}.MAX_EXACT", 60)
    sides = [_rollouts(0), _rollouts(100), _rollouts(300, shift=200)]
    record = measure(*sides, task="t", seed=3, **FEW)
    found = record.distances
    assert {name: found[name].num_states for name in ("mmd2_unbiased", "energy", "jaccard", "state_mmd2_unbiased")} == {
        "mmd2_unbiased": 120, "energy": 60, "jaccard": 60, "state_mmd2_unbiased": 60,
    }  # fmt: skip
    assert "Fourier" in found["mmd2_unbiased"].note
    for name in ("energy", "jaccard", "state_mmd2_unbiased", "state_jaccard"):
        assert found[name].note == "value and null on 15 of 30 prompts, drawn at random"
        assert found[name].p == 0.01


def test_measure_names_the_side_that_does_not_fit():
    base = _rollouts(0, num=10)
    with pytest.raises(BadInput, match="run has other items"):
        measure(base, base, _rollouts(0, num=11), task="t", seed=0)
    other = Rollouts(prompt_ids=base.prompt_ids, prompts=["?"] * 10, pieces=base.pieces)
    with pytest.raises(BadInput, match="another prompt in base_b"):
        measure(base, other, base, task="t", seed=0)
    with pytest.raises(BadInput, match="one prompt and one response"):
        Rollouts(prompt_ids=["a"], prompts=[], pieces=[[]])
