"""Distances against hand-worked values, other libraries and invariances; the whole measurement on made-up text."""

import math

import numpy as np
import ot
import pytest
from sklearn.metrics.pairwise import rbf_kernel

from stateshape.core.files import BadInput, read_json, write_json
from stateshape.core.records import DriftRecord
from stateshape.drift import distances as d
from stateshape.drift import kernels
from stateshape.drift.features import LexicalFeatures, words
from stateshape.drift.measure import DISTANCES, measure
from stateshape.drift.states import Rollouts, prefix_states


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
    assert d.median_gamma(np.array([[0.0], [1.0], [3.0]])) == pytest.approx(1 / 8)
    with pytest.raises(ValueError, match="coincide"):
        d.median_gamma(np.zeros((5, 2)))
    with pytest.raises(ValueError, match="at least 2"):
        d.median_gamma(np.zeros((1, 2)))


# Centroid, sliced Wasserstein


def test_centroid_by_hand():
    assert d.centroid(np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[1.0, 3.0]])) == pytest.approx(3.0)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(("m", "n"), [(30, 30), (30, 17), (5, 64), (12, 18)])
def test_sliced_wasserstein_equals_pot(m, n, p):
    x, y = rng(3).normal(size=(m, 6)), rng(4).normal(0.5, 2, size=(n, 6))
    directions = d.random_directions(6, seed=9, num_projections=40)
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
    gamma = d.median_gamma(rows)
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


def test_measure_separates_drift_from_none(tmp_path):
    base_a, base_b = _rollouts(0), _rollouts(100)
    still = measure(base_a, base_b, _rollouts(200), task="t", seed=3)
    moved = measure(base_a, base_b, _rollouts(300, shift=200), task="t", seed=3)
    assert set(still.distances) == {*DISTANCES, *(f"state_{name}" for name in DISTANCES)}
    assert (still.num_prompts, still.num_states) == (30, 120)
    for name in DISTANCES:
        none, drift = still.distances[name], moved.distances[name]
        assert none.base_vs_base == pytest.approx(drift.base_vs_base, abs=0.05)
        assert drift.value - drift.base_vs_base > 5 * abs(none.value - none.base_vs_base) + 1e-3
        assert moved.distances[f"state_{name}"].value > moved.distances[f"state_{name}"].base_vs_base
    assert abs(still.distances["mmd2_unbiased"].value) < 0.003
    assert abs(still.distances["state_mmd2_unbiased"].value) < 0.003
    write_json(tmp_path / "drift.json", moved)
    assert read_json(tmp_path / "drift.json", DriftRecord) == moved


def test_a_run_equal_to_the_second_base_sample_has_its_values():
    base_a, base_b = _rollouts(0), _rollouts(100)
    record = measure(base_a, base_b, base_b, task="t", seed=3)
    for value in record.distances.values():
        assert value.value == value.base_vs_base
    assert record == measure(base_a, base_b, base_b, task="t", seed=3)
    assert record != measure(base_a, base_b, base_b, task="t", seed=4)


def test_measure_leaves_out_what_it_cannot_say():
    base = _rollouts(0, num=10)
    silent = Rollouts(prompt_ids=base.prompt_ids, prompts=base.prompts, pieces=[[]] * 9 + [[" w1"]])
    record = measure(base, _rollouts(100, num=10), silent, task="t", seed=0)
    assert record.num_states == 1
    assert all(v.value is None and v.base_vs_base is None for v in record.distances.values())
    same = Rollouts(prompt_ids=base.prompt_ids, prompts=base.prompts, pieces=[[" yes"]] * 10)
    stuck = measure(same, same, base, task="t", seed=0)
    assert stuck.distances["mmd2_biased"].value is None  # the base has no spread to measure by
    assert stuck.distances["centroid"].value > 0


def test_measure_names_the_side_that_does_not_fit():
    base = _rollouts(0, num=10)
    with pytest.raises(BadInput, match="run has other items"):
        measure(base, base, _rollouts(0, num=11), task="t", seed=0)
    other = Rollouts(prompt_ids=base.prompt_ids, prompts=["?"] * 10, pieces=base.pieces)
    with pytest.raises(BadInput, match="another prompt in base_b"):
        measure(base, other, base, task="t", seed=0)
    with pytest.raises(BadInput, match="one prompt and one response"):
        Rollouts(prompt_ids=["a"], prompts=[], pieces=[[]])
