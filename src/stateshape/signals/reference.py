"""Outputs of a frozen policy for given tokens: the reference of a KL term or of a preference, a teacher's log-probs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from stateshape.core.dealt import DealtRows
from stateshape.core.signals import Credit, Reference
from stateshape.core.states import States, chunks
from stateshape.core.tensors import before, spread, token_logp
from stateshape.policy.policy import Policy
from stateshape.signals.rendering import Items, own_rows

FORWARD_TOKENS = 4096  # of a frozen policy's forward pass at a time; bounds its activations


def base_of(learner: Policy) -> Policy:
    """The learner's weights without its adapter."""
    return Policy(learner.weights, None)


@torch.no_grad()
def predicting(
    policy: Policy, states: States, supervise_BT: Tensor, *, learner: Policy | None = None, items: Items | None = None
) -> Tensor:
    """Hidden states [N, D] that predict the supervised tokens, row by row; 0 in rows that another rank trains on.

    items: of chats. Where the policy's own template renders them otherwise than `learner`'s, it reads its own rendering.
    """
    dealt = DealtRows(states, supervise_BT)
    return dealt.spread(read_here(policy, dealt, learner=learner, items=items))


def read_here(policy: Policy, dealt: DealtRows, *, learner: Policy | None = None, items: Items | None = None) -> Tensor:
    """As `predicting`, of this rank's rows alone."""

    def of_rows(states: States, supervise_BT: Tensor) -> Tensor:
        own = None
        if learner is not None and items:
            own = own_rows(policy, learner, states, supervise_BT, items)
        if own is not None:
            return torch.cat([nothing, *(policy.hidden_at([row], [at]) for row, at in own if len(at))])
        chosen_BT = before(supervise_BT)
        return torch.cat(
            [policy.hidden(states.ids_BT[b], states.lengths_B[b], chosen_BT[b]) for b in chunks(states, FORWARD_TOKENS)]
        )

    nothing = no_states(policy)
    return dealt.read(of_rows, nothing=nothing)


def no_states(policy: Policy) -> Tensor:
    """Hidden states [0, D]."""
    return policy.head.weight_VD.new_zeros(0, policy.head.width)


class Scored(NamedTuple):
    """At each supervised position, row by row."""

    logp_N: Tensor  # of the token that stands there, in nats
    hidden_ND: Tensor  # the state that predicts it; 0 in rows that another rank trains on


@torch.no_grad()
def score(
    policy: Policy,
    states: States,
    supervise_BT: Tensor,
    *,
    temperature: float = 1.0,
    learner: Policy | None = None,
    items: Items | None = None,
) -> Scored:
    """Log-probs of the supervised tokens at `temperature`. learner, items: as for `predicting`."""
    dealt = DealtRows(states, supervise_BT)
    hidden_nD = read_here(policy, dealt, learner=learner, items=items)
    logp_n = token_logp(hidden_nD, policy.head, dealt.own(states.ids_BT[supervise_BT]), temperature)
    return Scored(dealt.of_all(logp_n), dealt.spread(hidden_nD))


@dataclass(frozen=True, kw_only=True, slots=True)
class StayClose:
    """Which policy a KL term compares with, and how. `policy` None: the base, the learner's weights without its adapter.

    A learner that began from an adapter should be compared with that adapter as a policy of its own: the base is not where
    it began. over_vocabulary: the reference's hidden states too, for the exact KL. temperature: that of scoring.
    """

    policy: Policy | None = None
    over_vocabulary: bool = True
    temperature: float = 1.0

    def add(self, learner: Policy, credit: Credit) -> Credit:
        policy = self.policy or base_of(learner)
        scored = score(policy, credit.states, credit.supervise_BT, temperature=self.temperature)
        reference = Reference(logp_BT=spread(scored.logp_N, credit.supervise_BT))
        if self.over_vocabulary:
            reference = replace(reference, hidden_ND=scored.hidden_ND, head=policy.head)
        return replace(credit, reference=reference)
