"""Clipped policy gradient with given advantages: GRPO and its relatives. Knows nothing of rewards or groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stateshape.core.method import LossKind, LossValue, PolicyView
from stateshape.core.signals import Credit
from stateshape.core.tensors import before, token_logp

Normalise = Literal["token-mean", "sequence-mean"]


class ClippedTerms(NamedTuple):
    loss_N: Tensor
    ratio_N: Tensor
    is_clipped_N: Tensor


def clipped_terms(
    logp_N: Float[Tensor, " N"],
    behaviour_logp_N: Float[Tensor, " N"],
    advantage_N: Float[Tensor, " N"],
    *,
    clip_low: float,
    clip_high: float,
) -> ClippedTerms:
    """-min(r A, clip(r, 1 - low, 1 + high) A) per token, r = exp(logp - behaviour_logp).

    Source: arXiv:1707.06347 eq. 7. Differs: separate lower and upper range (arXiv:2503.14476); no value or entropy term.
    """
    ratio_N = (logp_N - behaviour_logp_N).exp()
    plain_N = ratio_N * advantage_N
    clipped_N = ratio_N.clamp(1 - clip_low, 1 + clip_high) * advantage_N
    return ClippedTerms(-torch.minimum(plain_N, clipped_N), ratio_N.detach(), (clipped_N < plain_N).detach())


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyGradient:
    """Sum of clipped policy-gradient terms over supervised tokens.

    token-mean: every token of the batch weighs the same (DAPO). sequence-mean: every row weighs the same, its tokens
    1 / |y| each (GRPO, arXiv:2402.03300 eq. 3). Scored at the temperature the rows were sampled at.
    """

    normalise: Normalise = "sequence-mean"
    clip_low: float = 0.2
    clip_high: float = 0.2
    temperature: float = 1.0
    kind: ClassVar[LossKind] = "policy gradient"

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(
                f"temperature: got {self.temperature}; expected a number above 0: a greedy choice has no log-prob to raise"
            )

    def count(self, signal: Credit) -> float:
        if self.normalise == "token-mean":
            return float(signal.supervise_BT.sum())
        return float(signal.supervise_BT.any(1).sum())

    def total(self, learner: PolicyView, signal: Credit) -> LossValue:
        states, supervise_BT = signal.states, signal.supervise_BT
        hidden_ND = learner.hidden(states.ids_BT, states.lengths_B, before(supervise_BT))
        logp_N = token_logp(hidden_ND, learner.head_VD, states.ids_BT[supervise_BT], self.temperature)
        terms = clipped_terms(
            logp_N,
            states.behaviour_logp_BT[supervise_BT],
            signal.advantage_BT[supervise_BT],
            clip_low=self.clip_low,
            clip_high=self.clip_high,
        )
        weight_BT = torch.ones_like(signal.advantage_BT)
        if self.normalise == "sequence-mean":
            weight_BT = weight_BT / supervise_BT.sum(1, keepdim=True).clamp_min(1)
        weight_N = weight_BT[supervise_BT]
        sums = {
            "ratio": (terms.ratio_N * weight_N).sum(),
            "frac_clipped": (terms.is_clipped_N * weight_N).sum(),
        }
        return LossValue(total=(terms.loss_N * weight_N).sum(), sums=sums)
