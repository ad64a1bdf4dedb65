"""The shape of an adapter's update, delta W = scale B A, from its factors: no delta W is ever made.

    B = Q_b R_b,  A^T = Q_a R_a   =>   delta W = Q_b (scale R_b R_a^T) Q_a^T: its singular values are those of an r x r matrix.

Of a full copy of all parameters only the length is measured, |W - W0|_F.

Floor: two QR, O(r^2 (I + O)), and one SVD, O(r^3), a module. Does not know what the update was for.
Suffixes: R rank, I inputs, O outputs, S = min(R, I, O).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from stateshape.policy.weights import SharedWeights


class Update(NamedTuple):
    """Of a whole adapter. Ranks are None where no module has moved; of a full copy the length alone is known."""

    frobenius: float  # root of the sum of squares over modules: the length of the update as one vector
    spectral: float | None  # the largest over modules
    stable_rank: float | None  # |.|_F^2 / |.|_2^2, mean over modules that have moved
    effective_rank: float | None  # exp of the entropy of sigma / sum sigma (Roy and Vetterli 2007), likewise


def update_of(weights: SharedWeights, adapter: str) -> Update:
    """Of an adapter, from its factors. Of a full copy W its length |W - W0|_F alone: singular values would cost O(I O^2)."""
    if weights.is_full(adapter):
        return Update(full_length(weights, adapter), None, None, None)
    return update_geometry([singular_values(*parts) for parts in factors(weights, adapter)])


def full_length(weights: SharedWeights, adapter: str) -> float:
    """Root of the sum of squares of W - W0 over all parameters, a tied one once."""
    state = weights.adapter_state(adapter)
    squares = [
        (state[name].double() - base.detach().double()).square().sum() for name, base in weights.full.base.items()
    ]
    return float(torch.stack(squares).sum().sqrt())


def factors(weights: SharedWeights, adapter: str) -> Iterator[tuple[Tensor, Tensor, float]]:
    """A [R, I], B [O, R] and scale of each module that the adapter changes, in the host's memory.

    Hundreds of factorisations this small are slow on a GPU, which is waited for in each.
    """
    module: Any
    for module in weights.model.modules():
        if adapter in getattr(module, "lora_A", ()):
            a_RI, b_OR = module.lora_A[adapter].weight.detach(), module.lora_B[adapter].weight.detach()
            yield a_RI.float().cpu(), b_OR.float().cpu(), float(module.scaling[adapter])


def singular_values(a_RI: Float[Tensor, "R I"], b_OR: Float[Tensor, "O R"], scale: float) -> Float[Tensor, " S"]:
    """Of scale B A, largest first."""
    r_b, r_a = (torch.linalg.qr(matrix, mode="r").R for matrix in (b_OR, a_RI.T))
    return scale * torch.linalg.svdvals(r_b @ r_a.T)


def update_geometry(values: Sequence[Float[Tensor, " S"]]) -> Update:
    """From the singular values of every module."""
    squares = [float((one.double() ** 2).sum()) for one in values]
    moved = [(one.double(), square) for one, square in zip(values, squares) if square > 0]
    stable = [square / float(one[0]) ** 2 for one, square in moved]
    effective = []
    for one, _ in moved:
        share = one / one.sum()
        effective.append(float(torch.special.entr(share).sum().exp()))
    return Update(
        frobenius=sum(squares) ** 0.5,
        spectral=max((float(one[0]) for one in values), default=0.0),
        stable_rank=sum(stable) / len(stable) if stable else None,
        effective_rank=sum(effective) / len(effective) if effective else None,
    )
