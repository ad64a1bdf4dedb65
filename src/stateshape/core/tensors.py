"""Token log-probs and divergences through a chunked head: the full [B, T, V] tensor never exists.

Positions are gathered first, so every function works on [N, D] hidden states. A chunk's logits are recomputed in the
backward pass. Knows nothing of states or losses; slow references stand in tests/.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Logits held at a time, in elements: 2^25 fp32 values are 128 MiB (220 positions of a 151,936-token vocabulary).
CHUNK_ELEMENTS = 2**25


def by_chunk(function: Callable[..., Tensor], *rows: Tensor, vocabulary: int) -> Tensor:
    """Applies `function` to row chunks and concatenates; recomputes in backward when gradients are on."""
    size = max(1, CHUNK_ELEMENTS // vocabulary)
    num_rows = rows[0].shape[0]
    made = []
    for start in range(0, max(num_rows, 1), size):
        parts = [row[start : start + size] for row in rows]
        if torch.is_grad_enabled() and num_rows > size:
            made.append(checkpoint(function, *parts, use_reentrant=False))
        else:
            made.append(function(*parts))
    return torch.cat(made)


def logits_of(hidden_ND: Tensor, head_VD: Tensor, temperature: float = 1.0) -> Tensor:
    """Logits [N, V]. The product runs in the weights' dtype, the rest in fp32 (fp64 where the weights are)."""
    logits = F.linear(hidden_ND, head_VD)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits if temperature == 1.0 else logits / temperature


def token_logp(
    hidden_ND: Float[Tensor, "N D"],
    head_VD: Float[Tensor, "V D"],
    targets_N: Int[Tensor, " N"],
    temperature: float = 1.0,
) -> Float[Tensor, " N"]:
    """log softmax(h W^T / temperature)[target], natural, fp32, one value per row."""

    def chunk(hidden_nD: Tensor, targets_n: Tensor) -> Tensor:
        return -F.cross_entropy(logits_of(hidden_nD, head_VD, temperature), targets_n, reduction="none")

    return by_chunk(chunk, hidden_ND, targets_N, vocabulary=head_VD.shape[0])


def entropy(hidden_ND: Float[Tensor, "N D"], head_VD: Float[Tensor, "V D"]) -> Float[Tensor, " N"]:
    """H(p) in nats of each row's next-token distribution."""

    def chunk(hidden_nD: Tensor) -> Tensor:
        logp = logits_of(hidden_nD, head_VD).log_softmax(-1)
        return -(logp.exp() * logp).sum(-1)

    return by_chunk(chunk, hidden_ND, vocabulary=head_VD.shape[0])


def divergence(
    hidden_ND: Float[Tensor, "N D"],
    head_VD: Float[Tensor, "V D"],
    teacher_hidden_NE: Float[Tensor, "N E"],
    teacher_head_VE: Float[Tensor, "W E"],
    of_logps: Callable[[Tensor, Tensor], Tensor],
) -> Float[Tensor, " N"]:
    """of_logps(learner log-probs [n, V], teacher log-probs [n, V]) -> [n], by chunk.

    Heads may differ in padded rows (a model family pads its vocabulary): both are cut to the shorter.
    """
    size = min(head_VD.shape[0], teacher_head_VE.shape[0])

    def chunk(hidden_nD: Tensor, teacher_nE: Tensor) -> Tensor:
        learner_logp = logits_of(hidden_nD, head_VD[:size]).log_softmax(-1)
        teacher_logp = logits_of(teacher_nE, teacher_head_VE[:size]).log_softmax(-1)
        return of_logps(learner_logp, teacher_logp)

    return by_chunk(chunk, hidden_ND, teacher_hidden_NE, vocabulary=size)


def gather_positions(hidden_BTD: Tensor, supervise_BT: Tensor) -> Tensor:
    """Hidden states [N, D] that predict the supervised tokens: position t - 1 for a supervised token t."""
    return hidden_BTD[:, :-1][supervise_BT[:, 1:]]
