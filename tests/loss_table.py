"""A learner whose distributions can be set: its hidden states are its logits (the head is the identity). Five tokens."""

import math

import torch

from stateshape.core.head import Head
from stateshape.core.signals import Credit
from stateshape.core.states import Origin, pack
from tiny import row

P = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 16]
LN2 = math.log(2)


class Table:
    """logits_BTV for every position."""

    def __init__(self, logits_BTV):
        self.logits_BTV = logits_BTV.requires_grad_()
        self.head = Head(torch.eye(logits_BTV.shape[-1], dtype=logits_BTV.dtype))

    def hidden(self, ids_BT, lengths_B, at_BT):
        return self.logits_BTV[: ids_BT.shape[0], : ids_BT.shape[1]][at_BT]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(logps=None):
    """Two rows of prompt 2 and responses 3 and 1 over five tokens."""
    logps = logps or [[None] * 3, [None]]
    rows = [
        row([1, 2], [0, 3, 4], Origin.LEARNER, logps=logps[0], group=0),
        row([3, 3], [1], Origin.LEARNER, logps=logps[1], group=0),
    ]
    return pack(rows, device="cpu")


def response(states):
    return states.written_by(Origin.LEARNER)


def credit(logps, advantages, supervise_BT=None):
    states = batch(logps)
    advantage_BT = torch.tensor(advantages, dtype=torch.float64)[:, None].expand(states.ids_BT.shape)
    return Credit(
        states=states,
        supervise_BT=response(states) if supervise_BT is None else supervise_BT,
        advantage_BT=advantage_BT.contiguous(),
        reward_B=torch.zeros(2),
    )


def table_of(p, dtype=torch.float64):
    return Table(torch.tensor(p, dtype=dtype).log().expand(2, 5, 5).clone())
