"""Evaluation of a policy on a task of lm-evaluation-harness: its own evaluator, metrics and filters; our rows.

Needs `lm_eval`. Does not know how a task was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lm_eval.evaluator import evaluate as harness_evaluate

from stateshape.core.files import BadInput, sha256_text
from stateshape.core.records import EvalRow
from stateshape.evals.finite import check_finite
from stateshape.evals.harness_lm import PolicyLM
from stateshape.evals.multiple_choice import length_of
from stateshape.policy.policy import Policy
from stateshape.sampling.settings import Completion, Sampler
from stateshape.tasks.harness import FEWSHOT_SEED, HarnessTask
from stateshape.tasks.harness_items import quiet, told
from stateshape.tasks.harness_scores import scores_of
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.task import Progress

Sample = Mapping[str, Any]  # what the harness logs of a document and a filter


def evaluate_harness(
    policy: Policy, task: HarnessTask, *, sampler: Sampler | None = None, progress: Progress | None = None
) -> list[EvalRow]:
    """One row per item, in the task's order. Raises BadInput, also for what the task's own code raises."""
    lm = PolicyLM(policy, sampler=sampler, progress=progress)
    with quiet(), told(task.name):
        samples = _samples(lm, task)
    rows: list[EvalRow] = []
    for item in task.test:
        of_item = samples[task.places[item.item_id]]
        if not task.is_generated:
            check_finite(policy, task.name, item.item_id, [response[0][0] for response in _pairs(of_item[0])])
        completion = _completion(lm, task, len(rows))
        rows.append(_row(task, item, of_item, completion))
    return rows


def _samples(lm: PolicyLM, task: HarnessTask) -> dict[tuple[str, int], list[Sample]]:
    """What the harness found, by task object and document: one sample for each filter."""
    chosen: dict[str, list[int]] = {name: [] for name in task.tasks}
    for item in task.test:
        name, at = task.places[item.item_id]
        chosen[name].append(at)
    objects = {name: one for name, one in task.tasks.items() if chosen[name]}
    for one in objects.values():
        one.set_fewshot_seed(FEWSHOT_SEED)
        if task.is_generated:
            one.config.generation_kwargs["max_gen_toks"] = task.max_new_tokens
    is_first = len(objects) == 1 and chosen[next(iter(objects))] == list(range(len(task.test)))
    found = harness_evaluate(
        lm,
        {"tasks": objects},
        **({"limit": len(task.test)} if is_first else {"samples": {name: chosen[name] for name in objects}}),
        bootstrap_iters=0,
        apply_chat_template=task.options.apply_chat_template,
        fewshot_as_multiturn=task.options.fewshot_as_multiturn,
    )
    by_document: dict[tuple[str, int], list[Sample]] = {}
    for name, samples in found["samples"].items():
        for sample in samples:
            by_document.setdefault((name, sample["doc_id"]), []).append(sample)
    return by_document


def _pairs(sample: Sample) -> list[Any]:
    """The responses to scored requests, each a list of (log-prob, is greedy); of a whole text the log-prob alone."""
    return [[one if isinstance(one, tuple) else (one, False) for one in responses] for responses in sample["resps"]]


def _completion(lm: PolicyLM, task: HarnessTask, at: int) -> Completion | None:
    """What was sampled for an item, where each had one request."""
    return lm.completions[at] if task.is_generated and len(lm.completions) == len(task.test) else None


def _row(task: HarnessTask, item: GenerationItem, samples: Sequence[Sample], completion: Completion | None) -> EvalRow:
    name, _ = task.places[item.item_id]
    by_filter = {sample["filter"]: {metric: sample[metric] for metric in sample["metrics"]} for sample in samples}
    scores = scores_of(task.tasks[name], by_filter)
    if missing := [metric for metric in task.metrics if metric not in scores]:
        raise BadInput(
            f"{item.item_id}: got no finite {missing[0]} from the task's own metrics; expected one for each item"
        )
    contexts = dict.fromkeys(str(arguments[0]) for arguments in samples[0]["arguments"])
    row = EvalRow(
        item_id=item.item_id,
        prompt_sha256=sha256_text("\n".join(contexts)),
        prediction=None,
        gold=item.gold or "",
        is_correct=scores[task.metric] >= 1,
        scores=scores,
        subject=name if len(task.tasks) > 1 else None,
    )
    return _generated(task, row, samples, completion) if task.is_generated else _scored(task, row, samples[0])


def _generated(task: HarnessTask, row: EvalRow, samples: Sequence[Sample], completion: Completion | None) -> EvalRow:
    """prediction: what the filter of the headline metric reads."""
    _, _, wanted = task.metric.partition(",")
    sample = next((one for one in samples if one["filter"] == wanted), samples[0])
    read = sample["filtered_resps"][0]
    truncated = {} if completion is None else {"truncated": float(completion.finish == "length")}
    return replace(
        row,
        prediction=read if isinstance(read, str) else str(read),
        scores=row.scores | truncated,
        completion=sample["resps"][0][0],
        finish=None if completion is None else completion.finish,
        num_tokens=None if completion is None else len(completion.ids),
    )


def _scored(task: HarnessTask, row: EvalRow, sample: Sample) -> EvalRow:
    """prediction: the option that the headline metric chooses. Log-probs without a context (mutual information) come last."""
    options = task.choices.get(row.item_id, ())
    if not options:
        return row
    logps = [responses[0][0] for responses in _pairs(sample)][: len(options)]
    is_normed = task.metric.startswith("acc_norm")
    values = [logp / (length_of(text) if is_normed else 1) for logp, text in zip(logps, options)]
    best = values.index(max(values))
    return replace(row, prediction=options[best], options=list(options), option_logps=logps)
