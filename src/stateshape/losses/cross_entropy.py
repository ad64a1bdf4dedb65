"""Cross-entropy on the tokens themselves: SFT, and imitation of a continuation. Knows nothing of who wrote them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from stateshape.core.method import LossKind, LossValue, PolicyView
from stateshape.core.signals import Imitate
from stateshape.core.tensors import before, mass_of, token_logp


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossEntropy:
    """Sum over supervised tokens of -log p(y_t | x, y_<t), in nats; the step divides by their number.

    per_token: mass is 1 - p(y_t). Source: arXiv:2605.22731 eq. 5.
    """

    kind: ClassVar[LossKind] = "cross-entropy"

    def count(self, signal: Imitate) -> float:
        return float(signal.supervise_BT.sum())

    def total(self, learner: PolicyView, signal: Imitate) -> LossValue:
        states = signal.states
        hidden_ND = learner.hidden(states.ids_BT, states.lengths_B, before(signal.supervise_BT))
        logp_N = token_logp(hidden_ND, learner.head, states.ids_BT[signal.supervise_BT])
        nll = -logp_N.sum()
        per_token = {"mass": mass_of(logp_N, torch.ones_like(logp_N)), "learner_logp": logp_N.detach()}
        return LossValue(total=nll, sums={"nll_nats": nll.detach()}, per_token=per_token)
