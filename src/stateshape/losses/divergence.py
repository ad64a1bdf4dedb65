"""Divergences between the learner's and the teacher's next-token distributions, exact over the vocabulary.

Of a teacher on a server only the likeliest tokens are known: then over these and one bin of all others.

    forward: KL(teacher || learner) = sum_v T_v (log T_v - log S_v)      mass-covering; the paper's eq. 7
    reverse: KL(learner || teacher) = sum_v S_v (log S_v - log T_v)      mode-seeking
    jsd:     beta KL(T || M) + (1 - beta) KL(S || M), M = beta T + (1 - beta) S      between the two, and bounded

T is the teacher's distribution at `target_temperature`, softmax(z_T / temperature); S is the learner's at 1.
The gradient flows through the learner only. Source: arXiv:2605.22731 eq. 7; arXiv:2306.13649 section 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from stateshape.core.method import LossKind, LossValue, PolicyView
from stateshape.core.signals import MatchDistribution, MatchTop
from stateshape.core.tensors import (
    DivergenceDetail,
    before,
    divergence_in_detail,
    shared_divergence_in_detail,
    top_divergence_in_detail,
)

Direction = Literal["forward", "reverse", "jsd"]


def forward_kl(learner_logp_NV: Float[Tensor, "N V"], teacher_logp_NV: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """KL(teacher || learner) in nats, per row."""
    return (teacher_logp_NV.exp() * (teacher_logp_NV - learner_logp_NV)).sum(-1)


def reverse_kl(learner_logp_NV: Float[Tensor, "N V"], teacher_logp_NV: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """KL(learner || teacher) in nats, per row."""
    return (learner_logp_NV.exp() * (learner_logp_NV - teacher_logp_NV)).sum(-1)


def generalised_jsd(
    learner_logp_NV: Float[Tensor, "N V"], teacher_logp_NV: Float[Tensor, "N V"], *, beta: float
) -> Float[Tensor, " N"]:
    """beta KL(T || M) + (1 - beta) KL(S || M), M = beta T + (1 - beta) S, in nats, per row; at most log 2.

    At the ends the formula is 0 everywhere, but over beta it tends to the forward KL at 0, and over 1 - beta to the reverse
    KL at 1. So beta = 0 is the forward KL and beta = 1 the reverse KL, as in the paper's experiments and in TRL: the scale of
    the loss jumps there. Source: arXiv:2306.13649 section 2 (P is the teacher).
    """
    if beta == 0:
        return forward_kl(learner_logp_NV, teacher_logp_NV)
    if beta == 1:
        return reverse_kl(learner_logp_NV, teacher_logp_NV)
    mixed_logp_NV = torch.logaddexp(teacher_logp_NV + math.log(beta), learner_logp_NV + math.log1p(-beta))
    of_teacher_N = forward_kl(mixed_logp_NV, teacher_logp_NV)
    of_learner_N = forward_kl(mixed_logp_NV, learner_logp_NV)
    return beta * of_teacher_N + (1 - beta) * of_learner_N


@dataclass(frozen=True, kw_only=True, slots=True)
class Divergence:
    """Sum over supervised states of the divergence, in nats; the step divides by their number.

    `beta` is read by jsd alone. target_temperature: of the teacher's distribution; below 1 it is sharper. Source of a teacher
    sharper than the learner: arXiv:2609.35259. per_token: besides mass and learner_logp, divergence and teacher_entropy in
    nats, both of the teacher at that temperature.
    """

    direction: Direction = "forward"
    beta: float = 0.5
    target_temperature: float = 1.0
    kind: ClassVar[LossKind] = "divergence"

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta: got {self.beta}; expected 0 (forward KL) to 1 (reverse KL)")
        if not 0 < self.target_temperature < math.inf:
            raise ValueError(f"target_temperature: got {self.target_temperature}; expected a number above 0")

    def count(self, signal: MatchDistribution | MatchTop) -> float:
        return float(signal.supervise_BT.sum())

    def total(self, learner: PolicyView, signal: MatchDistribution | MatchTop) -> LossValue:
        detail = self.detail(learner, signal)
        total = detail.value_N.sum()
        per_token = {
            "mass": detail.mass_N,
            "learner_logp": detail.learner_logp_N,
            "divergence": detail.value_N.detach(),
            "teacher_entropy": detail.teacher_entropy_N,
        }
        name = "jsd_nats" if self.direction == "jsd" else "kl_nats"
        return LossValue(total=total, sums={name: total.detach()}, per_token=per_token)

    def detail(self, learner: PolicyView, signal: MatchDistribution | MatchTop) -> DivergenceDetail:
        """Raises ValueError for a target_temperature where the teacher's whole distribution is not known."""
        states = signal.states
        hidden_ND = learner.hidden(states.ids_BT, states.lengths_B, before(signal.supervise_BT))
        targets_N = states.ids_BT[signal.supervise_BT]
        of_logps: dict[Direction, Callable[[Tensor, Tensor], Tensor]]
        of_logps = {"forward": forward_kl, "reverse": reverse_kl, "jsd": partial(generalised_jsd, beta=self.beta)}
        if isinstance(signal, MatchTop):
            if self.target_temperature != 1:
                raise ValueError(
                    f"target_temperature: got {self.target_temperature} for a teacher's top tokens; expected 1"
                )
            return top_divergence_in_detail(
                hidden_ND, learner.head, signal.top_ids_NK, signal.top_logp_NK, targets_N, of_logps[self.direction]
            )
        compared = divergence_in_detail
        if (shared := signal.shared) is not None:
            compared = partial(
                shared_divergence_in_detail,
                learner_M=shared.learner_M,
                teacher_M=shared.teacher_M,
                top_k=shared.top_k,
            )
        return compared(
            hidden_ND,
            learner.head,
            signal.teacher_hidden_ND,
            signal.teacher_head,
            targets_N,
            of_logps[self.direction],
            self.target_temperature,
        )
