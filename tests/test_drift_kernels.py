"""The kernel pass against plain loops and scikit-learn: sparse and dense, in any tiles, groups, bandwidths, precision;
the features against scikit-learn's."""

import numpy as np
import pytest
from benchmarks import reference_distances as d
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.metrics.pairwise import rbf_kernel

from stateshape.drift import features as features_module
from stateshape.drift import kernels
from stateshape.drift.features import TOKEN_PATTERN, LexicalFeatures, Vocabulary, gram_counts, words
from stateshape.drift.kernels import kernel_sums
from stateshape.drift.rulers import median_gamma


def rng(seed=0):
    return np.random.default_rng(seed)


def sparse_rows(num_rows, seed, *, num_features=40, density=0.1):
    rows = rng(seed).random((num_rows, num_features))
    rows[rng(seed + 1).random(rows.shape) > density] = 0
    rows[0] = 0  # a text without words
    return rows


def texts(num, seed, *, num_words=60):
    """Rollouts of random words, each cut at three places: prefixes of one another, and some words cut in two."""
    made = []
    for i in range(num):
        text = " ".join(f"W{word}" for word in rng([seed, i]).zipf(1.4, 20) % num_words)
        made += [text[:cut] for cut in sorted(rng([seed, i, 1]).integers(1, len(text), 3).tolist())]
    return made


# The pass


@pytest.mark.parametrize("as_rows", [np.asarray, csr_array])
@pytest.mark.parametrize("tile", [(4, 16), (16, 3), (5, 5), (1024, 256)])
def test_sums_equal_a_plain_loop_in_any_tiles(monkeypatch, as_rows, tile):
    monkeypatch.setattr(kernels, "TILE_ROWS", tile[0])
    monkeypatch.setattr(kernels, "TABLE_COLUMNS", tile[1])
    x, y = sparse_rows(33, 1), sparse_rows(21, 3)
    groups_x, groups_y = rng(5).integers(0, 9, 33), rng(6).integers(0, 9, 21)
    for a, b, groups_a, groups_b in ((x, y, groups_x, groups_y), (x, x, groups_x, groups_x)):
        kernel = rbf_kernel(a, b, 0.7)
        same = groups_a[:, None] == groups_b
        other = None if b is a else as_rows(b)
        got = kernel_sums(as_rows(a), other, gamma=0.7, groups_M=groups_a, groups_N=groups_b)
        assert (got.num_pairs, got.num_same) == (kernel.size, same.sum())
        assert got.mean_K() == pytest.approx([kernel.mean()], abs=1e-13)
        assert got.mean_apart_K() == pytest.approx([kernel[~same].mean()], abs=1e-13)


def test_without_groups_only_a_row_and_itself_are_left_out():
    x, y = sparse_rows(12, 1), sparse_rows(9, 3)
    assert kernel_sums(x, gamma=1.0).num_same == 12
    assert kernel_sums(x, y, gamma=1.0).num_same == 0
    kernel = rbf_kernel(x, x, 1.0)
    assert kernel_sums(x, gamma=1.0).mean_apart_K()[0] == pytest.approx((kernel.sum() - 12) / (12 * 11), abs=1e-13)
    with pytest.raises(ValueError, match="in one group"):
        kernel_sums(x, gamma=1.0, groups_M=np.zeros(12, int)).mean_apart_K()


@pytest.mark.parametrize(("dtype", "error"), [(np.float64, 1e-13), (np.float32, 1e-7)])
def test_a_family_of_bandwidths_in_one_pass(dtype, error):
    x = csr_array(sparse_rows(50, 1).astype(dtype))
    family = kernel_sums(x, gamma=0.1, num_bandwidths=5)
    for k, gamma in enumerate([0.1, 0.2, 0.4, 0.8, 1.6]):
        alone = kernel_sums(x, gamma=gamma)
        assert family.mean_K()[k] == pytest.approx(alone.mean_K()[0], abs=error)
        assert family.mean_apart_K()[k] == pytest.approx(alone.mean_apart_K()[0], abs=error)


def test_float32_rows_cost_little_against_the_floor():
    features = LexicalFeatures.fit(texts(200, 1))
    x, y = features.transform(texts(200, 1)), features.transform(texts(200, 2))
    gamma = median_gamma(x)
    floor = d.biased_mmd2_floor(x, gamma, m=len(x), n=len(y))
    single_x, single_y = (csr_array(rows.astype(np.float32)) for rows in (x, y))
    assert median_gamma(single_x) == pytest.approx(gamma, rel=1e-6)
    for distance in (d.mmd2_biased, d.mmd2_unbiased):
        assert distance(single_x, single_y, gamma) == pytest.approx(distance(x, y, gamma), abs=1e-5 * floor)
    assert d.centroid(single_x, single_y) == pytest.approx(d.centroid(x, y), rel=1e-6)
    exact = d.sliced_wasserstein(x, y, seed=1)
    assert d.sliced_wasserstein(single_x, single_y, seed=1) == pytest.approx(exact, rel=1e-6)


def test_float32_rows_that_coincide_have_no_median():
    one = LexicalFeatures.fit(["a b c d e", "f"]).transform(["a b c d e f"] * 6).astype(np.float32)
    with pytest.raises(ValueError, match="coincide"):
        median_gamma(csr_array(one))


# Reading and counting


def test_prefixes_read_on_give_the_words_of_each_text():
    made = ["", "a", "a b", "a bc", "a bc!", "a bc!", "x", " x y", "ΑΣ", "ΑΣ Σ", "ΑΣ ΣΑ", "7+", "7+ 8=15", "  ", "É é"]
    made += ["I said aa aa", "I said aa aa ", "I said aa aab", "I said", *texts(30, 5)]
    vocabulary = Vocabulary()
    corpus = vocabulary.read(made)
    names = list(vocabulary)
    read = np.split(corpus.words_T, np.cumsum(corpus.lengths_N)[:-1])
    assert [[names[number] for number in one] for one in read] == [words(text) for text in made]


def test_counts_equal_scikit_learns_hashing():
    made = ["", "7 + 8 = 15.", "the cat, the cat", "one", *texts(40, 3)]
    hashing = HashingVectorizer(
        n_features=1024, ngram_range=(1, 2), token_pattern=TOKEN_PATTERN, alternate_sign=False, norm=None
    )
    assert (gram_counts(Vocabulary().read(made), 1024).toarray() == hashing.transform(made).toarray()).all()
    weights = TfidfTransformer(sublinear_tf=True).fit(hashing.transform(made[:9])).transform(hashing.transform(made))
    assert LexicalFeatures.fit(made[:9]).transform(made) == pytest.approx(weights.toarray(), abs=1e-15)
    assert LexicalFeatures.fit(["a"]).transform([]).shape == (0, 1024)
    assert not LexicalFeatures.fit(["", " "]).transform(["", " "]).any()


def test_counts_are_the_same_in_blocks_of_texts(monkeypatch):
    corpus = Vocabulary().read(["", *texts(30, 3), "one two", ""])
    whole = gram_counts(corpus).toarray()
    monkeypatch.setattr(features_module, "BLOCK_WORDS", 25)
    assert (gram_counts(corpus).toarray() == whole).all()
