"""The states that the learner visits by itself now: how far it is from the base there, and how sure of what it writes.

One text per prompt, of the prompts on which the base wrote its own (study/eval_watch.py). Knows no task. N: state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stateshape.core.seeds import seed_for
from stateshape.locality.divergence import kl
from stateshape.locality.doses import hidden_in_parts
from stateshape.locality.states import places, thinned, written
from stateshape.policy.policy import Policy
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings

REVERSE_KL = "reverse_kl_new_task_nats"


class Visited(NamedTuple):
    """reverse_kl_nats: mean over states of KL(learner || base), exact; None where the base is gone.

    surprisal_nats: mean over what it wrote of -log p, its own.
    """

    reverse_kl_nats: float | None
    surprisal_nats: float | None


def visited(
    learner: Policy,
    base: Policy | None,
    prompts: Sequence[Sequence[int]],
    settings: SamplingSettings,
    *,
    limit: int,
    step: int,
) -> Visited:
    """To be called inside `reading()`. limit: of states."""
    made = LocalSampler().sample(learner, prompts, settings, seed=seed_for(0, "own states", step))
    logps = [logp for one in made for logp in one.logps]
    surprisal = -sum(logps) / len(logps) if logps else None
    rows, at = written(prompts, [one.ids for one in made])
    states = places(rows, thinned(at, limit, np.random.default_rng(seed_for(0, "own states chosen", step))))
    if base is None or not len(states):
        return Visited(None, surprisal)
    hidden_ND, base_ND = (hidden_in_parts(policy, states) for policy in (learner, base))
    kl_N = kl(hidden_ND, learner.head, base_ND, base.head)
    return Visited(max(0.0, float(kl_N.mean())), surprisal)
