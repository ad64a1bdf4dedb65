"""Generate-and-grade: greedy completions of a task's test prompts, graded by the task.

Greedy, so a score belongs to the model and not to a seed. A completion that hit the token limit is graded as it is
and marked truncated. A prompt that leaves no room for max_new_tokens loses tokens on the left, as in
lm-evaluation-harness, with a warning. Knows nothing of files or of how grading works.
"""

from __future__ import annotations

import logging

from stateshape.core.files import BadInput, sha256_text
from stateshape.core.ranks import current
from stateshape.core.records import EvalRow
from stateshape.evals.finite import check_finite
from stateshape.policy.policy import Policy
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import Completion, Sampler, SamplingSettings
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.task import GenerationTask, Progress

LOGGER = logging.getLogger(__name__)
GREEDY_SEED = 0  # a sampler wants one; temperature 0 never uses it


def generate_and_grade(
    policy: Policy,
    task: GenerationTask,
    *,
    sampler: Sampler | None = None,
    batch_rows: int = 256,
    progress: Progress | None = None,
) -> list[EvalRow]:
    """One row per test item, in the task's order. sampler: None uses the model at hand."""
    settings = SamplingSettings(
        max_new_tokens=task.max_new_tokens, temperature=0.0, stops=task.stops, batch_rows=batch_rows
    )
    prompts = prompts_of(policy, task)
    completions = (sampler or LocalSampler()).sample(policy, prompts, settings, seed=GREEDY_SEED, progress=progress)
    for item, completion in zip(task.test, completions, strict=True):
        check_finite(policy, task.name, item.item_id, completion.logps)
    return current().shared(
        [1.0] * len(completions), lambda mine: [_row(policy, task, task.test[i], completions[i]) for i in mine]
    )


def prompts_of(policy: Policy, task: GenerationTask) -> list[list[int]]:
    """Ids of the test prompts, cut on the left where they leave no room to answer. Raises BadInput where nothing is left."""
    prompts = [policy.encode_prompt(item.asked) for item in task.test]
    if policy.max_positions is None:
        return prompts
    room = policy.max_positions - task.max_new_tokens
    if room < 1:
        raise BadInput(
            f"{task.name}: max_new_tokens: got {task.max_new_tokens}; expected fewer than the model's "
            f"{policy.max_positions} positions; give --max-new-tokens fewer, or use a model with more"
        )
    num_cut = sum(len(ids) > room for ids in prompts)
    if num_cut:
        LOGGER.warning(
            "%s: %d of %d prompts lost tokens on the left (of chats, their oldest turns) to fit",
            task.name,
            num_cut,
            len(prompts),
        )
    return [
        ids if len(ids) <= room else policy.fitted_prompt(item.asked, behind=task.max_new_tokens)
        for item, ids in zip(task.test, prompts, strict=True)
    ]


def answer_of(policy: Policy, completion: Completion) -> str:
    """The text that is graded: without the token that ended it."""
    return policy.decode(completion.ids[:-1] if completion.finish == "eos" else completion.ids)


def _row(policy: Policy, task: GenerationTask, item: GenerationItem, completion: Completion) -> EvalRow:
    text = answer_of(policy, completion)
    grades = task.grade(text, item)
    headline = grades.strict if task.metric == "strict" else grades.flexible
    return EvalRow(
        item_id=item.item_id,
        prompt_sha256=sha256_text(item.prompt),
        prediction=headline.prediction,
        gold=item.gold or "",
        is_correct=headline.is_correct,
        scores={
            "strict": float(grades.strict.is_correct),
            "flexible": float(grades.flexible.is_correct),
            "truncated": float(completion.finish == "length"),
        },
        completion=text,
        finish=completion.finish,
        num_tokens=len(completion.ids),
    )
