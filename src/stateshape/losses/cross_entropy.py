"""Cross-entropy on the tokens themselves: SFT, and imitation of a continuation. Knows nothing of who wrote them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import LossKind, LossValue, PolicyView
from stateshape.core.signals import Imitate
from stateshape.core.tensors import before, token_logp


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossEntropy:
    """Sum over supervised tokens of -log p(y_t | x, y_<t), in nats; the step divides by their number.

    Source: arXiv:2605.22731 eq. 5.
    """

    kind: ClassVar[LossKind] = "cross-entropy"

    def count(self, signal: Imitate) -> float:
        return float(signal.supervise_BT.sum())

    def total(self, learner: PolicyView, signal: Imitate) -> LossValue:
        states = signal.states
        hidden_ND = learner.hidden(states.ids_BT, states.lengths_B, before(signal.supervise_BT))
        nll_N = -token_logp(hidden_ND, learner.head_VD, states.ids_BT[signal.supervise_BT])
        return LossValue(total=nll_N.sum(), sums={"nll_nats": nll_N.detach().sum()})
