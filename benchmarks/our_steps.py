"""Our side of every training benchmark: `train_step` on a list of draws, with the settings a user gets by default."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.common import Measured, device_peak, make_learner, optimiser_of, start_device_peak, timed
from benchmarks.trl_peer import LR
from stateshape.core.method import Draw, Method
from stateshape.policy.policy import Policy
from stateshape.train.settings import TrainSettings
from stateshape.train.step import StepResult, train_step

PHASES = ("sampling", "signal", "training")


def peak_of(result: StepResult) -> float:
    """The most memory that any phase of a step held, in 10^9 bytes."""
    return max(cost.peak_memory_gb or 0.0 for cost in result.costs.values())


class OurSteps:
    """One adapter, one optimiser; a repeat takes the steps that `draws` names for it."""

    def __init__(
        self, base: Policy, build: Callable[[], Method], draws: Callable[[int], list[Draw]], settings: TrainSettings
    ) -> None:
        self.draws, self.settings = draws, settings
        self.learner = make_learner(base)
        self.method = build()
        self.optimiser = optimiser_of(self.learner, LR)
        self.peak_gb = 0.0  # the largest of the last repeat's phases, each of which sets the mark back when it begins

    def __call__(self, repeat: int) -> Measured:
        start_device_peak()
        self.peak_gb = 0.0
        total, tokens, phases = 0.0, 0, dict.fromkeys(PHASES, 0.0)
        for draw in self.draws(repeat):
            step = partial(train_step, self.method, self.learner, self.optimiser, draw, self.settings)
            seconds, result = timed(step)
            total += seconds
            tokens += result.num_supervised
            self.peak_gb = max(self.peak_gb, peak_of(result))
            phases = {name: value + result.seconds.get(name, 0.0) for name, value in phases.items()}
        extra = {f"{name}_seconds": value for name, value in phases.items()} | device_peak(self.peak_gb)
        return Measured(total, tokens, extra)
