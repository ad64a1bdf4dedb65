"""One optimiser step of any method: where, what, how. The only place where a gradient is made.

    states = method.states.draw(...)       signal = method.signal.read(...)       loss sum / count over the whole batch

Knows no method by name. Gradients are the same for any chunking and any padding.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from stateshape.core.method import Draw, Method
from stateshape.core.records import PhaseCost
from stateshape.core.signals import Credit, Signal
from stateshape.core.states import chunks
from stateshape.policy.flops import activation_bytes
from stateshape.policy.policy import Policy
from stateshape.train.settings import TrainSettings

MIN_CHUNK_TOKENS = 512  # products of fewer rows leave a machine idle
ACTIVATION_BYTES = {"cpu": 2**26, "cuda": 2**34}  # of a chunk: a CPU is fastest where most of it stays in its cache


class TrainingDiverged(RuntimeError):
    """The loss or the gradient is not a finite number."""


class StepResult(NamedTuple):
    signal: Signal
    loss: float | None  # None where nothing was supervised
    grad_norm: float | None
    num_supervised: int
    costs: dict[str, PhaseCost]  # of sampling, signal, training
    stats: dict[str, float | None]

    @property
    def seconds(self) -> dict[str, float]:
        return {phase: cost.seconds for phase, cost in self.costs.items()}


def train_step(
    method: Method, learner: Policy, optimiser: torch.optim.Optimizer, draw: Draw, settings: TrainSettings
) -> StepResult:
    """Draws states, reads the signal, accumulates the gradient by chunk, steps once."""
    costs: dict[str, PhaseCost] = {}
    signal = read_signal(method, learner, draw, costs)
    grad_norm = None
    with learner.weights.meter.phase("training", costs):
        count = method.loss.count(signal)
        optimiser.zero_grad(set_to_none=True)
        total, sums = accumulate(method, learner, signal, count, chunk_tokens(learner, settings))
        if count > 0:
            norm = torch.nn.utils.clip_grad_norm_(learner.parameters(), settings.max_grad_norm)
            grad_norm = float(norm)
            check_finite(total, grad_norm, draw)
            optimiser.step()
    return StepResult(
        signal=signal,
        loss=total if count > 0 else None,
        grad_norm=grad_norm,
        num_supervised=int(signal.supervise_BT.sum()),
        costs=costs,
        stats=sums | reward_stats(signal),
    )


@torch.no_grad()
def read_signal(method: Method, learner: Policy, draw: Draw, costs: dict[str, PhaseCost]) -> Signal:
    """Where, and what: the two phases without gradients."""
    meter = learner.weights.meter
    with meter.phase("sampling", costs):
        states = method.states.draw(learner, draw)
    with meter.phase("signal", costs):
        return method.signal.read(learner, states, draw)


def chunk_tokens(learner: Policy, settings: TrainSettings) -> int:
    """As set, or as many as their activations allow."""
    budget = ACTIVATION_BYTES.get(learner.device.type, ACTIVATION_BYTES["cpu"])
    return settings.chunk_tokens or max(MIN_CHUNK_TOKENS, budget // activation_bytes(learner.weights))


def accumulate(
    method: Method, learner: Policy, signal: Signal, count: float, tokens: int
) -> tuple[float, dict[str, float | None]]:
    """Adds the whole batch's gradient chunk by chunk. Returns loss and logged sums, both over the batch's count."""
    if count == 0:
        return 0.0, {}
    total = 0.0
    sums: dict[str, float | None] = {}
    for index in chunks(signal.states, tokens):
        part = signal.rows(index)
        if not bool(part.supervise_BT.any()):
            continue
        value = method.loss.total(learner, part)
        (value.total / count).backward()
        total += float(value.total.detach()) / count
        for name, sum_ in value.sums.items():
            sums[name] = (sums.get(name) or 0.0) + float(sum_) / count
    return total, sums


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
