"""Multiple choice by log-probability: each option is scored as the continuation of its prompt, in nats, summed.

Texts become tokens as in lm-evaluation-harness: trailing blanks of the prompt move to the option, prompt and option are
encoded together, and the option's tokens are those after as many as the prompt alone has. Differs: a line's end stays with
the prompt (a chat template's last token), where the harness scores it with every option. A sequence longer than the
model's positions loses tokens on the left; the row's score "left_truncated" is then 1.

An option is a row of its own; rows that begin alike share their beginning in one forward pass (core/prefix_tree.py): a
primer or the shots of a subject are computed once a batch, a question once, and the letters of an exam come from the one
position before them. Floor: 2 FLOPs a weight for each distinct token.

Ties: in MC1 the true option must beat every false one strictly, because TruthfulQA always lists it first. In "acc" the
first best option is chosen, as the harness does: positions there are balanced, and bf16 letters do tie.

Knows nothing of files or of how items were made. N: scored token.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stateshape.core.files import BadInput, sha256_text
from stateshape.core.prefix_tree import common_length
from stateshape.core.ranks import current
from stateshape.core.records import EvalRow
from stateshape.core.tensors import token_logp
from stateshape.evals.finite import check_finite
from stateshape.policy.policy import Policy
from stateshape.tasks.items import ChoiceItem
from stateshape.tasks.task import ChoiceTask, Progress

BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}  # distinct tokens in one forward pass; only hidden states are held
LOGGER = logging.getLogger(__name__)


class _Scored(NamedTuple):
    """A row and what is read from it: targets[j] is predicted behind its token start + j, and counts for (item, option)."""

    item: int
    option: int
    ids: list[int]  # without the last target, behind which nothing is read
    start: int
    targets: list[int]
    is_truncated: bool


@torch.no_grad()
def score_choices(
    policy: Policy, task: ChoiceTask, *, batch_tokens: int | None = None, progress: Progress | None = None
) -> list[EvalRow]:
    """One row per item, in the task's order. progress counts options.

    Raises: BadInput if an option has no tokens of its own, or more than the model has positions.
    """
    sequences = [sequence for i, item in enumerate(task.items) for sequence in _sequences(policy, item, index=i)]
    logps = [[0.0] * len(item.options) for item in task.items]
    batches = list(_batches(sequences, batch_tokens or BATCH_TOKENS.get(policy.device.type, 4096)))

    def of_batches(mine: list[int]) -> Iterator[list[float]]:
        num_done, total = 0, sum(len(batches[i]) for i in mine)
        for i in mine:
            yield _logps(policy, batches[i]).tolist()
            num_done += len(batches[i])
            if progress:
                progress(num_done, total)

    costs = [sum(len(sequence.ids) for sequence in batch) for batch in batches]
    for batch, told in zip(batches, current().shared(costs, of_batches), strict=True):
        values = iter(told)
        for sequence in batch:
            for _ in sequence.targets:
                logps[sequence.item][sequence.option] += next(values)  # Python floats: the sum is in fp64
    for item, scored in zip(task.items, logps):
        check_finite(policy, task.name, item.item_id, scored)
    truncated = {sequence.item for sequence in sequences if sequence.is_truncated}
    if truncated:
        LOGGER.warning(
            "%s: %d of %d items are longer than the model's %s positions and lost tokens on the left",
            task.name, len(truncated), len(task.items), policy.max_positions,
        )  # fmt: skip
    return [_row(task, item, logps[i], is_truncated=i in truncated) for i, item in enumerate(task.items)]


def split_tokens(policy: Policy, prompt: str, option: str) -> tuple[list[int], list[int]]:
    """Ids of the prompt and of the option after it (the harness's _encode_pair, but for a line's end)."""
    bare = prompt.rstrip(" \t")
    context = policy.encode_prompt(bare)
    whole = policy.encode_prompt(bare + prompt[len(bare) :] + option)
    return context, whole[len(context) :]


def _sequences(policy: Policy, item: ChoiceItem, *, index: int) -> Iterator[_Scored]:
    for option, text in enumerate(item.options):
        context, targets = split_tokens(policy, item.prompt, text)
        if not context or not targets:
            raise BadInput(f"{item.item_id}: option {text!r} or its prompt has no tokens of its own; expected some")
        if policy.max_positions is not None and len(targets) > policy.max_positions:
            raise BadInput(
                f"{item.item_id}: got an option of {len(targets)} tokens; expected at most the model's "
                f"{policy.max_positions} positions; use a model with more"
            )
        room = len(context) if policy.max_positions is None else policy.max_positions - len(targets) + 1
        shortened = context[-room:]
        yield _Scored(
            index, option, [*shortened, *targets[:-1]], len(shortened) - 1, targets, len(shortened) < len(context)
        )


def _batches(sequences: Sequence[_Scored], batch_tokens: int) -> Iterator[list[_Scored]]:
    """Rows in order, by the tokens each adds to the one before it: a row follows its question, a question its subject."""
    batch: list[_Scored] = []
    num_tokens = 0
    for sequence in sequences:
        num_new = len(sequence.ids) - (common_length(batch[-1].ids, sequence.ids) if batch else 0)
        if batch and num_tokens + num_new > batch_tokens:
            yield batch
            batch, num_tokens, num_new = [], 0, len(sequence.ids)
        batch.append(sequence)
        num_tokens += num_new
    yield batch


def _logps(policy: Policy, batch: Sequence[_Scored]) -> Tensor:
    """fp32 log-probs [N] of all targets, row by row. The head sees scored positions only."""
    places = [np.arange(sequence.start, len(sequence.ids)) for sequence in batch]
    hidden_ND = policy.hidden_at([sequence.ids for sequence in batch], places)
    targets = [target for sequence in batch for target in sequence.targets]
    return token_logp(hidden_ND, policy.head, torch.tensor(targets, dtype=torch.int64, device=policy.device))


# Scores


def _row(task: ChoiceTask, item: ChoiceItem, logps: list[float], *, is_truncated: bool) -> EvalRow:
    best = logps.index(max(logps))
    if "acc" in task.metrics:
        scores = {"acc": float(item.is_true[best])}
    else:
        in_mc1 = item.in_mc1 or (True,) * len(item.options)
        chosen = [i for i, is_in in enumerate(in_mc1) if is_in]
        best = max(chosen, key=lambda i: (logps[i], not item.is_true[i]))  # a tie goes to a false option
        scores = {"mc1": float(item.is_true[best]), "mc2": true_mass(logps, item.is_true)}
    return EvalRow(
        item_id=item.item_id,
        prompt_sha256=sha256_text(item.prompt),
        prediction=item.options[best].strip(),
        gold=" | ".join(_true_options(item)),
        is_correct=scores[task.metric] == 1.0,
        scores={**scores, "left_truncated": float(is_truncated)},
        options=list(item.options),
        option_logps=logps,
        subject=item.subject or None,
    )


def _true_options(item: ChoiceItem) -> list[str]:
    """What counts as right for the headline metric: the one true MC1 option, or every true one."""
    in_mc1 = item.in_mc1 or (True,) * len(item.options)
    return [text.strip() for text, is_true, is_in in zip(item.options, item.is_true, in_mc1) if is_true and is_in]


def true_mass(logps: Sequence[float], is_true: Sequence[bool]) -> float:
    """MC2: sum over true options of p / sum over all options of p, from log-probs."""
    highest = max(logps)
    masses = [math.exp(logp - highest) for logp in logps]
    return sum(mass for mass, is_right in zip(masses, is_true) if is_right) / sum(masses)
