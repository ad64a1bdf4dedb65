"""Outputs of a frozen policy for given tokens: the reference of a KL term or of a preference, a teacher's log-probs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

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
    """Hidden states [N, D] that predict the supervised tokens, row by row.

    items: of chats. Where the policy's own template renders them otherwise than `learner`'s, it reads its own rendering.
    """
    if learner is not None and items and (own := own_rows(policy, learner, states, supervise_BT, items)) is not None:
        return torch.cat([policy.hidden_at([row], [at]) for row, at in own if len(at)])
    chosen_BT = before(supervise_BT)
    parts = [policy.hidden(states.ids_BT[b], states.lengths_B[b], chosen_BT[b]) for b in chunks(states, FORWARD_TOKENS)]
    return torch.cat(parts)


class Scored(NamedTuple):
    """At each supervised position, row by row."""

    logp_N: Tensor  # of the token that stands there, in nats
    hidden_ND: Tensor  # the state that predicts it


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
    hidden_ND = predicting(policy, states, supervise_BT, learner=learner, items=items)
    return Scored(token_logp(hidden_ND, policy.head, states.ids_BT[supervise_BT], temperature), hidden_ND)


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
