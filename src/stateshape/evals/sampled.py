"""Several samples per item at a temperature, each graded by the task: what the model does when it is sampled from.

Beside the greedy evaluation (generation.py), never in its place. Knows nothing of files or of how grading works.
"""

from __future__ import annotations

from collections.abc import Sequence

from stateshape.analysis.sampled import sampled_scores
from stateshape.analysis.statistics import mean_estimate
from stateshape.core.files import sha256_text
from stateshape.core.records import Metric, SampledRow
from stateshape.evals.finite import check_finite
from stateshape.evals.generation import answer_of, prompts_of
from stateshape.policy.policy import Policy
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import Completion, Sampler, SamplingSettings
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.task import GenerationTask, Progress


def sample_and_grade(
    policy: Policy,
    task: GenerationTask,
    *,
    num_samples: int,
    temperature: float,
    seed: int,
    sampler: Sampler | None = None,
    progress: Progress | None = None,
) -> list[SampledRow]:
    """One row per test item, in the task's order. Raises BadInput where a log-prob is no number."""
    settings = SamplingSettings(
        max_new_tokens=task.max_new_tokens, temperature=temperature, num_samples=num_samples, stops=task.stops
    )
    made = (sampler or LocalSampler()).sample(policy, prompts_of(policy, task), settings, seed=seed, progress=progress)
    by_item = [made[i : i + num_samples] for i in range(0, len(made), num_samples)]
    for item, completions in zip(task.test, by_item, strict=True):
        check_finite(policy, task.name, item.item_id, [logp for one in completions for logp in one.logps])
    return [
        _row(policy, task, item, completions, temperature) for item, completions in zip(task.test, by_item, strict=True)
    ]


def summarise_sampled(rows: Sequence[SampledRow], metric: str) -> dict[str, Metric]:
    """Means over items of the scores in analysis/sampled.py, with 95% intervals."""
    scores = [sampled_scores(row, metric) for row in rows]
    return {name: mean_estimate([one[name] for one in scores]) for name in (scores[0] if scores else ())}


def _row(
    policy: Policy, task: GenerationTask, item: GenerationItem, completions: Sequence[Completion], temperature: float
) -> SampledRow:
    texts = [answer_of(policy, made) for made in completions]
    grades = [task.grade(text, item) for text in texts]
    return SampledRow(
        item_id=item.item_id,
        prompt_sha256=sha256_text(item.prompt),
        gold=item.gold or "",
        temperature=temperature,
        strict=[one.strict.is_correct for one in grades],
        flexible=[one.flexible.is_correct for one in grades],
        completions=texts,
        finishes=[made.finish for made in completions],
    )
