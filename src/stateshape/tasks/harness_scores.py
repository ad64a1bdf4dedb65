"""Metrics of lm-evaluation-harness's tasks, item by item, by its own filters and metrics; a completion's grade by them.

What a metric gives for all documents together only is left out. Needs `lm_eval`. Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean

from stateshape.core.chat import END_OF_TURN
from stateshape.core.files import BadInput
from stateshape.core.wording import shown
from stateshape.tasks.harness import BYTE_PROBABILITY, LOGP, LOGP_PER_BYTE, PREFIX, HarnessOptions
from stateshape.tasks.harness_items import PAGE, Found
from stateshape.tasks.items import GenerationItem, Grade
from stateshape.tasks.task import Grades

CHOSEN_TOKENS = 32  # of an answer where options are scored, should it be written
BYTE_METRICS = ("byte_perplexity", "bits_per_byte")  # theirs, of which an item is (log-prob, bytes)
NO_FILTER = "none"


def scores_of(task: Any, by_filter: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The metrics of one document that are numbers whose mean over documents says something, by filter and metric.

    Left out: what the harness can compute of all documents together only (BLEU, F1 of classes). Perplexities become log-probs.
    """
    means: dict[str, float] = {}
    derived: dict[str, float] = {}
    kinds = task.aggregation()
    for filter_name, metrics in by_filter.items():
        ending = "" if filter_name == NO_FILTER else f",{filter_name}"
        for metric, value in metrics.items():
            if metric in BYTE_METRICS:
                each = float(value[0]) / max(1, value[1])
                derived |= {BYTE_PROBABILITY: math.exp(each), LOGP_PER_BYTE: each}
            elif metric == "perplexity":
                derived[LOGP] = float(value)
            elif _is_number(value) and kinds.get(metric, mean) is mean:
                means[metric + ending] = float(value)
    return means | derived


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, str | list | tuple | dict) and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def outcome(task: Any, document: Any, asked: Sequence[Any], responses: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """What the task's own filters and metrics make of responses to its requests for a document, by filter."""
    answered = [
        Instance(one.request_type, one.doc, one.arguments, one.idx, one.metadata, [response] * (one.repeats or 1))
        for one, response in zip(asked, responses, strict=True)
    ]
    for ensemble in task._filters:
        ensemble.apply(answered)
    names = answered[0].filtered_resps
    return {name: task.process_results(document, [one.filtered_resps[name] for one in answered]) for name in names}


def metrics_of(one: Found, asked: Sequence[Any]) -> dict[str, bool]:
    """Metrics with a value per item, in the task's order: can runs be compared by it? Found by grading a made-up response."""
    kind = asked[0].request_type
    made_up = {"loglikelihood": (-1.0, False), "loglikelihood_rolling": -1.0}.get(kind, "")
    document = one.documents[one.chosen[0]]
    scores = scores_of(one.task, outcome(one.task, document, asked, [made_up] * len(asked)))
    ups = one.task.higher_is_better()
    return {name: bool(ups.get(name.partition(",")[0], True)) and name not in (LOGP, LOGP_PER_BYTE) for name in scores}


def headline_of(title: str, metrics: Sequence[dict[str, bool]], asked: str | None) -> tuple[str, list[str]]:
    """The metric that runs are compared by, and all. Raises BadInput."""
    names = [name for name in metrics[0] if all(name in one for one in metrics)]
    rising = [name for name in names if all(one[name] for one in metrics)]
    if asked is not None and asked not in rising:
        raise BadInput(
            f"metric: got {shown(asked)} for {PREFIX}{title}; expected one with a value per item, of which more is better: "
            f"{', '.join(rising) or 'there is none'}"
        )
    if not rising:
        raise BadInput(
            f"task: got {PREFIX}{title}, whose metrics have no value per item by which two runs could be paired; expected one "
            f"that has; evaluate it with lm_eval.simple_evaluate(model=stateshape.lm_eval_model(policy)); {PAGE}"
        )
    usual = next((name for name in rising if name.partition(",")[0] == "acc_norm"), rising[0])
    return asked or usual, names


def grade(
    found: Mapping[str, Found],
    options: HarnessOptions,
    metric: str,
    is_generated: bool,
    text: str,
    item: GenerationItem,
) -> Grades:
    """A completion by the task's own filters and metric. Where options are scored: whether it is a right answer's text."""
    if not is_generated:
        said = text.strip()
        grade = Grade(prediction=said, is_correct=said in [gold.strip() for gold in (item.gold or "").split(" | ")])
        return Grades(strict=grade, flexible=grade, text=text)
    prefix, _, number = item.item_id.rpartition("/")
    one = found[prefix.removesuffix("/train")]
    document = (one.training if prefix.endswith("/train") else one.documents)[int(number)]
    said = cut(text, one.task)
    asked = Instance(
        "generate_until", document, (item.prompt, {}), 0, (one.task.config.task, 0, one.task.config.repeats)
    )
    scores = scores_of(one.task, outcome(one.task, document, [asked], [said]))
    grade = Grade(prediction=said, is_correct=scores.get(metric, 0.0) >= 1)
    return Grades(strict=grade, flexible=grade, text=said)


def cut(text: str, task: Any) -> str:
    """The text up to the first of the task's stop texts."""
    found = [text.find(stop) for stop in stops_of(task)]
    return text[: min((at for at in found if at >= 0), default=len(text))]


def stops_of(task: Any) -> list[str]:
    until = (task.config.generation_kwargs or {}).get("until") or []
    return [stop for stop in ([until] if isinstance(until, str) else until) if stop]


def ends_of(task: Any, options: HarnessOptions, *, is_generated: bool) -> tuple[tuple[str, ...], int]:
    """Stop texts, and the longest answer in tokens."""
    turn = (END_OF_TURN,) if options.apply_chat_template else ()
    if not is_generated:
        return (*turn, "\n"), CHOSEN_TOKENS
    given = task.config.generation_kwargs or {}
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    return (*turn, *stops_of(task)), int(next((given[name] for name in names if given.get(name) is not None), 256))
