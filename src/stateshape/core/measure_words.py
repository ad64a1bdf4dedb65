"""What is measured, in words, by its name in files. A name that has no words of its own is read as it is spelt. Torch-free."""

from __future__ import annotations

import re

_UNITS = ("nats",)
_TITLES = {
    "forward_kl_new_task_nats": "Forward KL on the new task, nats",
    "reverse_kl_new_task_nats": "Reverse KL on the new task, nats",
    "forward_kl_retention_nats": "Forward KL on retention prompts, nats",
    "reverse_kl_retention_nats": "Reverse KL on retention prompts, nats",
    "c2st_auc": "Classifier AUC, training states vs own rollouts",
    "ess_share": "Effective sample size, share",
    "update_frobenius": "Update size (Frobenius norm)",
    "update_spectral": "Update size (spectral norm)",
    "stable_rank": "Stable rank of the update",
    "effective_rank": "Effective rank of the update",
    "mass": "Share of the training signal",
}
_WORDS = {"kl": "KL", "c2st": "C2ST", "auc": "AUC", "ess": "ESS", "p90": "(90th percentile)", "topk": "top-k"}
_DISTANCES = {"mmd2_unbiased": "unbiased MMD²", "mmd2_biased": "biased MMD²", "c2st_auc": "classifier AUC"}
_SCORES = {"gold_logp_nats": "log-prob of the right options, nats", "gold_mass": "share of the right options"}
_SAMPLED = re.compile(r"(strict|flexible)_t(.+)")


def measure_name(key: str) -> str:
    """`reachability_gap_nats` as "Reachability gap, nats"."""
    if key in _TITLES:
        return _TITLES[key]
    words = key.split("_")
    unit = f", {words.pop()}" if words[-1] in _UNITS and len(words) > 1 else ""
    name = " ".join(_WORDS.get(word, word) for word in words)
    return name[:1].upper() + name[1:] + unit


def distance_name(key: str) -> str:
    """Of drift.json: `mmd2_unbiased` as "unbiased MMD²"."""
    return _DISTANCES.get(key, key.replace("_", " "))


def score_name(key: str) -> str:
    """`strict_t1` as "strict, temperature 1", `pass_at_4` as "pass@4"."""
    sampled = _SAMPLED.fullmatch(key)
    if sampled is not None:
        return f"{sampled[1]}, temperature {sampled[2]}"
    return _SCORES.get(key, key.replace("pass_at_", "pass@").replace("_", " "))
