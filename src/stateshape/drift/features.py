"""Plain lexical features of a text: hashed word 1-2-grams, weighted on the base model's texts, unit length.

The paper says only "a lightweight lexical feature representation"; this is the plainest reading of it. Does not know
what a state or a rollout is, and sees no meaning: two paraphrases are far apart, two fluent nonsenses may be close.
Source: arXiv:2605.22731 sec. 4 ("State drift"); Weinberger et al. 2009 (arXiv:0902.2206) for the hashing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from sklearn.feature_extraction.text import HashingVectorizer

NUM_FEATURES = 1024  # wide enough that a few thousand distinct 1-2-grams share buckets only mildly
# digits and single signs are words too: scikit-learn's own pattern drops "7" and "+", which carry a sum's meaning
TOKEN_PATTERN = r"\w+|[^\w\s]"
_TOKEN = re.compile(TOKEN_PATTERN)


def words(text: str) -> list[str]:
    """The text's words and signs in lower case: the tokens under every lexical distance here."""
    return _TOKEN.findall(text.lower())


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
        if not base_texts:
            raise ValueError("LexicalFeatures.fit: expected at least one text, got none")
        frequency_D = (_counts(base_texts, num_features) > 0).sum(axis=0)
        return cls(idf_D=np.log((1 + len(base_texts)) / (1 + frequency_D)) + 1)

    def transform(self, texts: Sequence[str]) -> Float64[np.ndarray, "N D"]:
        """One unit row per text: (1 + log count) idf, L2-normalised. A text without words is the zero row."""
        counts_ND = _counts(texts, len(self.idf_D))
        weights_ND = np.where(counts_ND > 0, 1 + np.log(np.maximum(counts_ND, 1)), 0.0) * self.idf_D
        norm_N1 = np.linalg.norm(weights_ND, axis=1, keepdims=True)
        return weights_ND / np.where(norm_N1 > 0, norm_N1, 1.0)


def _counts(texts: Sequence[str], num_features: int) -> Float64[np.ndarray, "N D"]:
    if not texts:
        return np.zeros((0, num_features))
    vectorizer = HashingVectorizer(
        n_features=num_features,
        ngram_range=(1, 2),
        token_pattern=TOKEN_PATTERN,
        alternate_sign=False,
        norm=None,
        dtype=np.float64,
    )
    return vectorizer.transform(texts).toarray()
