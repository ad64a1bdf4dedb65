"""Continuations: a policy writes on from a state, and its tokens are the target.

The ids are spliced behind the state's ids. A continuation that ran out of tokens gets no end token. The prefix itself is
never a target. With `accept`, only continuations whose whole response is accepted (a grader's yes) are targets.
Source: arXiv:2605.22731 section 2.5; DAgger, Ross et al. 2011.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from stateshape.core.method import Draw, SignalKind
from stateshape.core.seeds import seed_for
from stateshape.core.signals import Imitate
from stateshape.core.states import Origin, States, pack
from stateshape.policy.policy import Policy
from stateshape.sampling.settings import Sampler, SamplingSettings
from stateshape.sampling.stops import StopWatch, ended_across
from stateshape.signals.rendering import Items, own_rows

Accept = Callable[[str, str], bool]  # item id, text of the whole response


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherContinuation:
    teacher: Policy
    sampler: Sampler
    settings: SamplingSettings
    accept: Accept | None = None
    items: Items | None = None  # of chats, which the teacher reads in its own template
    kind: ClassVar[SignalKind] = "teacher continuation"

    def read(self, learner: Policy, states: States, draw: Draw) -> Imitate:
        return continued(
            self.teacher,
            Origin.TEACHER,
            states,
            draw,
            self.sampler,
            self.settings,
            self.accept,
            self.read_by(learner, states),
        )

    def read_by(self, learner: Policy, states: States) -> list[list[int]] | None:
        """The rows in the teacher's template, where that differs from the learner's."""
        nowhere = torch.zeros_like(states.ids_BT, dtype=torch.bool)
        nowhere[:, :1] = True
        own = own_rows(self.teacher, learner, states, nowhere, self.items) if self.items else None
        return None if own is None else [row.ids for row in own]


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnContinuation:
    """A control: what imitation of a continuation does when nothing is taught. base: the untrained learner's."""

    writer: Literal["learner", "base"]
    sampler: Sampler
    settings: SamplingSettings
    accept: Accept | None = None
    kind: ClassVar[SignalKind] = "own continuation"

    def read(self, learner: Policy, states: States, draw: Draw) -> Imitate:
        writer = learner if self.writer == "learner" else Policy(learner.weights, None)
        return continued(writer, Origin.LEARNER, states, draw, self.sampler, self.settings, self.accept)


def continued(
    writer: Policy,
    origin: Origin,
    states: States,
    draw: Draw,
    sampler: Sampler,
    settings: SamplingSettings,
    accept: Accept | None,
    as_read: list[list[int]] | None = None,
) -> Imitate:
    """Rows with the writer's tokens behind them, and these tokens supervised. as_read: the rows as the writer reads them."""
    rows = states.trajectories()
    sampled = sampler.sample(
        writer, as_read or [row.ids for row in rows], settings, seed=seed_for(draw.seed, "continuation", draw.step)
    )
    watch = StopWatch(writer, settings.stops)
    written = [ended_across(watch, row.response, part) for row, part in zip(rows, sampled, strict=True)]
    extended = [
        row.extended(part.ids, origin, logps=part.logps, finish=part.finish)
        for row, part in zip(rows, written, strict=True)
    ]
    joined = pack(extended, device=states.ids_BT.device)
    position_T = torch.arange(joined.ids_BT.shape[1], device=joined.ids_BT.device)
    is_new_BT = (position_T >= states.lengths_B[:, None]) & (position_T < joined.lengths_B[:, None])
    if accept is not None:
        texts = [writer.decode(row.response) for row in extended]
        is_right = [accept(row.item_id, text) for row, text in zip(extended, texts, strict=True)]
        is_new_BT &= torch.tensor(is_right, device=is_new_BT.device)[:, None]
    return Imitate(states=joined, supervise_BT=is_new_BT)
