"""Plain lexical features of a text: hashed word 1-2-grams, weighted on the base model's texts, unit length.

The paper says only "a lightweight lexical feature representation"; this is the plainest reading of it. Does not know
what a state or a rollout is, and sees no meaning: two paraphrases are far apart, two fluent nonsenses may be close.
Source: arXiv:2605.22731 sec. 4 ("State drift"); Weinberger et al. 2009 (arXiv:0902.2206) for the hashing. The counts
are those of scikit-learn's HashingVectorizer, which the tests compare with.

Suffixes: N texts, T words of all texts one after another, D features.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float64, Int32, Int64
from scipy.sparse import csr_array, vstack
from sklearn.utils import murmurhash3_32

NUM_FEATURES = 1024  # wide enough that a few thousand distinct 1-2-grams share buckets only mildly
BLOCK_WORDS = 500_000  # x 2 keys x 8 bytes = 8 MB to sort at a time
# digits and single signs are words too: scikit-learn's own pattern drops "7" and "+", which carry a sum's meaning
TOKEN_PATTERN = r"\w+|[^\w\s]"
_TOKEN = re.compile(TOKEN_PATTERN)


def words(text: str) -> list[str]:
    """The text's words and signs in lower case: the tokens under every lexical distance here."""
    return _TOKEN.findall(text.lower())


# Texts as numbers


class Vocabulary(dict[str, int]):
    """Word -> number, in order of first sight. Texts that are compared are read by one vocabulary."""

    def __missing__(self, word: str) -> int:
        number = self[word] = len(self)
        return number

    def read(self, texts: Sequence[str]) -> Corpus:
        """A text that goes on from the one before it, as prefixes of a rollout do, is read from that one's last word."""
        numbers = array("i")
        lengths: list[int] = []
        before, last_word_at = "", 0  # the text before, and where in it the last word begins
        for text in map(str.lower, texts):
            num_unchanged = 0
            if last_word_at and text.startswith(before):
                num_unchanged = lengths[-1] - 1  # all but the last word, which may be longer now
                numbers.extend(numbers[len(numbers) - lengths[-1] : -1])
            new_words = _TOKEN.findall(text, last_word_at if num_unchanged else 0)
            numbers.extend(map(self.__getitem__, new_words))
            lengths.append(num_unchanged + len(new_words))
            before, last_word_at = text, text.rfind(new_words[-1]) if new_words else 0
        return Corpus(vocabulary=self, words_T=np.array(numbers, np.int32), lengths_N=np.array(lengths, np.int64))


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """Texts that were read once: the number of each word, text after text, and how many words each text has."""

    vocabulary: Vocabulary
    words_T: Int32[np.ndarray, " T"]
    lengths_N: Int64[np.ndarray, " N"]

    def __len__(self) -> int:
        return len(self.lengths_N)


# Features


@dataclass(frozen=True, kw_only=True, slots=True)
class LexicalFeatures:
    """Hashed word 1-2-grams with sublinear counts and IDF of the base texts, L2-normalised; nothing else is fitted."""

    idf_D: Float64[np.ndarray, " D"]

    @classmethod
    def fit(cls, base_texts: Sequence[str], *, num_features: int = NUM_FEATURES) -> LexicalFeatures:
        """Takes document frequencies from the base model's texts only: no run moves the ruler it is measured by.

        idf_d = log((1 + n) / (1 + df_d)) + 1

        Raises: ValueError if there are no texts.
        """
        return cls.fit_counts(gram_counts(Vocabulary().read(base_texts), num_features))

    @classmethod
    def fit_counts(cls, base_ND: csr_array) -> LexicalFeatures:
        """`fit`, from gram_counts."""
        num_texts, num_features = base_ND.shape
        if not num_texts:
            raise ValueError("LexicalFeatures.fit: expected at least one text, got none")
        frequency_D = np.bincount(base_ND.indices, minlength=num_features)
        return cls(idf_D=np.log((1 + num_texts) / (1 + frequency_D)) + 1)

    def transform(self, texts: Sequence[str]) -> Float64[np.ndarray, "N D"]:
        """One unit row per text: (1 + log count) idf, L2-normalised. A text without words is the zero row."""
        return self.weigh(gram_counts(Vocabulary().read(texts), len(self.idf_D))).toarray()

    def weigh(self, counts_ND: csr_array) -> csr_array:
        """`transform`, from gram_counts to sparse float64 rows: a text of w words has at most 2w - 1 features."""
        weights = (1 + np.log(counts_ND.data)) * self.idf_D[counts_ND.indices]
        row = np.repeat(np.arange(counts_ND.shape[0]), np.diff(counts_ND.indptr))
        norm_N = np.sqrt(np.bincount(row, weights=weights**2, minlength=counts_ND.shape[0]))
        return csr_array((weights / norm_N[row], counts_ND.indices, counts_ND.indptr), shape=counts_ND.shape)


def gram_counts(corpus: Corpus, num_features: int = NUM_FEATURES) -> csr_array:
    """How often each bucket's words and word pairs occur in each text, [N D].

    Floor: one hash per distinct word and pair of a block, not per occurrence (a pair occurs 30 times on average in 20,000
    states); then one sort of 8-byte (text, bucket) keys. Blocks of texts bound the memory.
    """
    names = list(corpus.vocabulary)
    word_buckets = _buckets(names, num_features)
    ends_N = np.cumsum(corpus.lengths_N)
    edges = [0]
    while edges[-1] < len(corpus):
        words_before = ends_N[edges[-1] - 1] if edges[-1] else 0
        stop = int(np.searchsorted(ends_N, words_before + BLOCK_WORDS, side="right"))
        edges.append(max(stop, edges[-1] + 1))
    blocks = [
        _block_counts(
            corpus.words_T[ends_N[a] - corpus.lengths_N[a] : ends_N[b - 1]],
            corpus.lengths_N[a:b],
            names,
            word_buckets,
            num_features,
        )
        for a, b in pairwise(edges)
    ]
    return vstack(blocks, format="csr") if blocks else csr_array((0, num_features))


def _block_counts(
    words_T: Int32[np.ndarray, " T"],
    lengths_N: Int64[np.ndarray, " N"],
    names: list[str],
    word_buckets: Int64[np.ndarray, " G"],
    num_features: int,
) -> csr_array:
    text_T = np.repeat(np.arange(len(lengths_N)), lengths_N)
    word_T = words_T.astype(np.int64)
    # a pair's number is that of its first word times the vocabulary plus that of its second; no pair spans two texts
    inside = text_T[:-1] == text_T[1:]
    pairs, pair_of = np.unique((word_T[:-1] * len(names) + word_T[1:])[inside], return_inverse=True)
    first, second = np.divmod(pairs, max(len(names), 1))
    grams = [f"{names[a]} {names[b]}" for a, b in zip(first.tolist(), second.tolist())]
    buckets = np.concatenate([word_buckets[word_T], _buckets(grams, num_features)[pair_of]])
    keys, counts = np.unique(np.concatenate([text_T, text_T[:-1][inside]]) * num_features + buckets, return_counts=True)
    starts_N1 = np.searchsorted(keys, np.arange(len(lengths_N) + 1) * num_features)
    return csr_array(
        (counts.astype(np.int32), (keys % num_features).astype(np.int32), starts_N1.astype(np.int32)),
        shape=(len(lengths_N), num_features),
    )


def _buckets(grams: Sequence[str], num_features: int) -> Int64[np.ndarray, " G"]:
    """MurmurHash3 of each n-gram modulo the number of features, without signs."""
    return np.array([abs(murmurhash3_32(gram, seed=0)) % num_features for gram in grams], np.int64)
