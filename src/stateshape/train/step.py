"""One optimiser step of any method: where, what, how. The only place where a gradient is made.

    states = method.states.draw(...)       signal = method.signal.read(...)       loss sum / count over the whole batch

Knows no method by name. Gradients are the same for any chunking and any padding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from stateshape.core.method import Draw, Method
from stateshape.core.signals import Credit, Signal
from stateshape.core.states import States
from stateshape.policy.policy import Policy
from stateshape.train.settings import TrainSettings


class TrainingDiverged(RuntimeError):
    """The loss or the gradient is not a finite number."""


class StepResult(NamedTuple):
    signal: Signal
    loss: float | None  # None where nothing was supervised
    grad_norm: float | None
    num_supervised: int
    seconds: dict[str, float]
    stats: dict[str, float | None]


def train_step(
    method: Method, learner: Policy, optimiser: torch.optim.Optimizer, draw: Draw, settings: TrainSettings
) -> StepResult:
    """Draws states, reads the signal, accumulates the gradient by chunk, steps once."""
    clock = [time.perf_counter()]
    with torch.no_grad():
        states = method.states.draw(learner, draw)
        clock.append(time.perf_counter())
        signal = method.signal.read(learner, states, draw)
        clock.append(time.perf_counter())
    count = method.loss.count(signal)
    optimiser.zero_grad(set_to_none=True)
    total, sums = accumulate(method, learner, signal, count, settings.chunk_tokens)
    grad_norm = None
    if count > 0:
        norm = torch.nn.utils.clip_grad_norm_(learner.parameters(), settings.max_grad_norm)
        grad_norm = float(norm)
        check_finite(total, grad_norm, draw)
        optimiser.step()
    clock.append(time.perf_counter())
    return StepResult(
        signal=signal,
        loss=total if count > 0 else None,
        grad_norm=grad_norm,
        num_supervised=int(signal.supervise_BT.sum()),
        seconds={name: b - a for name, a, b in zip(("sampling", "signal", "training"), clock, clock[1:])},
        stats=sums | reward_stats(signal),
    )


def accumulate(
    method: Method, learner: Policy, signal: Signal, count: float, chunk_tokens: int
) -> tuple[float, dict[str, float | None]]:
    """Adds the whole batch's gradient chunk by chunk. Returns loss and logged sums, both over the batch's count."""
    if count == 0:
        return 0.0, {}
    total = 0.0
    sums: dict[str, float | None] = {}
    for index in chunks(signal.states, chunk_tokens):
        part = signal.rows(index)
        if not bool(part.supervise_BT.any()):
            continue
        value = method.loss.total(learner, part)
        (value.total / count).backward()
        total += float(value.total.detach()) / count
        for name, sum_ in value.sums.items():
            sums[name] = (sums.get(name) or 0.0) + float(sum_) / count
    return total, sums


def chunks(states: States, chunk_tokens: int) -> Iterator[Tensor]:
    """Row indices by similar length, at most `chunk_tokens` padded tokens each (a longer row stands alone)."""
    order = torch.argsort(states.lengths_B, stable=True).tolist()
    lengths = states.lengths_B.tolist()
    chunk: list[int] = []
    for b in order:
        if chunk and (len(chunk) + 1) * lengths[b] > chunk_tokens:
            yield torch.tensor(chunk, device=states.ids_BT.device)
            chunk = []
        chunk.append(b)
    yield torch.tensor(chunk, device=states.ids_BT.device)


def check_finite(loss: float, grad_norm: float, draw: Draw) -> None:
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    shown = ", ".join(draw.item_ids[:8]) + (", ..." if len(draw.item_ids) > 8 else "")
    raise TrainingDiverged(
        f"step {draw.step}: loss {loss}, gradient norm {grad_norm}; batch: {shown}; try a lower lr, a longer warm-up "
        "or float32; the last checkpoint is kept"
    )


def reward_stats(signal: Signal) -> dict[str, float | None]:
    """What explains a policy-gradient loss near 0: the reward, and how many groups had nothing to tell apart."""
    if not isinstance(signal, Credit):
        return {}
    known_B = ~torch.isnan(signal.reward_B)
    groups = signal.states.group_B.unique()
    flat = sum(float((signal.advantage_BT[signal.states.group_B == group, 0] == 0).all()) for group in groups)
    return {
        "reward": float(signal.reward_B[known_B].mean()) if bool(known_B.any()) else None,
        "share_zero_variance_groups": flat / max(len(groups), 1),
        "share_rewards_missing": 1 - float(known_B.float().mean()),
    }
