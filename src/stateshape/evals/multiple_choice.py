"""Multiple choice by log-probability: each option is scored as the continuation of its prompt, in nats, summed.

Texts become tokens as in lm-evaluation-harness: trailing blanks of the prompt move to the option, prompt and option are
encoded together, and the option's tokens are those after as many as the prompt alone has. A sequence longer than the
model's positions loses tokens on the left; the row's score "left_truncated" is then 1.

An item is one row: its prompt once, then every option as a branch that sees the prompt and itself, at the positions it
would have alone. With o options after a prompt of p tokens that is p + sum |o_i| positions instead of o p + sum |o_i|.

Ties: in MC1 the true option must beat every false one strictly, because TruthfulQA always lists it first. In "acc" the
first best option is chosen, as the harness does: positions there are balanced, and bf16 letters do tie.

Knows nothing of files or of how items were made. B row, T position, D width, V vocabulary, N scored token.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stateshape.core.files import BadInput, sha256_text
from stateshape.core.records import EvalRow
from stateshape.core.tensors import token_logp
from stateshape.policy.policy import Policy
from stateshape.tasks.items import ChoiceItem
from stateshape.tasks.task import ChoiceTask, Progress

BATCH_TOKENS = 16_384  # padded positions in one forward pass; only hidden states are held, never logits
LOGGER = logging.getLogger(__name__)


class _Sequence(NamedTuple):
    """One row of a forward pass and the scores it yields.

    Token `targets[j]` is predicted at place `places[j]` of the row and counts for option `options[j]` of item `item`.
    `branches[t]` is 0 for the prompt and i + 1 for option i.
    """

    item: int
    ids: list[int]
    branches: list[int]
    places: list[int]
    targets: list[int]
    options: list[int]
    is_truncated: bool


@torch.no_grad()
def score_choices(
    policy: Policy, task: ChoiceTask, *, batch_tokens: int = BATCH_TOKENS, progress: Progress | None = None
) -> list[EvalRow]:
    """One row per item, in the task's order. progress counts rows of forward passes.

    Raises: BadInput if an option has no tokens of its own, or more than the model has positions.
    """
    sequences = [sequence for i, item in enumerate(task.items) for sequence in _sequences(policy, item, index=i)]
    logps = [[0.0] * len(item.options) for item in task.items]
    num_done = 0
    for batch in _batches(sequences, batch_tokens):
        values = iter(_logps(policy, batch).tolist())
        for sequence in batch:
            for option in sequence.options:
                logps[sequence.item][option] += next(values)  # Python floats: the sum is in fp64
        num_done += len(batch)
        if progress:
            progress(num_done, len(sequences))
    truncated = {sequence.item for sequence in sequences if sequence.is_truncated}
    if truncated:
        LOGGER.warning(
            "%s: %d of %d items are longer than the model's %s positions and lost tokens on the left",
            task.name, len(truncated), len(task.items), policy.max_positions,
        )  # fmt: skip
    return [_row(task, item, logps[i], is_truncated=i in truncated) for i, item in enumerate(task.items)]


def split_tokens(policy: Policy, prompt: str, option: str) -> tuple[list[int], list[int]]:
    """Ids of the prompt and of the option after it (the harness's _encode_pair)."""
    bare = prompt.rstrip()
    context = policy.encode_prompt(bare)
    whole = policy.encode_prompt(bare + prompt[len(bare) :] + option)
    return context, whole[len(context) :]


def _sequences(policy: Policy, item: ChoiceItem, *, index: int) -> list[_Sequence]:
    """One sequence for all options; one for each where they do not share their prompt's tokens or lose some of them."""
    pairs = [split_tokens(policy, item.prompt, option) for option in item.options]
    for (context, continuation), text in zip(pairs, item.options):
        if not context or not continuation:
            raise BadInput(f"{item.item_id}: option {text!r} or its prompt has no tokens of its own; expected some")
        if policy.max_positions is not None and len(continuation) > policy.max_positions:
            raise BadInput(
                f"{item.item_id}: got an option of {len(continuation)} tokens; expected at most the model's "
                f"{policy.max_positions} positions; use a model with more"
            )
    context = pairs[0][0]
    longest = len(context) + max(len(continuation) for _, continuation in pairs) - 1
    fits = policy.max_positions is None or longest <= policy.max_positions
    if fits and all(other == context for other, _ in pairs):
        return [_branched(index, context, dict(enumerate(continuation for _, continuation in pairs)), False)]
    made = []
    for option, (context, continuation) in enumerate(pairs):
        room = None if policy.max_positions is None else policy.max_positions - len(continuation) + 1
        kept = context if room is None or len(context) <= room else context[-room:]
        made.append(_branched(index, kept, {option: continuation}, len(kept) < len(context)))
    return made


def _branched(item: int, context: list[int], continuations: dict[int, list[int]], is_truncated: bool) -> _Sequence:
    """The prompt, then each option without its last token, which predicts nothing that is needed."""
    ids, branches = list(context), [0] * len(context)
    places: list[int] = []
    for option, continuation in continuations.items():
        start = len(ids)
        ids += continuation[:-1]
        branches += [option + 1] * (len(continuation) - 1)
        places += [len(context) - 1, *range(start, len(ids))]
    targets = [token for continuation in continuations.values() for token in continuation]
    options = [option for option, continuation in continuations.items() for _ in continuation]
    return _Sequence(item, ids, branches, places, targets, options, is_truncated)


def _batches(sequences: Sequence[_Sequence], batch_tokens: int) -> Iterator[list[_Sequence]]:
    """Longest first (a batch that does not fit in memory fails at once), at most batch_tokens padded positions each."""
    ordered = sorted(sequences, key=lambda sequence: -len(sequence.ids))
    start = 0
    while start < len(ordered):
        size = max(1, batch_tokens // len(ordered[start].ids))
        yield ordered[start : start + size]
        start += size


def _logps(policy: Policy, batch: Sequence[_Sequence]) -> Tensor:
    """fp32 log-probs [N] of all targets, sequence by sequence. The head sees scored positions only."""
    device = policy.device
    width = max(len(sequence.ids) for sequence in batch)
    ids_BT = _padded([sequence.ids for sequence in batch], width, value=policy.pad_id).to(device)
    branch_BT = _padded([sequence.branches for sequence in batch], width, value=-1).to(device)
    hidden_BTD = policy.hidden_branches(ids_BT, branch_BT)
    row_N = torch.tensor([b for b, sequence in enumerate(batch) for _ in sequence.targets], device=device)
    place_N = torch.tensor([place for sequence in batch for place in sequence.places], device=device)
    target_N = torch.tensor([target for sequence in batch for target in sequence.targets], device=device)
    return token_logp(hidden_BTD[row_N, place_N], policy.head_VD, target_N)


def _padded(rows: Sequence[list[int]], width: int, *, value: int) -> Tensor:
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


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
