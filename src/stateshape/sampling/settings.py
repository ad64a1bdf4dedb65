"""What a sampler is asked for and what it gives back: token ids in, token ids out. Knows no engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

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


class Completion(NamedTuple):
    """`logps`: nats at the sampling temperature (at 1 where greedy). ids hold the ending token, if there was one."""

    ids: list[int]
    logps: list[float]
    finish: Finish


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
        """num_samples completions a prompt, all of prompt 0's first."""
        ...
