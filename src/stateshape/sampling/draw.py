"""The next token of each row, by inverse CDF. Knows nothing of caches or rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 64  # entries of the vocabulary whose probabilities are summed first


def draw(logits_RV: Tensor, uniform_R: Tensor, *, greedy: bool) -> tuple[Tensor, Tensor]:
    """Tokens [R] and their log-probs [R] in nats. `logits_RV`: fp32, at the sampling temperature.

    A token is the first whose cumulative probability exceeds the row's uniform number (fp64, in [0, 1)): one number
    per row, so the draw does not depend on which rows share a batch. Sums run over blocks first and in fp64, so that
    the tail of a large vocabulary keeps its probability. Cost: two passes over [R, V], against 2 D FLOPs per entry in
    the head.
    """
    p_RV = logits_RV.softmax(-1)
    token_R = logits_RV.argmax(-1) if greedy else _inverse_cdf(p_RV, uniform_R)
    return token_R, p_RV.gather(-1, token_R[:, None])[:, 0].log()


def _inverse_cdf(p_RV: Tensor, uniform_R: Tensor) -> Tensor:
    vocabulary = p_RV.shape[1]
    p_RCB = F.pad(p_RV, (0, -vocabulary % BLOCK)).unflatten(1, (-1, BLOCK))
    upto_RC = p_RCB.sum(-1, dtype=torch.float64).cumsum(1)
    target_R1 = uniform_R[:, None] * upto_RC[:, -1:]
    block_R1 = torch.searchsorted(upto_RC, target_R1, right=True).clamp_max(upto_RC.shape[1] - 1)
    inside_RB = p_RCB.gather(1, block_R1[:, :, None].expand(-1, -1, BLOCK))[:, 0].double().cumsum(1)
    rest_R1 = target_R1 - (upto_RC.gather(1, block_R1) - inside_RB[:, -1:])
    below_R1 = torch.nextafter(inside_RB[:, -1:], torch.zeros_like(rest_R1))  # rounding must not lead out of the block
    place_R1 = torch.searchsorted(inside_RB, torch.minimum(rest_R1.clamp_min(0), below_R1), right=True)
    return (block_R1 * BLOCK + place_R1)[:, 0]
