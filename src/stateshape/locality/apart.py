"""How far a policy is from the base on given prompts: exact KL in both directions, with an interval over prompts.

Both policies write on the same prompts. The forward KL is read at the base's states, the reverse one at the policy's own. They
may be different models as long as their token ids mean the same. Knows no task and no file. N: state, D: width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from stateshape.core.records import KlValue
from stateshape.core.seeds import seed_for
from stateshape.locality.divergence import kl
from stateshape.locality.doses import hidden_in_parts
from stateshape.locality.states import Places, places, thinned, written
from stateshape.policy.policy import Policy
from stateshape.sampling.settings import Sampler, SamplingSettings

RESAMPLES = 2000
MIN_PROMPTS = 10  # fewer give no interval
CONFIDENCE = 0.95


class OwnStates(NamedTuple):
    """What a policy wrote on some prompts, and its own hidden states there. prompt_N: the number of each state's prompt."""

    states: Places
    prompt_N: np.ndarray
    hidden_ND: Tensor


def own_states(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    settings: SamplingSettings,
    *,
    limit: int,
    seed: int,
) -> OwnStates:
    """One sample per prompt, and at most `limit` of the states in which its tokens were written."""
    ids = [list(prompt) for prompt in prompts]
    completions = sampler.sample(policy, ids, settings, seed=seed_for(seed, "kl"))
    rows, at = written(ids, [completion.ids for completion in completions])
    chosen = thinned(at, limit, np.random.default_rng(seed_for(seed, "kl states")))
    prompt_N = np.repeat(np.arange(len(ids)), [len(where) for where in chosen])
    states = places(rows, chosen)
    return OwnStates(states, prompt_N, hidden_in_parts(policy, states))


def kl_at(own: OwnStates, writer: Policy, other: Policy, *, seed: int) -> KlValue:
    """KL(writer || other) at the writer's own states."""
    if not len(own.states):
        return KlValue(value=None, note="nothing was written")
    other_ND = hidden_in_parts(other, own.states)
    value_N = kl(own.hidden_ND, writer.head, other_ND, other.head).cpu().numpy()
    return mean_over_prompts(value_N, own.prompt_N, seed=seed)


def mean_over_prompts(value_N: np.ndarray, prompt_N: np.ndarray, *, seed: int) -> KlValue:
    """Mean over states; the interval resamples prompts with all their states (percentile bootstrap)."""
    names, index_N = np.unique(prompt_N, return_inverse=True)
    sum_P, num_P = (np.bincount(index_N, weights=weights) for weights in (value_N, np.ones(len(value_N))))
    mean = float(value_N.mean())
    if not np.isfinite(mean):
        return KlValue(value=None, num_states=len(value_N), num_prompts=len(names), note="not a finite number")
    lo = hi = note = None
    if len(names) >= MIN_PROMPTS:
        drawn_RP = np.random.default_rng(seed_for(seed, "kl interval")).integers(
            len(names), size=(RESAMPLES, len(names))
        )
        means_R = sum_P[drawn_RP].sum(1) / num_P[drawn_RP].sum(1)
        tail = 100 * (1 - CONFIDENCE) / 2
        lo, hi = (float(end) for end in np.percentile(means_R, (tail, 100 - tail)))
    else:
        note = f"{len(names)} prompts, fewer than {MIN_PROMPTS}: no interval"
    # rounding can take a KL of equal policies below zero
    return KlValue(
        value=max(0.0, mean),
        lo=None if lo is None else max(0.0, lo),
        hi=None if hi is None else max(0.0, hi),
        num_states=len(value_N),
        num_prompts=len(names),
        note=note,
    )
