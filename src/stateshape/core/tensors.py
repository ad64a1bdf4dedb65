"""Token log-probs and divergences through a chunked head: the full [B, T, V] tensor never exists.

Every function works on the [N, D] hidden states of supervised positions. A chunk's logits live only while its values and
their gradient are made. Knows nothing of states or losses; slow references are in tests/.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from stateshape.core.head import Head

# Logits held at a time, in elements: a CPU's cache holds a few MiB of them, a GPU wants tall products.
CHUNK_ELEMENTS = {"cpu": 2**19, "cuda": 2**26}
MIN_CHUNK_ROWS = 96  # each chunk reads the whole head once (2 V D bytes and up): fewer rows would wait for memory


SMALLEST_LOGP = -80.0  # e^-80 is the smallest power of ten that fp32 still tells from zero, about


LOG2_E = 1 / math.log(2)

Rows: TypeAlias = tuple[Tensor, ...]


class _RowGradients(torch.autograd.Function):
    """Values a row, the first with its gradient towards the row's hidden state taken in the forward pass, chunk by chunk.

    A row's value depends on its own hidden state alone, so d(sum_i g_i f_i) / dh_i = g_i df_i/dh_i: [N, D] is all that
    backward needs, and no logits are kept or made twice. The gradient stops at the logits, where half its L1 norm is one
    pass, and goes on by one product. FLOPs: 2 N D V forward, 2 N D V for the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[..., Rows],
        size: int,
        with_mass: bool,
        head: Head,
        hidden_ND: Tensor,
        *rows: Tensor,
    ) -> Rows:
        gradient_ND = torch.empty_like(hidden_ND)
        chunks: list[Rows] = []
        for start in range(0, hidden_ND.shape[0], size):
            piece = slice(start, start + size)
            logits_nV = logits_of(hidden_ND[piece], head).requires_grad_()
            with torch.enable_grad():
                value_n, *details = function(logits_nV, *(row[piece] for row in rows))
            (slope_nV,) = torch.autograd.grad(value_n, logits_nV, torch.ones_like(value_n))
            gradient_ND[piece] = head.to_hidden(slope_nV, logits_nV.detach())
            mass = (slope_nV.abs_().sum(-1) / 2,) if with_mass else ()
            chunks.append((value_n.detach(), *mass, *(each.detach() for each in details)))
        ctx.save_for_backward(gradient_ND)
        values = tuple(torch.cat(pieces) for pieces in zip(*chunks, strict=True))
        ctx.mark_non_differentiable(*values[1:])
        return values

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream_N: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        (gradient_ND,) = ctx.saved_tensors
        scaled_ND = gradient_ND * upstream_N[:, None].to(gradient_ND.dtype)
        return None, None, None, None, scaled_ND, *([None] * (len(ctx.needs_input_grad) - 5))


class _HeadGradients(torch.autograd.Function):
    """As _RowGradients, for a head that is trained too: what each row adds to dW depends on what comes from above.

    So the forward pass takes no gradient (but the mass, where asked), and backward makes each chunk's logits again, sums dW in
    fp32 at least, and keeps no logits either. FLOPs: 2 N D V forward; again 2 N D V, and 2 N D V each for h and W.
    """

    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[..., Rows],
        size: int,
        with_mass: bool,
        head: Head,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        *rows: Tensor,
    ) -> Rows:
        head = head._replace(weight_VD=weight_VD.detach(), bias_V=None if bias_V is None else bias_V.detach())
        ctx.function, ctx.size, ctx.head = function, size, head
        ctx.save_for_backward(hidden_ND, *rows)
        chunks: list[Rows] = []
        for start in range(0, hidden_ND.shape[0], size):
            piece = slice(start, start + size)
            logits_nV = logits_of(hidden_ND[piece], head).requires_grad_(with_mass)
            with torch.set_grad_enabled(with_mass):
                value_n, *details = function(logits_nV, *(row[piece] for row in rows))
            mass: Rows = ()
            if with_mass:
                (slope_nV,) = torch.autograd.grad(value_n, logits_nV, torch.ones_like(value_n))
                mass = (slope_nV.abs_().sum(-1) / 2,)
            chunks.append((value_n.detach(), *mass, *(each.detach() for each in details)))
        values = tuple(torch.cat(pieces) for pieces in zip(*chunks, strict=True))
        ctx.mark_non_differentiable(*values[1:])
        return values

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream_N: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, *rows = ctx.saved_tensors
        head: Head = ctx.head
        wide = torch.promote_types(head.weight_VD.dtype, torch.float32)
        gradient_ND = torch.empty_like(hidden_ND)
        weight_VD = torch.zeros_like(head.weight_VD, dtype=wide)
        bias_V = None if head.bias_V is None else torch.zeros_like(head.bias_V, dtype=wide)
        for start in range(0, hidden_ND.shape[0], ctx.size):
            piece = slice(start, start + ctx.size)
            logits_nV = logits_of(hidden_ND[piece], head).requires_grad_()
            with torch.enable_grad():
                value_n = ctx.function(logits_nV, *(row[piece] for row in rows))[0]
            (slope_nV,) = torch.autograd.grad(value_n, logits_nV, upstream_N[piece].to(value_n.dtype))
            product_nV = head.to_product(slope_nV, logits_nV.detach())
            gradient_ND[piece] = product_nV @ head.weight_VD
            weight_VD += product_nV.T @ hidden_ND[piece]
            if bias_V is not None:
                bias_V += product_nV.sum(0, dtype=wide)
        bias = None if bias_V is None else bias_V.to(head.weight_VD.dtype)
        others = [None] * (len(ctx.needs_input_grad) - 7)
        return None, None, None, None, gradient_ND, weight_VD.to(head.weight_VD.dtype), bias, *others


