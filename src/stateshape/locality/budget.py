"""How many probes a run can afford, settled before the first one from what its first step computes.

In tokens through the models, not seconds, so that a run that is resumed or repeated is probed at the same steps. A supervised
row counts three times, forward and backward (about twice the forward pass). A probe is counted from its parts: probe.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from stateshape.core.signals import Signal
from stateshape.locality.compared import Compared

MOST_PROBES = 9  # the first, the last, and enough between them to show a trend
TRAINED = 3  # passes over a supervised row: one forward, and a backward of two


def step_work(signals: Iterable[Signal], *, read_tokens: int) -> int:
    """Tokens of a step. read_tokens: those that sampling and reading the signals put through the models."""
    states = {id(signal.states): signal.states for signal in signals}
    return read_tokens + TRAINED * sum(int(one.lengths_B.sum()) for one in states.values())


def probe_work(compared: Compared, signals: Iterable[Signal], *, is_graded: bool) -> int:
    """Tokens of one probe: what it writes, and the passes of learner and base over it, over training rows and over the base's
    own texts."""
    settings = compared.settings
    training = _mean(int(length) for signal in signals for length in signal.states.lengths_B.tolist())
    own = _mean(len(ids) for ids in compared.new_task) + settings.max_new_tokens
    neutral = _mean(len(ids) for ids in compared.retention) + settings.retention_tokens
    continued = training + settings.max_new_tokens if is_graded else 0.0
    # written once; read by the learner before and after the update, and by the base; the base's by the learner
    return round(settings.prompts * (continued + 2 * training + 5 * own + 5 * neutral))


def interval(*, num_steps: int, share: float, step_work: int, probe_work: int) -> int:
    """Steps between probes that keep them within their share of the run. 0: none is made; num_steps: only at the last step."""
    affordable = min(int(share * num_steps * step_work / max(probe_work, 1)), MOST_PROBES)
    if affordable < 2:
        return num_steps if affordable else 0
    return max(1, math.ceil((num_steps - 1) / (affordable - 1)))


def is_probed(step: int, *, num_steps: int, every: int) -> bool:
    """The last step, and from the first on every `every`-th; every: see interval."""
    if every == 0:
        return False
    return step + 1 == num_steps or (step % every == 0 and every < num_steps)


def _mean(lengths: Iterable[int]) -> float:
    known = list(lengths)
    return sum(known) / len(known) if known else 0.0
