"""Scores of an item that was answered several times at a temperature. Torch-free.

strict_t1, flexible_t1: share of right answers among the samples (t1: at temperature 1). pass_at_2, pass_at_4, ...: the
unbiased chance that at least one of so many samples is right by the task's own metric, up to the number of samples.
"""

from __future__ import annotations

from collections.abc import Iterable

from stateshape.analysis.statistics import pass_at_k
from stateshape.core.records import SampledRow

PASS_PREFIX = "pass_at_"
PREFIXES = ("strict_t", "flexible_t", PASS_PREFIX)


def sampled_scores(row: SampledRow, metric: str) -> dict[str, float]:
    """metric: "strict" or "flexible", the task's own."""
    num_samples = len(row.strict)
    num_right = sum(row.flexible if metric == "flexible" else row.strict)
    values = (
        sum(row.strict) / num_samples,
        sum(row.flexible) / num_samples,
        *(pass_at_k(num_samples, num_right, k) for k in attempts(num_samples)),
    )
    return dict(zip(sampled_names(row.temperature, num_samples), values, strict=True))


def sampled_names(temperature: float, num_samples: int) -> list[str]:
    """Of these scores."""
    shares = [f"strict_t{temperature:g}", f"flexible_t{temperature:g}"]
    return [*shares, *(f"pass_at_{k}" for k in attempts(num_samples))]


def attempts(num_samples: int) -> list[int]:
    """The k of pass@k: powers of two above 1, and all samples."""
    return sorted({*(2**power for power in range(1, num_samples.bit_length()) if 2**power <= num_samples), num_samples})


def of_samples(names: Iterable[str]) -> list[str]:
    """Those that sampled_names has for some temperature and number of samples."""
    return [name for name in names if name.startswith(PREFIXES)]
