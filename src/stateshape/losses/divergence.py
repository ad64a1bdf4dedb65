"""Divergences between the learner's and the teacher's next-token distributions, exact over the vocabulary.

    forward: KL(teacher || learner) = sum_v T_v (log T_v - log S_v)      mass-covering; the paper's eq. 7
    reverse: KL(learner || teacher) = sum_v S_v (log S_v - log T_v)      mode-seeking

The gradient flows through the learner only. Source: arXiv:2605.22731 eq. 7; arXiv:2306.13649.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from stateshape.core.method import LossKind, LossValue, PolicyView
from stateshape.core.signals import MatchDistribution
from stateshape.core.tensors import before, divergence

Direction = Literal["forward", "reverse"]


def forward_kl(learner_logp_NV: Float[Tensor, "N V"], teacher_logp_NV: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """KL(teacher || learner) in nats, per row."""
    return (teacher_logp_NV.exp() * (teacher_logp_NV - learner_logp_NV)).sum(-1)


def reverse_kl(learner_logp_NV: Float[Tensor, "N V"], teacher_logp_NV: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """KL(learner || teacher) in nats, per row."""
    return (learner_logp_NV.exp() * (learner_logp_NV - teacher_logp_NV)).sum(-1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """Sum over supervised states of the divergence, in nats; the step divides by their number."""

    direction: Direction = "forward"
    kind: ClassVar[LossKind] = "divergence"

    def count(self, signal: MatchDistribution) -> float:
        return float(signal.supervise_BT.sum())

    def total(self, learner: PolicyView, signal: MatchDistribution) -> LossValue:
        states = signal.states
        kl_N = divergence(
            learner.hidden(states.ids_BT, states.lengths_B, before(signal.supervise_BT)),
            learner.head_VD,
            signal.teacher_hidden_ND,
            signal.teacher_head_VD,
            forward_kl if self.direction == "forward" else reverse_kl,
        )
        return LossValue(total=kl_N.sum(), sums={"kl_nats": kl_N.detach().sum()})
