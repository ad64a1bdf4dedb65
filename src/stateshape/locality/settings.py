"""How often and how closely a run is probed. Loads nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from stateshape.core.files import LATER, BadInput
from stateshape.core.limits import check_most


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalitySettings:
    """Size and number of a run's probes."""

    every: int | None = None
    """Steps between probes, the first and the last step included, whatever they cost. Default: see share."""
    share: float = field(default=0.1, metadata=LATER)
    """Most of a run's tokens that probes may put through the models: 9 probes or fewer, none in a run that is too short;
    0: no probes. Supervision is counted all the same."""
    prompts: int = 6
    """Number of held-out prompts, of retention prompts and of training rows per probe."""
    max_new_tokens: int = 96
    """Longest fresh rollout, and longest continuation of a training state, in tokens."""
    retention_tokens: int = 8
    """Tokens written after a retention prompt, where answers are short."""
    positions: int = 512
    """Most states per mean over states, chosen at random."""

    def __post_init__(self) -> None:
        for name in ("every", "prompts", "max_new_tokens", "retention_tokens", "positions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"locality.{name}: got {value}; expected 1 or more")
            check_most("locality.", **{name: value})
        if not 0 <= self.share < math.inf:
            raise BadInput(f"locality.share: got {self.share}; expected a number from 0 on, such as 0.1")
