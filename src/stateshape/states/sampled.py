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
from stateshape.sampling.settings import Completion, Sampler, SamplingSettings
from stateshape.states.cuts import Items

Prefixes = Literal["refreshed", "frozen", "shuffled"]


class PrefixCut(Protocol):
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
        writer = Policy(learner.weights, None) if self.prefixes == "frozen" else learner
        rows = sampled(writer, Origin.LEARNER, self.items, self.sampler, self.settings, draw)
        if self.cut is not None:
            rows = self.cut.applied(writer, rows, self.items, random.Random(seed_for(draw.seed, "cut", draw.step)))
        if self.prefixes == "shuffled":
            rows = exchanged(rows)
        return pack(rows, device=learner.device)

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
        rows = sampled(self.teacher, Origin.TEACHER, self.items, self.sampler, self.settings, draw)
        if self.cut is not None:
            rng = random.Random(seed_for(draw.seed, "cut", draw.step))
            rows = self.cut.applied(self.teacher, rows, self.items, rng)
        return pack([as_read_by(learner, row, self.items, writer=self.teacher) for row in rows], device=learner.device)


def sampled(
    writer: Policy, origin: Origin, items: Items, sampler: Sampler, settings: SamplingSettings, draw: Draw
) -> list[Trajectory]:
    """num_samples rows per prompt of the draw, in one group each."""
    behind = settings.max_new_tokens + 1  # another policy may continue at the last token's position
    prompts = [writer.fitted_prompt(items[item_id].asked, behind=behind) for item_id in draw.item_ids]
    purpose = "rollouts" if origin == Origin.LEARNER else "teacher rollouts"
    completions = sampler.sample(writer, prompts, settings, seed=seed_for(draw.seed, purpose, draw.step))
    return [
        rollout(draw.item_ids[group], prompts[group], completion, group, origin=origin)
        for group, completion in ((k // settings.num_samples, one) for k, one in enumerate(completions))
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
