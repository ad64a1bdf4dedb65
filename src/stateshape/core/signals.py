"""The kinds of signal. Each carries the states it refers to (a continuation extends them).

`supervise_BT[b, t]` is True where the prediction of token t from the tokens before it is supervised; column 0 is never
supervised. Knows nothing of how a signal was obtained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from stateshape.core.head import Head
from stateshape.core.states import States


class Signal(Protocol):
    """What a loss receives: states, the supervised positions, and whatever the kind adds."""

    rows_together: ClassVar[int]
    """Adjacent rows that a loss compares: a chunk never parts them."""

    @property
    def states(self) -> States: ...
    @property
    def supervise_BT(self) -> Tensor: ...
    @property
    def logged(self) -> Mapping[str, float | None]:
        """What reading the signal has to report, by name."""
        ...

    def rows(self, index: Tensor) -> Signal:
        """The signal about the chosen rows."""
        ...

    def supervising(self, keep_BT: Tensor) -> Signal:
        """The signal about those of its positions that are True in `keep_BT` (bool [B, T])."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Imitate:
    """The token itself is the target."""

    states: States
    supervise_BT: Tensor
    logged: Mapping[str, float | None] = field(default_factory=dict)
    rows_together: ClassVar[int] = 1

    def rows(self, index: Tensor) -> Imitate:
        states = self.states.rows(index)
        return replace(self, states=states, supervise_BT=self.supervise_BT[index, : states.ids_BT.shape[1]])

    def supervising(self, keep_BT: Tensor) -> Imitate:
        return replace(self, supervise_BT=self.supervise_BT & keep_BT)


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedTokens:
    """Tokens of two vocabularies that are the same text: learner_M[m] is teacher_M[m]. int64 [M].

    Distributions are compared on the learner's `top_k` likeliest of them, and on all other tokens together as one bin.
    """

    learner_M: Tensor
    teacher_M: Tensor
    top_k: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchDistribution:
    """A distribution is the target: the teacher's last hidden states and its head, from which logits are made by chunk.

    shared: of a teacher with another vocabulary.
    """

    states: States
    supervise_BT: Tensor
    teacher_hidden_ND: Tensor  # the state that predicts each supervised token, as the teacher sees it; row by row
    teacher_head: Head
    shared: SharedTokens | None = None
    logged: Mapping[str, float] = field(default_factory=dict)
    rows_together: ClassVar[int] = 1

    def rows(self, index: Tensor) -> MatchDistribution:
        states = self.states.rows(index)
        return replace(
            self,
            states=states,
            supervise_BT=self.supervise_BT[index, : states.ids_BT.shape[1]],
            teacher_hidden_ND=of_rows(self.teacher_hidden_ND, self.supervise_BT, index),
        )

    def supervising(self, keep_BT: Tensor) -> MatchDistribution:
        return replace(
            self,
            supervise_BT=self.supervise_BT & keep_BT,
            teacher_hidden_ND=self.teacher_hidden_ND[keep_BT[self.supervise_BT]],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchTop:
    """The likeliest K tokens of a distribution are the target, with their log-probs in nats, and all others as one bin.

    top_ids_NK: distinct in a row.
    """

    states: States
    supervise_BT: Tensor
    top_ids_NK: Tensor  # for each supervised token, row by row
    top_logp_NK: Tensor
    logged: Mapping[str, float] = field(default_factory=dict)
    rows_together: ClassVar[int] = 1

    def rows(self, index: Tensor) -> MatchTop:
        states = self.states.rows(index)
        return replace(
            self,
            states=states,
            supervise_BT=self.supervise_BT[index, : states.ids_BT.shape[1]],
            top_ids_NK=of_rows(self.top_ids_NK, self.supervise_BT, index),
            top_logp_NK=of_rows(self.top_logp_NK, self.supervise_BT, index),
        )

    def supervising(self, keep_BT: Tensor) -> MatchTop:
        kept_N = keep_BT[self.supervise_BT]
        return replace(
            self,
            supervise_BT=self.supervise_BT & keep_BT,
            top_ids_NK=self.top_ids_NK[kept_N],
            top_logp_NK=self.top_logp_NK[kept_N],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """Outputs of a frozen policy at a credit's supervised positions: something to stay close to.

    `logp_BT`: of the tokens themselves, in nats, at the temperature of scoring. `hidden_ND` and `head`: as a teacher's in
    MatchDistribution, for a divergence over the vocabulary; None where the tokens' own log-probs are enough.
    """

    logp_BT: Tensor
    hidden_ND: Tensor | None = None
    head: Head | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Credit:
    """Each supervised token is to become more (positive) or less (negative) likely. Needs the writer's log-probs."""

    states: States
    supervise_BT: Tensor
    advantage_BT: Tensor
    reward_B: Tensor  # NaN where the reward could not be computed
    reference: Reference | None = None
    logged: Mapping[str, float | None] = field(default_factory=dict)
    rows_together: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if torch.isnan(self.states.behaviour_logp_BT[self.supervise_BT]).any():
            raise ValueError(
                "credit: got supervised tokens without the log-prob of the policy that wrote them; expected states "
                "sampled by a known policy; use learner rollouts as the state source"
            )

    def rows(self, index: Tensor) -> Credit:
        states = self.states.rows(index)
        width = states.ids_BT.shape[1]
        reference = self.reference
        if reference is not None:
            hidden_ND = reference.hidden_ND
            reference = replace(
                reference,
                logp_BT=reference.logp_BT[index, :width],
                hidden_ND=None if hidden_ND is None else of_rows(hidden_ND, self.supervise_BT, index),
            )
        return replace(
            self,
            states=states,
            supervise_BT=self.supervise_BT[index, :width],
            advantage_BT=self.advantage_BT[index, :width],
            reward_B=self.reward_B[index],
            reference=reference,
        )

    def supervising(self, keep_BT: Tensor) -> Credit:
        reference = self.reference
        if reference is not None and reference.hidden_ND is not None:
            reference = replace(reference, hidden_ND=reference.hidden_ND[keep_BT[self.supervise_BT]])
        return replace(self, supervise_BT=self.supervise_BT & keep_BT, reference=reference)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefer:
    """Of two answers to one prompt the first is the better one: rows 0, 2, 4, ... are chosen, 1, 3, 5, ... rejected."""

    states: States
    supervise_BT: Tensor  # the responses
    reference_logp_B: Tensor  # log-prob of the supervised tokens together under the reference, in nats
    logged: Mapping[str, float | None] = field(default_factory=dict)
    rows_together: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if len(self.states) % 2:
            raise ValueError(
                f"preference: got {len(self.states)} rows; expected pairs of adjacent rows, the chosen one first; use a "
                "state source that draws pairs"
            )

    def rows(self, index: Tensor) -> Prefer:
        states = self.states.rows(index)
        return replace(
            self,
            states=states,
            supervise_BT=self.supervise_BT[index, : states.ids_BT.shape[1]],
            reference_logp_B=self.reference_logp_B[index],
        )

    def supervising(self, keep_BT: Tensor) -> Prefer:
        raise ValueError(
            "supervised_per_step, band: got a preference signal; expected one that supervises token by token: a pair compares "
            "whole responses; leave it out, or choose fewer pairs per step"
        )


def of_rows(values_ND: Tensor, supervise_BT: Tensor, index: Tensor) -> Tensor:
    """Of values for each supervised position, row by row, those of the chosen rows."""
    of_row = values_ND.split(supervise_BT.sum(1).tolist())
    return torch.cat([of_row[b] for b in index.tolist()])
