"""Where a rollout is cut so that another policy can speak there. Knows lengths and a random source, no text."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol


class PrefixCut(Protocol):
    def keep(self, num_tokens: int, rng: random.Random) -> int:
        """How many of a response's tokens stay: 0 (the prompt alone) to num_tokens."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class UniformCut:
    """A uniformly random share of the response, so that supervision lands at every depth."""

    low: float = 0.0
    """Smallest share of the response that is kept."""
    high: float = 0.9
    """Largest share of the response that is kept."""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"cut: got low {self.low}, high {self.high}; expected 0 <= low <= high <= 1")

    def keep(self, num_tokens: int, rng: random.Random) -> int:
        share = rng.uniform(self.low, self.high)
        return min(int(share * num_tokens), max(num_tokens - 1, 0))


@dataclass(frozen=True, kw_only=True, slots=True)
class OneState:
    """One state of the rollout, uniformly drawn: the row is kept up to the token that was written there."""

    def keep(self, num_tokens: int, rng: random.Random) -> int:
        return rng.randint(1, num_tokens)
