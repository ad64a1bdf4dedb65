"""Which operators of the tensor library time goes to, inside a phase: for --profile.

A step is run once more, without its update, so that no number of the run itself is taken while it is watched, which slows
it: read shares, not seconds. On a CPU every operator is timed as it is called, and nothing is kept of a call; on a GPU, where
calls return at once, torch's profiler times the kernels. Does not know what the operators are for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from stateshape.core.method import Combination, Draw, Method, terms_of
from stateshape.core.records import OperatorCost
from stateshape.policy.policy import Policy
from stateshape.train.settings import TrainSettings
from stateshape.train.step import accumulate, chunk_tokens, draw_states, read_signals

T = TypeVar("T")
SHOWN = 20  # operators of a phase that are kept: the rest is small


class OperatorClock(TorchDispatchMode):
    """Calls and seconds of every operator that reaches a kernel, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}
        self.seconds: dict[str, float] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        began = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        spent = time.perf_counter() - began
        name = str(func.overloadpacket)
        self.calls[name] = self.calls.get(name, 0) + 1
        self.seconds[name] = self.seconds.get(name, 0.0) + spent
        return result


def watched(work: Callable[[], T], device: torch.device) -> tuple[T, list[OperatorCost]]:
    """What the work returns, and the operators it spent most time in."""
    if device.type == "cuda":
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler writes its own steps to stderr
        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
            result = work()
            torch.cuda.synchronize(device)
        events: list[Any] = list(profiler.key_averages())
        return result, ranked([(e.key, e.count, e.self_device_time_total / 1e6) for e in events])
    with OperatorClock() as clock:
        result = work()
    return result, ranked([(name, calls, clock.seconds[name]) for name, calls in clock.calls.items()])


def ranked(timings: list[tuple[str, int, float]]) -> list[OperatorCost]:
    """The most expensive of (operator, calls, seconds) first."""
    total = sum(seconds for _, _, seconds in timings)
    return [
        OperatorCost(operator=name, calls=calls, self_seconds=seconds, share=seconds / total)
        for name, calls, seconds in sorted(timings, key=lambda one: -one[2])[:SHOWN]
        if seconds > 0
    ]


def step_operators(
    method: Method | Combination, learner: Policy, draw: Draw, settings: TrainSettings
) -> dict[str, list[OperatorCost]]:
    """Operators of a step, by phase. Learner and gradients are left as they were before it: nothing, and no update."""
    terms = terms_of(method)
    by_phase: dict[str, list[OperatorCost]] = {}
    drawn, by_phase["sampling"] = watched(lambda: draw_states(terms, learner, draw), learner.device)
    signals, by_phase["signal"] = watched(lambda: read_signals(terms, learner, drawn), learner.device)
    tokens = chunk_tokens(learner, settings)
    _, by_phase["training"] = watched(
        lambda: [accumulate(terms[name], learner, signal, tokens) for name, signal in signals.items()], learner.device
    )
    for parameter in learner.parameters():
        parameter.grad = None
    return by_phase
