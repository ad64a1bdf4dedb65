"""States at which policies are compared: rows of token ids, and the places in them behind which a policy is read.

Chooses training rows and states of a step. Knows no policy. The state s_t = (x, y_<t) is read behind token t - 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stateshape.core.signals import Signal
from stateshape.core.states import Origin, Trajectory


class Places(NamedTuple):
    """`at[i]`: ascending, at least one, in row i."""

    rows: list[list[int]]
    at: list[np.ndarray]

    def __len__(self) -> int:
        return sum(map(len, self.at))


def places(rows: Sequence[Sequence[int]], at: Sequence[np.ndarray]) -> Places:
    """Rows up to their last place; those without a place are left out."""
    with_places = [(list(ids[: int(where[-1]) + 1]), where) for ids, where in zip(rows, at, strict=True) if len(where)]
    return Places([ids for ids, _ in with_places], [where for _, where in with_places])


def thinned(at: Sequence[np.ndarray], limit: int, rng: np.random.Generator) -> list[np.ndarray]:
    """At most `limit` of all places together, each equally likely, in order."""
    sizes = [len(where) for where in at]
    total = sum(sizes)
    if total <= limit:
        return list(at)
    keep_N = np.zeros(total, bool)
    keep_N[rng.choice(total, limit, replace=False)] = True
    return [where[keep] for where, keep in zip(at, np.split(keep_N, np.cumsum(sizes)[:-1]))]


def written(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> tuple[list[list[int]], list]:
    """Rows, and every state in which a token of the response was written."""
    rows = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    return rows, [np.arange(len(p) - 1, len(row) - 1) for p, row in zip(prompts, rows)]


class TrainingRow(NamedTuple):
    """A row that is supervised somewhere. `tokens`: which of its tokens are; `first`: the number of the first in its term."""

    term: str
    row: Trajectory
    tokens: np.ndarray
    first: int

    @property
    def prefix_tokens(self) -> np.ndarray:
        """Response tokens that are in one of the row's training states: those before the last supervised one.

        Not the environment's: no policy writes them, so how a policy finds them says nothing of its states.
        """
        at = np.arange(self.row.prompt_length, max(int(self.tokens[-1]), self.row.prompt_length))
        origins = np.array(self.row.origins[self.row.prompt_length : self.row.prompt_length + len(at)], dtype=int)
        return at[origins != Origin.ENVIRONMENT]

    def prefix(self, token: int) -> list[int]:
        """The response before a token."""
        return self.row.ids[self.row.prompt_length : token]


def training_rows(signals: Mapping[str, Signal]) -> list[TrainingRow]:
    """Every supervised row of every term, in order."""
    rows = []
    for term, signal in signals.items():
        first = 0
        for row, supervised in zip(signal.states.trajectories(), signal.supervise_BT.cpu().numpy(), strict=True):
            tokens = supervised.nonzero()[0]
            if len(tokens):
                rows.append(TrainingRow(term, row, tokens, first))
            first += len(tokens)
    return rows
