"""KL and top-k overlap between two policies at given states, exact over the vocabulary, through the chunked head.

Works on hidden states; does not know whose they are. N: state, D, E: widths, V: vocabulary.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from stateshape.core.head import Head
from stateshape.core.tensors import divergence

TOP_K = 16
RESOLUTION_NATS = 1e-11  # in fp32; 2e-14 to 2e-13 was seen between equal policies
ROUNDED_SHARE = (
    160.0  # of the dtype's epsilon squared; 30 was seen in bf16 for any update too small to be told (LOG.md)
)


def resolution_nats(dtype: torch.dtype) -> float:
    """Below it, a KL between two policies is the rounding of their hidden states: 1e-2 in bf16."""
    return max(RESOLUTION_NATS, ROUNDED_SHARE * torch.finfo(dtype).eps ** 2)


def kl(
    p_hidden_ND: Float[Tensor, "N D"],
    p_head: Head,
    q_hidden_NE: Float[Tensor, "N E"],
    q_head: Head,
) -> Float[Tensor, " N"]:
    """KL(p || q) = sum_v p_v (log p_v - log q_v) at each state, fp64 nats.

    fp32 log-probs are normalised once more in fp64: what rounding adds to them, up to 1e-6, then enters squared. One
    update moves a policy by as little as 1e-8 nats.
    """
    return divergence(p_hidden_ND, p_head, q_hidden_NE, q_head, _exact_kl)


def _exact_kl(p_logp_nV: Tensor, q_logp_nV: Tensor) -> Tensor:
    p_nV, q_nV = p_logp_nV.double().log_softmax(-1), q_logp_nV.double().log_softmax(-1)
    return (p_nV.exp() * (p_nV - q_nV)).sum(-1)


def top_k_overlap(
    learner_hidden_ND: Float[Tensor, "N D"],
    learner_head: Head,
    teacher_hidden_NE: Float[Tensor, "N E"],
    teacher_head: Head,
    k: int = TOP_K,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """At each state: share of the teacher's k likeliest tokens among the learner's, and teacher mass on the learner's."""
    sides = (learner_hidden_ND, learner_head, teacher_hidden_NE, teacher_head)
    return divergence(*sides, partial(_shared, k=k)), divergence(*sides, partial(_covered, k=k))


def _shared(learner_nV: Tensor, teacher_nV: Tensor, k: int) -> Tensor:
    learner_nK, teacher_nK = (logp.topk(k, dim=-1).indices for logp in (learner_nV, teacher_nV))
    return (learner_nK[:, :, None] == teacher_nK[:, None, :]).any(-1).double().mean(-1)


def _covered(learner_nV: Tensor, teacher_nV: Tensor, k: int) -> Tensor:
    return torch.gather(teacher_nV.double().exp(), -1, learner_nV.topk(k, dim=-1).indices).sum(-1)
