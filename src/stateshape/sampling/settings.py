"""Input and output of a sampler: token ids in, token ids out. Knows no engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from stateshape.core.files import BadInput
from stateshape.core.limits import check_most
from stateshape.policy.policy import Policy

Finish = Literal["eos", "stop", "length"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSettings:
    """Plain sampling from the model's own distribution: no top-k or top-p, which would change the state distribution."""

    max_new_tokens: int
    temperature: float = 1.0  # 0: greedy
    num_samples: int = 1  # per prompt
    stops: tuple[str, ...] = ()  # texts that end a row when they appear in its completion
    batch_rows: int = 256

    def __post_init__(self) -> None:
        check_sampling(max_new_tokens=self.max_new_tokens, num_samples=self.num_samples, temperature=self.temperature)
        if "" in self.stops:
            raise BadInput("stops: got an empty text, which every completion contains; expected texts that end a row")

    def steps_together(self, num_prompts: int) -> int:
        """How many steps of so many prompts fill the rows that are sampled at once."""
        return max(1, self.batch_rows // max(1, num_prompts * self.num_samples))


def check_sampling(**fields: float) -> None:
    """Temperatures are finite and not negative, counts at least 1. Raises BadInput by the names given."""
    for name, value in fields.items():
        if name.endswith("temperature") and not 0 <= value < math.inf:
            raise BadInput(f"{name}: got {value}; expected 0 (greedy) or more")
        if not name.endswith("temperature") and value < 1:
            raise BadInput(f"{name}: got {value}; expected 1 or more")
    check_most(**fields)


class Completion(NamedTuple):
    """`logps`: nats at the sampling temperature (at 1 where greedy). ids hold the ending token, if there was one."""

    ids: list[int]
    logps: list[float]
    finish: Finish


class Call(NamedTuple):
    """Prompts, and the seed of what is written behind them."""

    prompts: Sequence[list[int]]
    seed: int


@runtime_checkable
class Sampler(Protocol):
    def sample(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        *,
        seed: int,
        progress: Progress | None = None,
    ) -> list[Completion]:
        """num_samples completions per prompt, all of prompt 0's first."""
        ...


@runtime_checkable
class Batching(Protocol):
    """A sampler that runs the rows of several calls together."""

    def sample_calls(
        self, policy: Policy, calls: Sequence[Call], settings: SamplingSettings, progress: Progress | None = None
    ) -> list[Completion]:
        """All of call 0's first."""
        ...


def sample_several(
    sampler: Sampler, policy: Policy, calls: Sequence[Call], settings: SamplingSettings
) -> list[list[Completion]]:
    """What each of the calls gives alone, up to rounding; together where the sampler can."""
    if isinstance(sampler, Batching):
        rows = iter(sampler.sample_calls(policy, calls, settings))
        return [list(islice(rows, len(call.prompts) * settings.num_samples)) for call in calls]
    return [sampler.sample(policy, call.prompts, settings, seed=call.seed) for call in calls]
