"""Supervision limited to tokens in a band of the learner's own probability: one mask for signals of any kind.

The learner of before the update scores the tokens, at temperature 1. Knows nothing of how a signal was obtained, nor of losses.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stateshape.core.signals import Signal
from stateshape.policy.policy import Policy
from stateshape.signals.reference import score
from stateshape.train.settings import Band


def in_band(signals: Mapping[str, Signal], learner: Policy, band: Band) -> dict[str, Signal]:
    """Each term's signal about those of its tokens that the learner gives a probability in the band. By term, as given."""
    return {name: signal.supervising(kept(signal, learner, band)) for name, signal in signals.items()}


@torch.no_grad()
def kept(signal: Signal, learner: Policy, band: Band) -> Tensor:
    """bool [B, T]: supervised, and the token there has a probability of `low` to `high`, both included."""
    supervise_BT = signal.supervise_BT
    keep_BT = torch.zeros_like(supervise_BT)
    if bool(supervise_BT.any()):
        p_N = score(learner, signal.states, supervise_BT).logp_N.exp()
        keep_BT[supervise_BT] = (p_N >= band.low) & (p_N <= band.high)
    return keep_BT
