"""Where the supervision of some batches lands: whose tokens, how deep in the response, how surprising to learner and base.

Measured on the batches of the step after an evaluation, before their update. Adds up to a supervision map
(locality/supervision.py). Mass is what the loss asks to move: 1 - p for cross-entropy, |A| (1 - p) for a policy gradient.
Knows no trainer and writes no file. N: response token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from stateshape.core.tensors import token_logp
from stateshape.locality.supervision import DEPTHS, Tally, tally_at
from stateshape.policy.policy import Policy
from stateshape.trainers.batches import Batch, SupervisedRow

MOST_TOKENS = 8192  # of the rows that are read of one batch: the first rows that fit


class Landing(NamedTuple):
    """Sums over batches. Surprisals are -log p in nats; prefix: response tokens before the last supervised one of their row."""

    tally: Tally = Tally()
    num_tokens: int = 0  # of all rows
    num_supervised: int = 0
    surprisal: float = 0.0  # of supervised tokens, under the learner
    base_surprisal: float | None = 0.0  # None: there is no base beside the learner
    num_prefix: int = 0
    prefix_surprisal: float = 0.0

    def plus(self, other: Landing) -> Landing:
        base = None
        if self.base_surprisal is not None and other.base_surprisal is not None:
            base = self.base_surprisal + other.base_surprisal
        return Landing(
            self.tally.plus(other.tally),
            self.num_tokens + other.num_tokens,
            self.num_supervised + other.num_supervised,
            self.surprisal + other.surprisal,
            base,
            self.num_prefix + other.num_prefix,
            self.prefix_surprisal + other.prefix_surprisal,
        )

    def values(self, own_surprisal: float | None) -> dict[str, float | None]:
        """By name, as docs/locality.md has them. own_surprisal: mean of what the learner itself writes."""
        prefix = _mean(self.prefix_surprisal, self.num_prefix)
        gap = None if prefix is None or own_surprisal is None else prefix - own_surprisal
        return {
            "supervised_share": _mean(self.num_supervised, self.num_tokens),
            "surprisal_nats": _mean(self.surprisal, self.num_supervised),
            "base_surprisal_nats": _mean(self.base_surprisal, self.num_supervised),
            "mass_per_token": _mean(float(self.tally.mass_C.sum()), self.num_supervised),
            "reachability_gap_nats": gap,
        }


def _mean(total: float | None, count: int) -> float | None:
    return None if total is None or count == 0 else total / count


def landing_of(learner: Policy, base: Policy | None, batch: Batch) -> Landing:
    """Of one batch. base: None where it is gone. To be called inside `reading()`."""
    rows = some_rows(batch.rows, longest=learner.longest_row)
    if not rows:
        return Landing(num_tokens=batch.num_tokens, base_surprisal=None if base is None else 0.0)
    response = [np.arange(max(row.first, 1), int(row.at[-1]) + 1) for row in rows]
    logp_N = logps(learner, rows, response)
    is_supervised_N = np.concatenate([np.isin(at, row.at) for at, row in zip(response, rows, strict=True)])
    is_prefix_N = np.concatenate([at < row.at[-1] for at, row in zip(response, rows, strict=True)])
    mine_N = logp_N[is_supervised_N]
    origin_N = np.concatenate([np.full(len(row.at), row.origin, np.int64) for row in rows])
    depth_N = np.concatenate([DEPTHS * (row.at - row.first) // (len(row.ids) - row.first) for row in rows])
    mass_N = np.concatenate([row.weight for row in rows]).astype(np.float64) * -np.expm1(np.minimum(mine_N, 0.0))
    share = len(mine_N) / sum(len(row.at) for row in batch.rows)  # of the batch's supervised tokens that was read
    return Landing(
        tally_at(origin_N, depth_N.astype(np.int64), mine_N, mass_N),
        round(batch.num_tokens * share),
        len(mine_N),
        -float(mine_N.sum()),
        None if base is None else -float(logps(base, rows, [row.at for row in rows]).sum()),
        int(is_prefix_N.sum()),
        -float(logp_N[is_prefix_N].sum()),
    )


def some_rows(rows: Sequence[SupervisedRow], *, longest: int | None) -> list[SupervisedRow]:
    """The first, up to MOST_TOKENS; at least one. Rows longer than the model's positions are left out."""
    fitting = [row for row in rows if longest is None or len(row.ids) <= longest]
    total = np.cumsum([len(row.ids) for row in fitting])
    return [row for k, row in enumerate(fitting) if k == 0 or total[k] <= MOST_TOKENS]


def logps(policy: Policy, rows: Sequence[SupervisedRow], at: Sequence[np.ndarray]) -> np.ndarray:
    """fp64 [N]: log p of the rows' tokens at these places, given those before them."""
    hidden_ND = policy.hidden_at(
        [row.ids[: int(where[-1])] for row, where in zip(rows, at, strict=True)], [w - 1 for w in at]
    )
    targets = [row.ids[place] for row, where in zip(rows, at, strict=True) for place in where]
    targets_N = torch.tensor(targets, dtype=torch.int64, device=policy.device)
    return np.asarray(token_logp(hidden_ND, policy.head, targets_N).double().cpu().numpy())
