"""Whether a server's log-probs are those of our own pass, on a few sampled rows; else the run must not go on.

For tokens y of one server and one adapter, with x = own log-prob with the adapter, b = without it, s = the server's:

    |s - x|                         its median must be within the tolerance of the dtype
    share = (s - b)(x - b) / (x - b)^2, summed over tokens      1: the adapter is applied; 0: the base answers

The share is least squares for s = b + share (x - b). Where its standard error is below MOST_ERROR it decides, so that an
adapter that was loaded and not applied is found, though it changes less than the tolerance. Knows no server's address.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stateshape.core.files import BadInput
from stateshape.core.tensors import token_logp
from stateshape.policy.policy import Policy
from stateshape.sampling.settings import Completion

# Medians measured with vLLM 0.32 on a CPU: 1e-6 in fp32. bf16 rounds logits of 20 by 0.06; sums differ in their order.
TOLERANCE_NATS = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 2e-2}
ROUNDING = 4.0  # units of a dtype's last place: below it a difference says nothing
MOST_ERROR = 1 / 8  # of the share: 0 and 1 are then eight standard errors apart
TOKENS = 64  # of a server and an adapter are rescored, about


class Row(NamedTuple):
    """A sampled row, as the server gave it."""

    prompt: Sequence[int]
    completion: Completion


class Compared(NamedTuple):
    """mean_ratio: of p / p_served. share: None where it can't be told, as of a zero adapter."""

    num_tokens: int
    median_nats: float
    mean_ratio: float
    share: float | None


def first_tokens(rows: Sequence[Row]) -> list[Row]:
    """The first rows, cut where they hold TOKENS tokens together."""
    chosen, room = [], TOKENS
    for row in rows:
        ids, logps, finish = row.completion
        chosen.append(Row(row.prompt, Completion(ids[:room], logps[:room], finish)))
        room -= len(ids)
        if room <= 0:
            break
    return chosen


@torch.no_grad()
def own_logps(policy: Policy, rows: Sequence[Row], temperature: float) -> Tensor:
    """fp64 [N]: log-probs of the rows' tokens by our own pass, in nats at the temperature (at 1 where greedy)."""
    whole = [[*row.prompt, *row.completion.ids[:-1]] for row in rows]
    places = [range(len(row.prompt) - 1, len(ids)) for row, ids in zip(rows, whole, strict=True)]
    hidden_ND = policy.hidden_at(whole, places)
    target_N = torch.tensor([token for row in rows for token in row.completion.ids], device=policy.device)
    return token_logp(hidden_ND, policy.head, target_N, temperature or 1.0).double().cpu()


def compare(policy: Policy, rows: Sequence[Row], *, temperature: float, where: str) -> Compared:
    """Raises BadInput beyond the tolerance. where: the server and the adapter, in words."""
    own_N = own_logps(policy, rows, temperature)
    served_N = torch.tensor([logp for row in rows for logp in row.completion.logps], dtype=torch.float64)
    tolerance = TOLERANCE_NATS[policy.weights.dtype]
    median = float((own_N - served_N).abs().median())
    share = None
    if policy.adapter is not None:
        base_N = own_logps(Policy(policy.weights, None), rows, temperature)
        share = share_of_adapter(
            own_N - base_N, served_N - base_N, rounding=ROUNDING * torch.finfo(policy.weights.dtype).eps
        )
    if share is not None and share < 1 / 2:
        raise BadInput(
            f"servers: {where} answers as the base alone does (share of the adapter {share:.2f} on {len(own_N)} tokens); "
            "expected 1: the adapter is loaded and not applied; check the server's --enable-lora and its log, then run the "
            "same command again"
        )
    if not median <= tolerance:
        raise BadInput(
            f"servers: {where} gives log-probs that differ from our own pass by {median:.2g} nats (median of {len(own_N)} "
            f"tokens); expected at most {tolerance:g}; {reason(policy, rows, served_N, temperature, tolerance)}"
        )
    ratio = float((own_N - served_N).exp().mean())
    return Compared(len(own_N), median, ratio, share)


def share_of_adapter(own_N: Tensor, served_N: Tensor, *, rounding: float) -> float | None:
    """Least-squares share of `own_N` in `served_N`, both minus the base's; None where its standard error is too large."""
    size = float(own_N.square().sum())
    if size == 0 or len(own_N) < 2:
        return None
    share = float((own_N * served_N).sum()) / size
    spread = math.sqrt(float((served_N - share * own_N).square().sum()) / (len(own_N) - 1))
    return share if max(spread, rounding) / math.sqrt(size) < MOST_ERROR else None


def reason(policy: Policy, rows: Sequence[Row], served_N: Tensor, temperature: float, tolerance: float) -> str:
    """What to look at."""
    if temperature not in (0.0, 1.0):
        plain_N = own_logps(policy, rows, 1.0)
        if statistics.median((plain_N - served_N).abs().tolist()) <= tolerance:
            return "they are those of temperature 1: start the server with --logprobs-mode processed_logprobs"
    dtype = str(policy.weights.dtype).removeprefix("torch.")
    return f"is it another model, or another dtype than {dtype}? stateshape serve MODEL prints the command"
