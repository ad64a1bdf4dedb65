"""What the untrained base writes on the compared prompts, and its own hidden states there: made once, for any number of runs.

New-task prompts are the task's held-out ones; retention prompts are questions of other tasks. Knows no learner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stateshape.core.seeds import seed_for
from stateshape.locality.settings import LocalitySettings
from stateshape.locality.states import Places, places, thinned, written
from stateshape.policy.policy import Policy
from stateshape.sampling.settings import Completion, Sampler, SamplingSettings

KINDS = ("new task", "retention")


class Written(NamedTuple):
    """What a policy wrote on each prompt, and the states that are read of it."""

    prompts: list[list[int]]
    completions: list[Completion]
    states: Places


class BaseStates(NamedTuple):
    states: Places
    hidden_ND: Tensor  # the base's, at these states


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The prompts and the base that every probe of every run compares with. `stops`: the task's stop texts."""

    base: Policy
    new_task: Sequence[Sequence[int]]
    retention: Sequence[Sequence[int]]
    sampler: Sampler
    stops: tuple[str, ...] = ()
    settings: LocalitySettings
    seed: int

    def write(self, policy: Policy, purpose: str, *, is_retention: bool, seed: int) -> Written:
        """One sample per prompt at temperature 1."""
        prompts = [list(ids) for ids in (self.retention if is_retention else self.new_task)[: self.settings.prompts]]
        completions = self.sampler.sample(policy, prompts, self.sampling(is_retention), seed=seed_for(seed, purpose))
        return self.rollouts(prompts, completions, seed=seed_for(seed, f"{purpose} states"))

    def sampling(self, is_retention: bool) -> SamplingSettings:
        longest = self.settings.retention_tokens if is_retention else self.settings.max_new_tokens
        return SamplingSettings(max_new_tokens=longest, stops=self.stops)

    def rollouts(self, prompts: list[list[int]], completions: list[Completion], *, seed: int) -> Written:
        rows, at = written(prompts, [completion.ids for completion in completions])
        chosen = thinned(at, self.settings.positions, np.random.default_rng(seed))
        return Written(prompts, completions, places(rows, chosen))

    @cached_property
    def by_base(self) -> dict[str, BaseStates]:
        """The base's own states: "new task", "retention"."""
        own_states = [
            self.write(self.base, f"base {name}", is_retention=name == "retention", seed=self.seed) for name in KINDS
        ]
        hidden = hidden_at(self.base, [rollouts.states for rollouts in own_states])
        return {name: BaseStates(r.states, h_ND) for name, r, h_ND in zip(KINDS, own_states, hidden)}


@torch.no_grad()
def hidden_at(policy: Policy, sets: Sequence[Places]) -> list[Tensor]:
    """Last hidden states [N, D] of each set, from one pass: what rows share at their beginning is computed once."""
    rows = [row for one in sets for row in one.rows]
    at = [where for one in sets for where in one.at]
    return list(policy.hidden_at(rows, at).split([len(one) for one in sets]))
