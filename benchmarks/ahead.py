"""Steps in which the learner has no part, sampled together and each alone: a teacher writes prefixes and goes on from them.

16 prompts per step, texts of at most 96 (embedded) or 128 new tokens, as many steps per repeat as fill the sampler's rows; the
teacher is the base at temperature 1. Both sides are ours, so that the ratio says what it gains to sample ahead.
"""

from __future__ import annotations

from functools import partial

from benchmarks.common import (
    Measured,
    Options,
    Row,
    compared,
    interleave,
    load_policy,
    make_learner,
    optimiser_of,
    timed,
    train_task,
)
from benchmarks.trl_peer import LR
from stateshape.core.method import Draw, Method
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.policy.policy import Policy
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.signals.continuation import TeacherContinuation
from stateshape.states.cuts import Cut
from stateshape.states.sampled import TeacherStates
from stateshape.train.drawing import Ahead, steps_together
from stateshape.train.loop import draw_for
from stateshape.train.settings import TrainSettings
from stateshape.train.step import train_step

PROMPTS = 16


class Steps:
    """A repeat takes the steps of one batch, with states sampled ahead or not."""

    def __init__(self, base: Policy, model: str, *, name: str, is_ahead: bool, options: Options) -> None:
        task = train_task(model)
        items = {item.item_id: item for item in task.train}
        sampler = LocalSampler()
        settings = SamplingSettings(max_new_tokens=options.pick(96 if model == "embedded" else 128, 8))
        self.method = Method(
            states=TeacherStates(
                items=items, sampler=sampler, settings=settings, teacher=base, cut=Cut(low=0.1, high=0.7)
            ),
            signal=TeacherContinuation(teacher=base, sampler=sampler, settings=settings),
            loss=CrossEntropy(),
        )
        self.item_ids = tuple(items)
        self.learner = make_learner(base, name)
        self.optimiser = optimiser_of(self.learner, LR)
        self.settings = TrainSettings(batch_prompts=PROMPTS)
        self.size = steps_together(self.method, num_prompts=PROMPTS)
        self.ahead = Ahead(self.draw_at, num_prompts=PROMPTS) if is_ahead else None

    def draw_at(self, step: int) -> Draw:
        return draw_for(self.item_ids, batch=PROMPTS, step=step, seed=1, num_steps=10**6)

    def __call__(self, repeat: int) -> Measured:
        seconds, tokens, sampled = 0.0, 0, 0.0
        for step in range((repeat + 1) * self.size, (repeat + 2) * self.size):
            take = partial(
                train_step, self.method, self.learner, self.optimiser, self.draw_at(step), self.settings, (), self.ahead
            )
            taken, result = timed(take)
            seconds += taken
            tokens += result.num_supervised
            sampled += result.seconds["sampling"] + result.seconds["signal"]
        return Measured(seconds, tokens, {"sampling_and_signal_seconds": sampled})


def run(model: str, options: Options) -> list[Row]:
    base = load_policy(model)
    sides = {
        name: Steps(base, model, name=name, is_ahead=name == "ahead", options=options) for name in ("ahead", "alone")
    }
    measured = interleave(dict(sides), repeats=options.num_repeats())
    return [compared("ahead", model, measured["ahead"], measured["alone"], prompts=PROMPTS, steps=sides["ahead"].size)]
