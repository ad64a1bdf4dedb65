"""Sampled states: text written by the current learner or a frozen policy, whole or cut; log-probs recorded on the way."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol

from stateshape.core.files import BadInput
from stateshape.core.method import Draw, StateKind
from stateshape.core.seeds import seed_for
from stateshape.core.states import Origin, States, Trajectory, pack
from stateshape.policy.policy import Policy
from stateshape.sampling.settings import Call, Completion, Sampler, SamplingSettings, sample_several
from stateshape.states.cuts import Items

Prefixes = Literal["refreshed", "frozen", "shuffled"]


class PrefixCut(Protocol):
    @property
    def reads_policy(self) -> bool: ...
    def applied(
        self, policy: Policy, rows: Sequence[Trajectory], items: Items, rng: random.Random
    ) -> list[Trajectory]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerStates:
    """Learner states: samples at its own temperature. With `cut`, a row ends where another policy takes over.

    refreshed: the learner of this step writes. frozen: the untrained learner does, at every step. shuffled:
    the learner writes, and each prompt gets the response of another prompt of the step: a control.
    """

    items: Items
    sampler: Sampler
    settings: SamplingSettings
    cut: PrefixCut | None = None
    prefixes: Prefixes = "refreshed"
    kind: ClassVar[StateKind] = "learner"

    def draw(self, learner: Policy, draw: Draw) -> States:
        return self.draw_several(learner, [draw])[0]

    def steps_ahead(self, num_prompts: int) -> int:
        """See DrawnAhead."""
        return self.settings.steps_together(num_prompts) if self.prefixes == "frozen" else 0

    def draw_several(self, learner: Policy, draws: Sequence[Draw]) -> list[States]:
        writer = Policy(learner.weights, None) if self.prefixes == "frozen" else learner
        written = sampled_several(writer, Origin.LEARNER, self.items, self.sampler, self.settings, draws)
        return [self._states(learner, writer, rows, draw) for rows, draw in zip(written, draws, strict=True)]

    def _states(self, learner: Policy, writer: Policy, rows: list[Trajectory], draw: Draw) -> States:
        rows = cut_rows(self.cut, writer, rows, self.items, draw)
        return pack(exchanged(rows) if self.prefixes == "shuffled" else rows, device=learner.device)

    def policy_version(self, draw: Draw) -> int:
        """Completed updates of the learner that writes this step's states."""
        return 0 if self.prefixes == "frozen" else draw.step


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherStates:
    """Teacher states: samples from a frozen policy. Off-policy for the learner."""

    items: Items
    sampler: Sampler
    settings: SamplingSettings
    teacher: Policy
    cut: PrefixCut | None = None
    kind: ClassVar[StateKind] = "teacher"

    def draw(self, learner: Policy, draw: Draw) -> States:
        return self.draw_several(learner, [draw])[0]

    def steps_ahead(self, num_prompts: int) -> int:
        """See DrawnAhead."""
        return self.settings.steps_together(num_prompts)

    def draw_several(self, learner: Policy, draws: Sequence[Draw]) -> list[States]:
        written = sampled_several(self.teacher, Origin.TEACHER, self.items, self.sampler, self.settings, draws)
        return [self._states(learner, rows, draw) for rows, draw in zip(written, draws, strict=True)]

    def _states(self, learner: Policy, rows: list[Trajectory], draw: Draw) -> States:
        rows = cut_rows(self.cut, self.teacher, rows, self.items, draw)
        return pack([as_read_by(learner, row, self.items, writer=self.teacher) for row in rows], device=learner.device)


def cut_rows(
    cut: PrefixCut | None, policy: Policy, rows: list[Trajectory], items: Items, draw: Draw
) -> list[Trajectory]:
    """The rows of a step up to their cuts."""
    if cut is None:
        return rows
    return cut.applied(policy, rows, items, random.Random(seed_for(draw.seed, "cut", draw.step)))


def sampled(
    writer: Policy, origin: Origin, items: Items, sampler: Sampler, settings: SamplingSettings, draw: Draw
) -> list[Trajectory]:
    """num_samples rows per prompt of the draw, in one group each."""
    return sampled_several(writer, origin, items, sampler, settings, [draw])[0]


def sampled_several(
    writer: Policy, origin: Origin, items: Items, sampler: Sampler, settings: SamplingSettings, draws: Sequence[Draw]
) -> list[list[Trajectory]]:
    """As `sampled`, for several steps at once."""
    behind = settings.max_new_tokens + 1  # another policy may continue at the last token's position
    purpose = "rollouts" if origin == Origin.LEARNER else "teacher rollouts"
    calls = [
        Call(
            prompts=[writer.fitted_prompt(items[item_id].asked, behind=behind) for item_id in draw.item_ids],
            seed=seed_for(draw.seed, purpose, draw.step),
        )
        for draw in draws
    ]
    written = sample_several(sampler, writer, calls, settings)
    return [
        [
            rollout(draw.item_ids[group], call.prompts[group], completion, group, origin=origin)
            for group, completion in ((k // settings.num_samples, one) for k, one in enumerate(completions))
        ]
        for draw, call, completions in zip(draws, calls, written, strict=True)
    ]


def as_read_by(policy: Policy, row: Trajectory, items: Items, *, writer: Policy) -> Trajectory:
    """A row of `writer`'s behind the prompt as `policy` reads it: of a chat, in its own template. Texts are the same
    for all."""
    item = items[row.item_id]
    if item.chat is None or policy.encode_prompt(item.chat) == writer.encode_prompt(item.chat):
        return row
    response = row.response
    prompt = policy.fitted_prompt(item.chat, behind=len(response) + 1)
    return replace(
        row,
        ids=[*prompt, *response],
        origins=[*([Origin.PROMPT] * len(prompt)), *row.origins[row.prompt_length :]],
        logps=[*([None] * len(prompt)), *row.logps[row.prompt_length :]],
    )


def rollout(
    item_id: str, prompt: list[int], completion: Completion, group: int, *, origin: Origin = Origin.LEARNER
) -> Trajectory:
    """A prompt and what was written after it."""
    bare = Trajectory(
        item_id=item_id,
        ids=prompt,
        origins=[Origin.PROMPT] * len(prompt),
        logps=[None] * len(prompt),
        finish="length",
        group=group,
    )
    return bare.extended(completion.ids, origin, logps=completion.logps, finish=completion.finish)


def exchanged(rows: Sequence[Trajectory]) -> list[Trajectory]:
    """Each row's prompt with the next row's response (the last row: the first's); the log-probs no longer apply."""
    swapped = []
    shift = sum(row.group == rows[0].group for row in rows)
    if shift == len(rows):
        raise BadInput(
            f"prefixes: got 'shuffled' and a step with one prompt ({rows[0].item_id}); expected two or more to exchange "
            "between; use a larger batch_prompts"
        )
    for row, other in zip(rows, [*rows[shift:], *rows[:shift]], strict=True):
        response = other.response
        prompt = row.cut(row.prompt_length)
        origins = other.origins[other.prompt_length :]
        swapped.append(
            Trajectory(
                item_id=row.item_id,
                ids=[*prompt.ids, *response],
                origins=[*prompt.origins, *origins],
                logps=[*prompt.logps, *([None] * len(response))],
                finish=other.finish,
                group=row.group,
            )
        )
    return swapped
