"""Classifier two-sample test: can training states be distinguished from the learner's own states? 0.5: no; 1: always.

Source: Lopez-Paz and Oquab 2017 (arXiv:1610.06545). Differs: AUC for accuracy, folds that keep a prompt's states together.
Sees token ids alone: it does not know what they mean, so two paraphrases are different and word order is seen by pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

NUM_FEATURES = 1024  # of hashed 1-2-grams, as in drift/features.py
FOLDS = 4


def grams(ids: Sequence[int]) -> list[str]:
    """The prefix's tokens and pairs of neighbours. Where it begins counts as a token: so a prefix is never nothing."""
    with_start = [-1, *ids]
    return [str(one) for one in with_start] + [f"{a} {b}" for a, b in zip(with_start, ids)]


def c2st_auc(
    training: Sequence[Sequence[int]],
    own: Sequence[Sequence[int]],
    *,
    training_prompts: Sequence[str],
    own_prompts: Sequence[str],
    seed: int,
) -> float | None:
    """Mean held-out AUC of logistic regression on hashed 1-2-grams of response prefixes, over folds by prompt.

    Each fold has an AUC of its own: scores of differently trained classifiers are not one scale, and pooled ones would
    fall below 0.5 where there is no difference. None where a side has fewer than two prompts.
    """
    num_prompts = min(len(set(training_prompts)), len(set(own_prompts)))
    if num_prompts < 2:
        return None
    features_ND = FeatureHasher(NUM_FEATURES, input_type="string", alternate_sign=False).transform(
        [grams(ids) for ids in (*training, *own)]
    )
    features_ND.data = 1 + np.log(features_ND.data)
    is_training_N = np.array([1] * len(training) + [0] * len(own))
    groups_N = np.array([*(f"training {name}" for name in training_prompts), *(f"own {name}" for name in own_prompts)])
    folds = StratifiedGroupKFold(min(FOLDS, num_prompts), shuffle=True, random_state=seed % 2**32)
    aucs = []
    for fitted, held_out in folds.split(features_ND, is_training_N, groups_N):
        if len(set(is_training_N[held_out])) < 2 or len(set(is_training_N[fitted])) < 2:
            continue
        model = LogisticRegression(solver="liblinear", class_weight="balanced")
        model.fit(features_ND[fitted], is_training_N[fitted])
        aucs.append(roc_auc_score(is_training_N[held_out], model.decision_function(features_ND[held_out])))
    return float(np.mean(aucs)) if aucs else None
