"""Continuations: a policy writes on from a state, and its tokens are the target.

The ids are spliced behind the state's ids. A continuation that ran out of tokens gets no end token. The prefix itself is
never a target. With `accept`, only continuations whose whole response is accepted (a grader's yes) are targets.
Source: arXiv:2605.22731 section 2.5; DAgger, Ross et al. 2011.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import torch

from stateshape.core.method import Draw, SignalKind
from stateshape.core.ranks import current
from stateshape.core.seeds import seed_for
from stateshape.core.signals import Imitate
from stateshape.core.states import Origin, States, Trajectory, pack
from stateshape.policy.policy import Policy
from stateshape.sampling.settings import Call, Completion, Finish, Sampler, SamplingSettings, sample_several
from stateshape.sampling.stops import StopWatch, ended_across
from stateshape.signals.crossing import BROKEN, own_text, spliced, written_text
from stateshape.signals.rendering import Items, own_rows

Accept = Callable[[str, str], bool]  # item id, text of the whole response


class Said(NamedTuple):
    text: str
    finish: Finish


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherContinuation:
    teacher: Policy
    sampler: Sampler
    settings: SamplingSettings
    accept: Accept | None = None
    items: Items | None = None  # of chats, which the teacher reads in its own template
    kind: ClassVar[SignalKind] = "teacher continuation"

    def read(self, learner: Policy, states: States, draw: Draw) -> Imitate:
        return self.read_several(learner, [states], [draw])[0]

    def steps_ahead(self, num_prompts: int) -> int:
        """See ReadAhead."""
        return self.settings.steps_together(num_prompts)

    def read_several(self, learner: Policy, states: Sequence[States], draws: Sequence[Draw]) -> list[Imitate]:
        if not self.teacher.has_tokens_of(learner):
            return [
                continued_across(self.teacher, learner, one, draw, self.sampler, self.settings, self.accept)
                for one, draw in zip(states, draws, strict=True)
            ]
        as_read = [self.read_by(learner, one) for one in states]
        return continued(self.teacher, Origin.TEACHER, states, draws, self.sampler, self.settings, self.accept, as_read)

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
        return self.read_several(learner, [states], [draw])[0]

    def steps_ahead(self, num_prompts: int) -> int:
        """See ReadAhead."""
        return self.settings.steps_together(num_prompts) if self.writer == "base" else 0

    def read_several(self, learner: Policy, states: Sequence[States], draws: Sequence[Draw]) -> list[Imitate]:
        writer = learner if self.writer == "learner" else Policy(learner.weights, None)
        return continued(writer, Origin.LEARNER, states, draws, self.sampler, self.settings, self.accept)


def continued(
    writer: Policy,
    origin: Origin,
    states: Sequence[States],
    draws: Sequence[Draw],
    sampler: Sampler,
    settings: SamplingSettings,
    accept: Accept | None,
    as_read: Sequence[list[list[int]] | None] | None = None,
) -> list[Imitate]:
    """By step, rows with the writer's tokens behind them, and these tokens supervised.

    as_read: each step's rows as the writer reads them, where they differ.
    """
    rows = [one.trajectories() for one in states]
    calls = [
        Call(prompts=other or [row.ids for row in one], seed=seed_for(draw.seed, "continuation", draw.step))
        for one, other, draw in zip(rows, as_read or [None] * len(rows), draws, strict=True)
    ]
    parts = sample_several(sampler, writer, calls, settings)
    watch = StopWatch(writer, settings.stops)
    return [
        imitating(writer, one, extended_by(own, written, origin, watch), accept)
        for one, own, written in zip(states, rows, parts, strict=True)
    ]


def extended_by(
    rows: Sequence[Trajectory], parts: Sequence[Completion], origin: Origin, watch: StopWatch
) -> list[Trajectory]:
    """The rows with what was written behind each, up to a stop text that may begin in the row."""
    ended = [ended_across(watch, row.response, part) for row, part in zip(rows, parts, strict=True)]
    return [
        row.extended(part.ids, origin, logps=part.logps, finish=part.finish)
        for row, part in zip(rows, ended, strict=True)
    ]


def imitating(reader: Policy, states: States, extended: list[Trajectory], accept: Accept | None) -> Imitate:
    """What was written behind the states, supervised; of accepted responses only. reader: whose ids the rows are."""
    joined = pack(extended, device=states.ids_BT.device)
    position_T = torch.arange(joined.ids_BT.shape[1], device=joined.ids_BT.device)
    is_new_BT = (position_T >= states.lengths_B[:, None]) & (position_T < joined.lengths_B[:, None])
    if accept is not None:
        graded = partial(accepted, accept, reader, extended)
        is_right = current().shared([1.0] * len(extended), graded)
        is_new_BT &= torch.tensor(is_right, device=is_new_BT.device)[:, None]
    return Imitate(states=joined, supervise_BT=is_new_BT)


def accepted(accept: Accept, reader: Policy, rows: list[Trajectory], mine: list[int]) -> list[bool]:
    """Of the chosen rows."""
    return [accept(rows[b].item_id, reader.decode(rows[b].response)) for b in mine]


def continued_across(
    teacher: Policy,
    learner: Policy,
    states: States,
    draw: Draw,
    sampler: Sampler,
    settings: SamplingSettings,
    accept: Accept | None,
) -> Imitate:
    """As `continued`, by a teacher with another tokenizer: it reads the rows' text, and its text comes back as learner ids.

    A row is dropped (it stays, and nothing in it is supervised) where its text can't be had back from ids: an incomplete
    character or special tokens in the row, or a text that the learner's tokenizer does not give back. Logs share_dropped.
    """
    rows = states.trajectories()
    texts = {i: text for i, row in enumerate(rows) if (text := own_text(learner, row)) is not None}
    prompts = [teacher.fitted(teacher.encode_prompt(text), behind=settings.max_new_tokens) for text in texts.values()]
    sampled = sampler.sample(teacher, prompts, settings, seed=seed_for(draw.seed, "continuation", draw.step))
    extended, dropped = list(rows), set(range(len(rows))) - texts.keys()
    for (i, text), prompt, part in zip(texts.items(), prompts, sampled, strict=True):
        longer = behind(learner, rows[i], text, text_written(teacher, prompt, part), settings.stops)
        extended[i] = longer or rows[i]
        dropped |= set() if longer else {i}
    found = imitating(learner, states, extended, accept)
    return replace(found, logged={"share_dropped": len(dropped) / max(len(rows), 1)})


def text_written(teacher: Policy, prompt: list[int], part: Completion) -> Said | None:
    """The completion as text; a character that was cut off at the end is left out."""
    added = written_text(teacher, prompt, part.ids)
    if added is None:
        return None
    return Said(added.rstrip(BROKEN) if part.finish == "length" else added, part.finish)


def behind(learner: Policy, row: Trajectory, text: str, said: Said | None, stops: Sequence[str]) -> Trajectory | None:
    """The row with the text behind it as learner ids; None where that is not possible, or nothing was said."""
    if said is None:
        return None
    before = text[len(learner.decode(row.ids[: row.prompt_length])) :]
    said = said_until(before, said, stops)
    ids = spliced(learner, row, text, said.text)
    if ids is None:
        return None
    finish = said.finish
    if finish == "eos":
        ids = [*ids, *learner.eos_ids[:1]]
    room = None if learner.longest_row is None else max(0, learner.longest_row - len(row.ids))
    if room is not None and len(ids) > room:
        ids, finish = ids[:room], "length"
    return row.extended(ids, Origin.TEACHER, logps=[None] * len(ids), finish=finish) if ids else None


def said_until(before: str, said: Said, stops: Sequence[str]) -> Said:
    """Cut where it completes a stop text that began before it."""
    ends = [
        place + len(stop) - len(before)
        for stop in stops
        if 0 <= (place := (before + said.text).find(stop, max(0, len(before) - len(stop) + 1))) < len(before)
    ]
    return said if not ends else Said(said.text[: min(ends)], "stop")
