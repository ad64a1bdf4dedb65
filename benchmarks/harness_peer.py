"""Multiple choice beside lm-evaluation-harness (HFLM): the same prompts and options, log-probs and accuracies compared.

Both sides tokenise inside the timed part, on the same fp32 base. The harness's logits cache is on (its default): options
of one token share the forward pass of their prompt. It is called through `loglikelihood` with the requests its tasks
would make, because the tasks themselves read the hub.

One repeat by default: the peer takes about an hour for all of TruthfulQA on a core. Its batch size: of a few, the
fastest on a spread of items is timed. Its "auto" is not tried: it looks for the largest batch that an accelerator's
memory takes at the model's full length, which on a CPU is the machine's end. The harness holds the logits of a whole
batch, so long prompts allow small batches only.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np

from benchmarks.common import Measured, Options, Row, Side, compared, fastest, interleave, load_policy, timed
from benchmarks.trl_peer import peer_model, peer_tokenizer
from stateshape.core.records import EvalRow
from stateshape.evals.multiple_choice import score_choices
from stateshape.tasks.task import ChoiceTask

TRIAL_ITEMS = 8  # on which batch sizes are tried

Logps = list[list[float]]  # by item, by option


def harness(network: Any, tokenizer: Any, batch_size: int) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=network, tokenizer=tokenizer, batch_size=batch_size, logits_cache=True)


def harness_logps(model: Any, task: ChoiceTask) -> Logps:
    from lm_eval.api.instance import Instance

    pairs = [(item.prompt, option) for item in task.items for option in item.options]
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    flat = iter([logp for logp, _ in model.loglikelihood(requests, disable_tqdm=True)])
    return [[next(flat) for _ in item.options] for item in task.items]


def harness_right(task: ChoiceTask, logps: Logps) -> list[bool]:
    """The harness's argmax: among the MC1 options where the task has them, else among all."""
    right = []
    for item, values in zip(task.items, logps):
        chosen = [i for i, is_in in enumerate(item.in_mc1 or (True,) * len(values)) if is_in]
        right.append(item.is_true[chosen[int(np.argmax([values[i] for i in chosen]))]])
    return right


def harness_mc2(task: ChoiceTask, logps: Logps) -> float:
    """Mean of the harness's process_results_mc2."""
    shares = []
    for item, values in zip(task.items, logps):
        masses = np.exp(np.array(values))
        shares.append(float((masses / masses.sum())[np.array(item.is_true)].sum()))
    return sum(shares) / len(shares)


def spread(task: ChoiceTask, count: int) -> ChoiceTask:
    """Items from all over the task."""
    return dataclasses.replace(task, items=task.items[:: max(1, len(task.items) // count)][:count])


class Scored:
    """Keeps what the last repeat found. `score` gives rows (ours) or log-probs (theirs)."""

    def __init__(self, score: Any, num_options: int) -> None:
        self.score, self.num_options, self.found = score, num_options, None

    def __call__(self, repeat: int) -> Measured:
        seconds, self.found = timed(self.score)
        return Measured(seconds, self.num_options)


def run_choices(name: str, model: str, task: ChoiceTask, options: Options, batch_sizes: tuple[int, ...]) -> list[Row]:
    policy, network, tokenizer = load_policy(model), peer_model(model), peer_tokenizer(model)
    trial = spread(task, TRIAL_ITEMS)

    def seconds(size: int) -> float:
        return timed(partial(harness_logps, harness(network, tokenizer, size), trial))[0]

    settings = {f"batch size {size}": partial(seconds, size) for size in batch_sizes}
    chosen, tried = fastest(settings)
    peer = harness(network, tokenizer, batch_sizes[list(settings).index(chosen)])
    num_options = sum(len(item.options) for item in task.items)
    ours = Scored(partial(score_choices, policy, task), num_options)
    theirs = Scored(partial(harness_logps, peer, task), num_options)
    for warm in (partial(score_choices, policy, trial), partial(harness_logps, peer, trial)):
        warm()
    sides: dict[str, Side] = {"ours": ours, "peer": theirs}
    measured = interleave(sides, repeats=options.num_repeats(1), warm_up=False)
    row = compared(name, model, measured["ours"], measured["peer"], peer="lm-eval HFLM", peer_settings=chosen)
    assert ours.found is not None and theirs.found is not None
    row |= {"items": len(task.items), "options": num_options, "peer_tried_seconds": tried}
    return [row | agreement(task, ours.found, theirs.found)]


def agreement(task: ChoiceTask, rows: list[EvalRow], logps: Logps) -> Row:
    """The largest difference of a log-prob, and the scores of both sides."""
    differences = [abs(a - b) for row, values in zip(rows, logps) for a, b in zip(row.option_logps or [], values)]
    right = harness_right(task, logps)
    scores = {f"ours_{metric}": sum(row.scores[metric] for row in rows) / len(rows) for metric in task.metrics}
    peer = {f"peer_{task.metric}": sum(right) / len(right)}
    if "mc2" in task.metrics:
        peer["peer_mc2"] = harness_mc2(task, logps)
    return {
        **scores,
        **peer,
        "largest_logp_difference_nats": max(differences),
        "items_judged_differently": sum(row.is_correct != is_right for row, is_right in zip(rows, right)),
    }
