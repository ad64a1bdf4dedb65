"""Log-probs of texts behind their contexts, as token ids: what multiple choice and lm-eval's requests both need.

A text is a row of its own; rows that begin alike share their beginning in one forward pass (core/prefix_tree.py), so that rows
in an order in which like ones are neighbours cost least. Floor: 2 FLOPs a weight for each distinct token.

Knows no text, tokenizer or task. N: scored token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stateshape.core.prefix_tree import common_length
from stateshape.core.ranks import current
from stateshape.core.tensors import token_logp_and_lead
from stateshape.policy.policy import Policy
from stateshape.tasks.task import Progress

BATCH_TOKENS = {"cpu": 8192, "cuda": 65_536}  # distinct tokens in one forward pass; only hidden states are held


class ScoredRow(NamedTuple):
    """What is read from one row: targets[j] is predicted behind its token start + j."""

    ids: list[int]  # without the last target, behind which nothing is read
    start: int
    targets: list[int]


class Likelihood(NamedTuple):
    """logp: of all targets together, in nats. is_greedy: each of them is the likeliest token of its place."""

    logp: float
    is_greedy: bool


def scored_row(context: Sequence[int], targets: Sequence[int], *, max_positions: int | None) -> ScoredRow:
    """The row of a context and what follows it; a context that is too long loses tokens on the left.

    Needs a token in each, and no more targets than positions.
    """
    assert context and targets and (max_positions is None or len(targets) <= max_positions)
    room = len(context) if max_positions is None else max_positions - len(targets) + 1
    kept = list(context[-room:])
    return ScoredRow([*kept, *targets[:-1]], len(kept) - 1, list(targets))


@torch.no_grad()
def score_rows(
    policy: Policy, rows: Sequence[ScoredRow], *, batch_tokens: int | None = None, progress: Progress | None = None
) -> list[Likelihood]:
    """One per row, in order. progress counts rows."""
    chosen = list(batches(rows, batch_tokens or BATCH_TOKENS.get(policy.device.type, 8192)))

    def of_batches(mine: list[int]) -> Iterator[list[Likelihood]]:
        num_done, total = 0, sum(len(chosen[i]) for i in mine)
        for i in mine:
            yield _likelihoods(policy, chosen[i])
            num_done += len(chosen[i])
            if progress:
                progress(num_done, total)

    costs = [sum(len(row.ids) for row in batch) for batch in chosen]
    return [one for found in current().shared(costs, of_batches) for one in found]


def batches(rows: Sequence[ScoredRow], batch_tokens: int) -> Iterator[list[ScoredRow]]:
    """Rows in order, counted by the tokens each adds to the one before it: a row follows its question, a question its subject.

    What the first row of a batch shares with the last of the batch before is computed twice. So a full batch ends where
    neighbours share least, in its second half: at the end of a subject rather than inside a question.
    """
    shared = [0, *(common_length(one.ids, following.ids) for one, following in pairwise(rows))]
    start = 0
    while start < len(rows):
        sizes, end = [len(rows[start].ids)], start + 1
        while end < len(rows) and (size := sizes[-1] + len(rows[end].ids) - shared[end]) <= batch_tokens:
            sizes.append(size)
            end += 1
        if end < len(rows):
            cuts = [cut for cut in range(start + 1, end) if sizes[cut - start - 1] >= batch_tokens / 2]
            end = min([*cuts, end], key=lambda cut: (shared[cut], -cut))
        yield list(rows[start:end])
        start = end


def _likelihoods(policy: Policy, batch: Sequence[ScoredRow]) -> list[Likelihood]:
    logp_N, lead_N = (values.tolist() for values in _of_targets(policy, batch))
    found, done = [], 0
    for row in batch:
        piece = slice(done, done + len(row.targets))
        # Python floats: the sum is in fp64
        found.append(Likelihood(sum(logp_N[piece]), all(lead >= 0 for lead in lead_N[piece])))
        done += len(row.targets)
    return found


def _of_targets(policy: Policy, batch: Sequence[ScoredRow]) -> tuple[Tensor, Tensor]:
    """fp32 log-probs [N] of all targets, row by row, and their leads [N]. The head sees scored positions only."""
    places = [np.arange(row.start, len(row.ids)) for row in batch]
    hidden_ND = policy.hidden_at([row.ids for row in batch], places)
    targets = [target for row in batch for target in row.targets]
    return token_logp_and_lead(hidden_ND, policy.head, torch.tensor(targets, dtype=torch.int64, device=policy.device))
