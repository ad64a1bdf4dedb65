"""Scores of an item that was answered several times at a temperature. Torch-free.

strict_t1, flexible_t1: share of right answers among the samples (t1: at temperature 1). pass_at_k: the unbiased chance that at
least one of k samples is right by the task's own metric, k being the number of samples.
"""

from __future__ import annotations

from stateshape.analysis.statistics import pass_at_k
from stateshape.core.records import SampledRow

PASS_AT_K = "pass_at_k"


def sampled_scores(row: SampledRow, metric: str) -> dict[str, float]:
    """metric: "strict" or "flexible", the task's own."""
    num_samples = len(row.strict)
    right = row.flexible if metric == "flexible" else row.strict
    values = (
        sum(row.strict) / num_samples,
        sum(row.flexible) / num_samples,
        pass_at_k(num_samples, sum(right), num_samples),
    )
    return dict(zip(sampled_names(row.temperature), values, strict=True))


def sampled_names(temperature: float) -> list[str]:
    """Of these scores."""
    return [f"strict_t{temperature:g}", f"flexible_t{temperature:g}", PASS_AT_K]