def by_chunk(
    function: Callable[..., Rows], hidden_ND: Tensor, head: Head, *rows: Tensor, with_mass: bool = False
) -> Rows:
    """function(logits [n, V], *rows [n, ...]) -> (value [n], *others [n]), chunk by chunk.

    The gradient flows from the first value to `hidden_ND`, and to the head where it needs one. with_mass: half the
    L1 norm of the first value's gradient towards the logits is put behind it; NaN where no gradient is taken.
    """
    size = max(MIN_CHUNK_ROWS, CHUNK_ELEMENTS.get(hidden_ND.device.type, 2**19) // head.num_tokens)
    is_backward = bool(hidden_ND.shape[0]) and torch.is_grad_enabled()
    if is_backward and head.weight_VD.requires_grad:
        trained = (head.weight_VD, head.bias_V)
        frozen = head._replace(weight_VD=head.weight_VD.detach(), bias_V=None)
        return _HeadGradients.apply(  # type: ignore[no-untyped-call, no-any-return]
            function, size, with_mass, frozen, hidden_ND, *trained, *rows
        )
    if is_backward and hidden_ND.requires_grad:
        return _RowGradients.apply(function, size, with_mass, head, hidden_ND, *rows)  # type: ignore[no-untyped-call, no-any-return]
    chunks = []
    for start in range(0, max(hidden_ND.shape[0], 1), size):
        piece = slice(start, start + size)
        value_n, *details = function(logits_of(hidden_ND[piece], head), *(row[piece] for row in rows))
        chunks.append((value_n, *([torch.full_like(value_n, float("nan"))] if with_mass else []), *details))
    return tuple(torch.cat(pieces) for pieces in zip(*chunks, strict=True))


def logits_of(hidden_ND: Float[Tensor, "N D"], head: Head, temperature: float = 1.0) -> Float[Tensor, "N V"]:
    """Logits over the temperature."""
    return cooled(head.logits(hidden_ND), temperature)


def cooled(logits_NV: Tensor, temperature: float) -> Tensor:
    """Logits over the temperature."""
    return logits_NV if temperature == 1.0 else logits_NV / temperature


def token_logp(
    hidden_ND: Float[Tensor, "N D"],
    head: Head,
    targets_N: Int[Tensor, " N"],
    temperature: float = 1.0,
) -> Float[Tensor, " N"]:
    """log softmax(h W^T / temperature)[target], natural, fp32, one value per row."""

    def chunk(logits_nV: Tensor, targets_n: Tensor) -> Rows:
        return (-F.cross_entropy(cooled(logits_nV, temperature), targets_n, reduction="none"),)

    return by_chunk(chunk, hidden_ND, head, targets_N)[0]


def token_logp_and_lead(
    hidden_ND: Float[Tensor, "N D"], head: Head, targets_N: Int[Tensor, " N"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """token_logp, and the target's logit less the largest of all: 0 where the target is the likeliest token, else negative."""

    def chunk(logits_nV: Tensor, targets_n: Tensor) -> Rows:
        lead_n = logits_nV.gather(1, targets_n[:, None])[:, 0] - logits_nV.amax(-1)
        return -F.cross_entropy(logits_nV, targets_n, reduction="none"), lead_n

    logp_N, lead_N = by_chunk(chunk, hidden_ND, head, targets_N)
    return logp_N, lead_N


def mass_of(logp_N: Tensor, upstream_N: Tensor, temperature: float = 1.0) -> Tensor:
    """Half the L1 norm, at each position's logits z, of the gradient of a sum of token log-probs times `upstream_N`.

    d log softmax(z / temperature)[y] / dz = (onehot(y) - p) / temperature, whose L1 norm is 2 (1 - p_y) / temperature.
    """
    return upstream_N.abs() * -torch.expm1(logp_N.detach()) / temperature


def entropy(hidden_ND: Float[Tensor, "N D"], head: Head) -> Float[Tensor, " N"]:
    """H(p) in nats of each row's next-token distribution."""

    def chunk(logits_nV: Tensor) -> Rows:
        logp = logits_nV.log_softmax(-1)
        return (-(logp.exp() * logp).sum(-1),)

    return by_chunk(chunk, hidden_ND, head)[0]


def divergence(
    hidden_ND: Float[Tensor, "N D"],
    head: Head,
    teacher_hidden_NE: Float[Tensor, "N E"],
    teacher_head: Head,
    of_logps: Callable[[Tensor, Tensor], Tensor],
) -> Float[Tensor, " N"]:
    """of_logps(learner log-probs [n, V], teacher log-probs [n, V]) -> [n], by chunk.

    Heads may differ in padded rows (a model family pads its vocabulary): both are cut to the shorter.
    """
    size = min(head.num_tokens, teacher_head.num_tokens)

    def chunk(logits_nV: Tensor, teacher_nE: Tensor) -> Rows:
        teacher_logp_nV = logits_of(teacher_nE, teacher_head.first(size)).log_softmax(-1)
        return (of_logps(logits_nV.log_softmax(-1), teacher_logp_nV),)

    return by_chunk(chunk, hidden_ND, head.first(size), teacher_hidden_NE)[0]


class DivergenceDetail(NamedTuple):
    """By row, in nats. Only `value_N` carries a gradient."""

    value_N: Tensor
    mass_N: Tensor  # half the L1 norm of d value / d logits; NaN where no gradient is taken
    learner_logp_N: Tensor  # of the token that stands there
    teacher_entropy_N: Tensor


def divergence_in_detail(
    hidden_ND: Float[Tensor, "N D"],
    head: Head,
    teacher_hidden_NE: Float[Tensor, "N E"],
    teacher_head: Head,
    targets_N: Int[Tensor, " N"],
    of_logps: Callable[[Tensor, Tensor], Tensor],
    teacher_temperature: float = 1.0,
) -> DivergenceDetail:
    """As `divergence`, and other statistics of the same logits. `targets_N`: the tokens at those positions.

    The teacher's distribution, and so its entropy, is the one at `teacher_temperature`; the learner's stays at 1.
    """
    size = min(head.num_tokens, teacher_head.num_tokens)

    def chunk(logits_nV: Tensor, teacher_nE: Tensor, targets_n: Tensor) -> Rows:
        learner_logp_nV = logits_nV.log_softmax(-1)
        with torch.no_grad():
            teacher_logp_nV = logits_of(teacher_nE, teacher_head.first(size), teacher_temperature).log_softmax(-1)
            teacher_p_nV = (teacher_logp_nV * LOG2_E).exp2_()  # exp2 takes a quarter of exp's time on a CPU
            teacher_entropy_n = -teacher_p_nV.mul_(teacher_logp_nV).sum(-1)
        target_logp_n = learner_logp_nV.gather(-1, targets_n[:, None])[:, 0]
        return of_logps(learner_logp_nV, teacher_logp_nV), target_logp_n, teacher_entropy_n

    return DivergenceDetail(*by_chunk(chunk, hidden_ND, head.first(size), teacher_hidden_NE, targets_N, with_mass=True))


def shared_divergence_in_detail(
    hidden_ND: Float[Tensor, "N D"],
    head: Head,
    teacher_hidden_NE: Float[Tensor, "N E"],
    teacher_head: Head,
    targets_N: Int[Tensor, " N"],
    of_logps: Callable[[Tensor, Tensor], Tensor],
    teacher_temperature: float = 1.0,
    *,
    learner_M: Int[Tensor, " M"],
    teacher_M: Int[Tensor, " M"],
    top_k: int,
) -> DivergenceDetail:
    """As divergence_in_detail, for two vocabularies of which learner_M and teacher_M are the same texts.

    Each distribution becomes top_k + 1 numbers: the learner's top_k likeliest shared tokens, chosen without gradient, and the
    rest as one bin. Merging bins never makes a KL or a JSD larger (data processing inequality).
    """

    def chunk(logits_nV: Tensor, teacher_nE: Tensor, targets_n: Tensor) -> Rows:
        learner_logp_nV = logits_nV.log_softmax(-1)
        with torch.no_grad():
            top_nK = learner_logp_nV[:, learner_M].topk(top_k, dim=-1).indices
            teacher_logp_nW = logits_of(teacher_nE, teacher_head, teacher_temperature).log_softmax(-1)
            teacher_bins = binned(teacher_logp_nW, teacher_M[top_nK])
            teacher_entropy_n = -(teacher_bins.exp() * teacher_bins).sum(-1)
        learner_bins = binned(learner_logp_nV, learner_M[top_nK])
        target_logp_n = learner_logp_nV.gather(-1, targets_n[:, None])[:, 0]
        return of_logps(learner_bins, teacher_bins), target_logp_n, teacher_entropy_n

    return DivergenceDetail(*by_chunk(chunk, hidden_ND, head, teacher_hidden_NE, targets_N, with_mass=True))


def top_divergence_in_detail(
    hidden_ND: Float[Tensor, "N D"],
    head: Head,
    top_ids_NK: Int[Tensor, "N K"],
    top_logp_NK: Float[Tensor, "N K"],
    targets_N: Int[Tensor, " N"],
    of_logps: Callable[[Tensor, Tensor], Tensor],
) -> DivergenceDetail:
    """As divergence_in_detail, for a teacher of which only the likeliest K tokens are known: both become K + 1 numbers.

    The last is all other tokens together. Merging them never makes a KL or a JSD larger (data processing inequality), nor the
    teacher's entropy.
    """

    def chunk(logits_nV: Tensor, ids_nK: Tensor, top_logp_nK: Tensor, targets_n: Tensor) -> Rows:
        learner_logp_nV = logits_nV.log_softmax(-1)
        with torch.no_grad():
            teacher_bins = with_rest(top_logp_nK.to(logits_nV.dtype))
            teacher_entropy_n = -(teacher_bins.exp() * teacher_bins).sum(-1)
        target_logp_n = learner_logp_nV.gather(-1, targets_n[:, None])[:, 0]
        return of_logps(binned(learner_logp_nV, ids_nK), teacher_bins), target_logp_n, teacher_entropy_n

    return DivergenceDetail(*by_chunk(chunk, hidden_ND, head, top_ids_NK, top_logp_NK, targets_N, with_mass=True))


def with_rest(logp_NK: Float[Tensor, "N K"]) -> Float[Tensor, "N J"]:
    """Log-probs of some tokens, and behind them of what is left of 1, [N, K + 1]; no less than SMALLEST_LOGP."""
    rest_N1 = (1 - logp_NK.exp().sum(-1, keepdim=True)).clamp_min(math.exp(SMALLEST_LOGP)).log()
    return torch.cat((logp_NK, rest_N1), dim=-1)


def binned(logp_NV: Float[Tensor, "N V"], ids_NK: Int[Tensor, "N K"]) -> Float[Tensor, "N J"]:
    """Log-probs of the chosen tokens, and behind them of all others together, [N, K + 1]; an empty rest has SMALLEST_LOGP."""
    rest_N = logp_NV.scatter(-1, ids_NK, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat((logp_NV.gather(-1, ids_NK), rest_N.clamp_min(SMALLEST_LOGP)), dim=-1)


def spread(values_N: Tensor, supervise_BT: Tensor) -> Tensor:
    """[B, T]: one value for each supervised position, row by row, at its place; 0 elsewhere."""
    return torch.zeros_like(supervise_BT, dtype=values_N.dtype).masked_scatter(supervise_BT, values_N)


def row_sums(values_N: Tensor, supervise_BT: Tensor) -> Tensor:
    """[B]: the sum of each row's values, given one for each supervised position, row by row."""
    return spread(values_N, supervise_BT).sum(1)


def before(supervise_BT: Tensor) -> Tensor:
    """Where the supervised tokens are predicted from: position t - 1 for a supervised token t."""
    return F.pad(supervise_BT[:, 1:], (0, 1), value=False)
