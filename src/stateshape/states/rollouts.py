"""Learner states: what the current learner writes, whole or cut. On-policy by construction, log-probs recorded."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Draw, StateKind
from stateshape.core.seeds import seed_for
from stateshape.core.states import Origin, States, Trajectory, pack
from stateshape.policy.policy import Policy
from stateshape.sampling.settings import Completion, Sampler, SamplingSettings
from stateshape.states.cuts import PrefixCut
from stateshape.tasks.items import GenerationItem


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollouts:
    """Samples from the learner at its own temperature. With `cut`, a row ends where another policy takes over."""

    items: Mapping[str, GenerationItem]
    sampler: Sampler
    settings: SamplingSettings
    cut: PrefixCut | None = None
    kind: ClassVar[StateKind] = "learner"

    def draw(self, learner: Policy, draw: Draw) -> States:
        prompts = [learner.encode_prompt(self.items[item_id].prompt) for item_id in draw.item_ids]
        completions = self.sampler.sample(
            learner, prompts, self.settings, seed=seed_for(draw.seed, "rollouts", draw.step)
        )
        rng = random.Random(seed_for(draw.seed, "cut", draw.step))
        copies = self.settings.num_samples
        rows = []
        for k, completion in enumerate(completions):
            group = k // copies
            row = rollout(draw.item_ids[group], prompts[group], completion, group)
            if self.cut is not None:
                row = row.cut(row.prompt_length + self.cut.keep(len(completion.ids), rng))
            rows.append(row)
        return pack(rows, device=learner.device)


def rollout(item_id: str, prompt: list[int], completion: Completion, group: int) -> Trajectory:
    """A prompt and what the learner wrote after it."""
    return Trajectory(
        item_id=item_id,
        ids=[*prompt, *completion.ids],
        origins=[*([Origin.PROMPT] * len(prompt)), *([Origin.LEARNER] * len(completion.ids))],
        logps=[*([None] * len(prompt)), *completion.logps],
        finish=completion.finish,
        group=group,
    )
