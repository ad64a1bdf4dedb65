"""Preference losses over pairs of responses. Knows nothing of who preferred what, or why.

With s = log p(y) - log p_reference(y), summed over a response, of the chosen (w) and the rejected (l) one:

    dpo: -log sigmoid(beta (s_w - s_l))                             arXiv:2305.18290 eq. 7; log 2 at the reference
    ipo: (s_w / |y_w| - s_l / |y_l| - 1 / (2 beta))^2               arXiv:2310.12036 eq. 17; 1 / (4 beta^2) there
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from stateshape.core.method import LossKind, LossValue, PolicyView
from stateshape.core.signals import Prefer
from stateshape.core.tensors import before, mass_of, row_sums, token_logp

Shape = Literal["dpo", "ipo"]


def dpo(margin_P: Float[Tensor, " P"], *, beta: float) -> Float[Tensor, " P"]:
    """-log sigmoid(beta margin), margin = s_w - s_l in nats."""
    return -F.logsigmoid(beta * margin_P)


def ipo(margin_P: Float[Tensor, " P"], *, beta: float) -> Float[Tensor, " P"]:
    """(margin - 1 / (2 beta))^2, margin = s_w / |y_w| - s_l / |y_l| in nats a token; beta is the paper's tau."""
    return (margin_P - 1 / (2 * beta)).square()


@dataclass(frozen=True, kw_only=True, slots=True)
class Preference:
    """Sum over pairs; the step divides by their number. A pair in which nothing is supervised isn't counted.

    ipo differs from the paper's formula: log-probs are averaged over a response, not summed, as its authors do in practice
    and TRL does; else one beta would mean another margin for every length.
    """

    shape: Shape = "dpo"
    beta: float = 0.1
    kind: ClassVar[LossKind] = "preference"

    def __post_init__(self) -> None:
        if not 0 < self.beta < float("inf"):
            raise ValueError(f"beta: got {self.beta}; expected a number above 0")

    def count(self, signal: Prefer) -> float:
        return float(supervised_pairs(signal).sum())

    def total(self, learner: PolicyView, signal: Prefer) -> LossValue:
        states, supervise_BT = signal.states, signal.supervise_BT
        hidden_ND = learner.hidden(states.ids_BT, states.lengths_B, before(supervise_BT))
        logp_N = token_logp(hidden_ND, learner.head, states.ids_BT[supervise_BT])
        score_B = row_sums(logp_N, supervise_BT) - signal.reference_logp_B
        if self.shape == "ipo":
            score_B = score_B / supervise_BT.sum(1).clamp_min(1)
        margin_P = (score_B[0::2] - score_B[1::2])[supervised_pairs(signal)]
        total = (dpo if self.shape == "dpo" else ipo)(margin_P, beta=self.beta).sum()
        mass_N = torch.full_like(logp_N, float("nan"))
        if total.requires_grad:
            mass_N = mass_of(logp_N, torch.autograd.grad(total, logp_N, retain_graph=True)[0])
        sums = {"margin_nats": margin_P.detach().sum(), "accuracy": (margin_P.detach() > 0).to(margin_P.dtype).sum()}
        return LossValue(total=total, sums=sums, per_token={"mass": mass_N, "learner_logp": logp_N.detach()})


def supervised_pairs(signal: Prefer) -> Tensor:
    """bool [pairs]"""
    return signal.supervise_BT.any(1).view(-1, 2).any(1)
