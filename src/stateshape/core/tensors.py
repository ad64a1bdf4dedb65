"""Token log-probs and divergences through a chunked head: the full [B, T, V] tensor never exists.

Every function works on the [N, D] hidden states of supervised positions. A chunk's logits live only while its values and
their gradient are made. Knows nothing of states or losses; slow references stand in tests/.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits held at a time, in elements: a CPU's cache holds a few MiB of them, a GPU wants tall products.
CHUNK_ELEMENTS = {"cpu": 2**19, "cuda": 2**26}
MIN_CHUNK_ROWS = 160  # each chunk reads the whole head once (2 V D bytes and up): fewer rows would wait for memory


class _RowGradients(torch.autograd.Function):
    """One value a row, with its gradient towards the row's hidden state taken in the forward pass, chunk by chunk.

    A row's value depends on its own hidden state alone, so d(sum_i g_i f_i) / dh_i = g_i df_i/dh_i: [N, D] is all that
    backward needs, and no logits are kept or made twice. FLOPs: 2 N D V forward, 2 N D V for the gradient.
    """

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], size: int, hidden_ND: Tensor, *rows: Tensor) -> Tensor:
        gradient_ND = torch.empty_like(hidden_ND)
        made = []
        for start in range(0, hidden_ND.shape[0], size):
            piece = slice(start, start + size)
            with torch.enable_grad():
                hidden_nD = hidden_ND[piece].detach().requires_grad_()
                value_n = function(hidden_nD, *(row[piece] for row in rows))
            gradient_ND[piece] = torch.autograd.grad(value_n, hidden_nD, torch.ones_like(value_n))[0]
            made.append(value_n.detach())
        ctx.save_for_backward(gradient_ND)
        return torch.cat(made)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream_N: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_ND,) = ctx.saved_tensors
        scaled_ND = gradient_ND * upstream_N[:, None].to(gradient_ND.dtype)
        return None, None, scaled_ND, *([None] * (len(ctx.needs_input_grad) - 3))


def by_chunk(function: Callable[..., Tensor], hidden_ND: Tensor, *rows: Tensor, vocabulary: int) -> Tensor:
    """function(hidden [n, D], *rows [n, ...]) -> [n], chunk by chunk. The gradient flows to `hidden_ND` alone."""
    size = max(MIN_CHUNK_ROWS, CHUNK_ELEMENTS.get(hidden_ND.device.type, 2**19) // vocabulary)
    if hidden_ND.shape[0] == 0:
        return function(hidden_ND, *rows)
    if torch.is_grad_enabled() and hidden_ND.requires_grad:
        return _RowGradients.apply(function, size, hidden_ND, *rows)  # type: ignore[no-untyped-call]
    pieces = [slice(start, start + size) for start in range(0, hidden_ND.shape[0], size)]
    return torch.cat([function(hidden_ND[piece], *(row[piece] for row in rows)) for piece in pieces])


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


def before(supervise_BT: Tensor) -> Tensor:
    """Where the supervised tokens are predicted from: position t - 1 for a supervised token t."""
    return F.pad(supervise_BT[:, 1:], (0, 1), value=False)
