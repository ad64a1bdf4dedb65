"""How often and how closely a run is probed. Loads nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stateshape.core.files import BadInput
from stateshape.core.limits import check_most

SHARE = 0.1  # of the tokens that a run puts through its models, for probes
MOST_PROBES = 9  # the first, the last, and enough between them to show a trend


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalitySettings:
    """Size of a probe. The first and the last step are always probed."""

    every: int | None = None
    """Steps between probes. Default: 9 probes per run, or fewer, so that they process less than a tenth of the run's
    tokens."""
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


def interval(*, num_steps: int, step_tokens: int, probe_tokens: int) -> int:
    """Steps between probes that keep them within their share, from what the first step and its probe computed.

    Tokens, not seconds: a run that is resumed or repeated is probed at the same steps. Two probes are always made.
    """
    affordable = int(SHARE * num_steps * step_tokens / max(probe_tokens, 1))
    num_probes = min(max(affordable, 2), MOST_PROBES)
    return max(1, math.ceil((num_steps - 1) / (num_probes - 1)))
