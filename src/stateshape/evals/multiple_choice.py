"""Multiple choice by log-probability: each option is scored as the continuation of its prompt, in nats, summed.

Texts become tokens as in lm-evaluation-harness: trailing blanks of the prompt move to the option, prompt and option are
encoded together, and the option's tokens are those after as many as the prompt alone has. Differs: a line's end stays with
the prompt (a chat template's last token), where the harness scores it with every option. A sequence longer than the
model's positions loses tokens on the left; the row's score "left_truncated" is then 1.

An option is a row of its own (scoring.py): a primer or the shots of a subject are computed once a batch, a question once, and
the letters of an exam come from the one position before them.

Ties: in MC1 the true option must beat every false one strictly, because TruthfulQA always lists it first. In "acc" the
first best option is chosen, as the harness does: positions there are balanced, and bf16 letters do tie. "acc_norm" divides
by the option's length in characters, as the harness does.

Knows nothing of files or of how items were made.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from stateshape.core.files import BadInput, sha256_text
from stateshape.core.records import EvalRow
from stateshape.evals.finite import check_finite
from stateshape.evals.scoring import ScoredRow, score_rows, scored_row
from stateshape.policy.policy import Policy
from stateshape.tasks.items import ChoiceItem
from stateshape.tasks.task import ChoiceTask, Progress

LOGGER = logging.getLogger(__name__)


class _Scored(NamedTuple):
    """An option's row, and whose it is."""

    item: int
    row: ScoredRow
    is_truncated: bool


@torch.no_grad()
def score_choices(
    policy: Policy, task: ChoiceTask, *, batch_tokens: int | None = None, progress: Progress | None = None
) -> list[EvalRow]:
    """One row per item, in the task's order. progress counts options.

    Raises: BadInput if an option has no tokens of its own, or more than the model has positions.
    """
    sequences = [sequence for i, item in enumerate(task.items) for sequence in _sequences(policy, item, index=i)]
    found = score_rows(policy, [one.row for one in sequences], batch_tokens=batch_tokens, progress=progress)
    logps: list[list[float]] = [[] for _ in task.items]
    for sequence, likelihood in zip(sequences, found, strict=True):
        logps[sequence.item].append(likelihood.logp)
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
    for text in item.options:
        context, targets = split_tokens(policy, item.prompt, text)
        if not context or not targets:
            raise BadInput(f"{item.item_id}: option {text!r} or its prompt has no tokens of its own; expected some")
        if policy.max_positions is not None and len(targets) > policy.max_positions:
            raise BadInput(
                f"{item.item_id}: got an option of {len(targets)} tokens; expected at most the model's "
                f"{policy.max_positions} positions; use a model with more"
            )
        row = scored_row(context, targets, max_positions=policy.max_positions)
        yield _Scored(index, row, row.start + 1 < len(context))


# Scores


def _row(task: ChoiceTask, item: ChoiceItem, logps: list[float], *, is_truncated: bool) -> EvalRow:
    best = logps.index(max(logps))
    if "acc" in task.metrics:
        scores = {"acc": float(item.is_true[best])}
        if task.metric == "acc_norm":
            shares = [logp / length_of(text) for logp, text in zip(logps, item.options)]
            best = shares.index(max(shares))
            scores["acc_norm"] = float(item.is_true[best])
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


def length_of(option: str) -> int:
    """Characters without the delimiter before them; an empty option counts as one character, since it can't be divided by."""
    return max(1, len(option.removeprefix(" ")))


def true_mass(logps: Sequence[float], is_true: Sequence[bool]) -> float:
    """MC2: sum over true options of p / sum over all options of p, from log-probs."""
    highest = max(logps)
    masses = [math.exp(logp - highest) for logp in logps]
    return sum(mass for mass, is_right in zip(masses, is_true) if is_right) / sum(masses)
