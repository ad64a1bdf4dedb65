"""How many probes a run can afford, settled before the first one from the rows of its first step.

In tokens through the models, not seconds, and as if no two rows began alike, so that a run is probed at the same steps when it
is resumed, repeated or trained by several processes. A supervised row counts three times, forward and backward (about twice the
forward pass), once more if a model wrote it, and once more if another model reads it. A probe is counted from its parts:
probe.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from stateshape.core.signals import Credit, MatchDistribution, Signal
from stateshape.locality.compared import Compared

MOST_PROBES = 9  # the first, the last, and enough between them to show a trend
TRAINED = 3  # passes over a supervised row: one forward, and a backward of two


def step_work(signals: Iterable[Signal]) -> int:
    """Tokens of a step: of the batch of all processes."""
    known = list(signals)
    passes: dict[int, int] = {}  # by states, of which several signals may speak
    for signal in known:
        key = id(signal.states)
        passes[key] = max(passes.get(key, 0), TRAINED + _is_read(signal))
    states = {id(signal.states): signal.states for signal in known}
    return sum(
        (passes[key] + any(finish != "dataset" for finish in one.finishes)) * int(one.lengths_B.sum())
        for key, one in states.items()
    )


def _is_read(signal: Signal) -> bool:
    """Whether another model than the learner has read its rows."""
    return isinstance(signal, MatchDistribution) or (isinstance(signal, Credit) and signal.reference is not None)


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
