"""How far a policy is from the base: the doses at which methods are compared (docs/dose.md).

Measured at fixed token states, drawn once from what the base itself wrote, so that they mean the same for every run. Knows no
task and no file. N: state, D: width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stateshape.core.seeds import seed_for
from stateshape.core.tensors import token_logp
from stateshape.locality.compared import hidden_at
from stateshape.locality.divergence import kl
from stateshape.locality.geometry import update_of
from stateshape.locality.states import Places, places, thinned, written
from stateshape.policy.policy import Policy

FORWARD_KL, K3_DISTANCE, UPDATE_NORM = "forward_kl_new_task_nats", "k3_distance", "update_frobenius"
BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}  # in one forward pass; only hidden states are held


class DoseStates(NamedTuple):
    """Token states of the base's rollouts, the token it wrote in each, and its own hidden states there."""

    base: Policy
    states: Places
    targets_N: Tensor
    hidden_ND: Tensor
    is_sampled: bool  # at temperature 1: only then do the tokens have the base's own probabilities


def dose_states(
    base: Policy,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    limit: int,
    temperature: float,
    seed: int = 0,
) -> DoseStates:
    """At most `limit` of the states in which a token of the responses was written, each equally likely."""
    rows, at = written(prompts, responses)
    chosen = thinned(at, limit, np.random.default_rng(seed_for(seed, "dose states")))
    targets = [row[place + 1] for row, where in zip(rows, chosen, strict=True) for place in where]
    states = places(rows, chosen)
    targets_N = torch.tensor(targets, dtype=torch.int64, device=base.device)
    return DoseStates(base, states, targets_N, hidden_in_parts(base, states), temperature == 1.0)


def some_rollouts(reference: DoseStates, *, every: int) -> DoseStates:
    """The states of the first of so many rollouts, and of each first of the next so many: for a rough dose at less cost."""
    rows, at = reference.states
    is_kept_N = np.concatenate(
        [np.full(len(where), row % every == 0) for row, where in enumerate(at)] or [np.zeros(0, bool)]
    )
    kept_N = torch.from_numpy(is_kept_N).to(reference.targets_N.device)
    return reference._replace(
        states=Places(rows[::every], at[::every]),
        targets_N=reference.targets_N[kept_N],
        hidden_ND=reference.hidden_ND[kept_N],
    )


@torch.no_grad()
def doses(policy: Policy, reference: DoseStates) -> dict[str, float]:
    """By name; what is undefined or no finite number is not there.

    forward_kl_new_task_nats: mean over states of KL(base || policy), exact over the vocabulary.
    k3_distance: root of the mean over states of k3 = r - 1 - log r, r = policy / base at the token the base sampled; its square
    estimates the same KL. Source: http://joschu.net/blog/kl-approx.html.
    update_frobenius: see geometry.py.
    """
    if not len(reference.states):
        return {}
    base, hidden_ND = reference.base, hidden_in_parts(policy, reference.states)
    kl_N = kl(reference.hidden_ND, base.head, hidden_ND, policy.head)
    found = {FORWARD_KL: max(0.0, float(kl_N.mean()))}
    if reference.is_sampled:
        ours_N, base_N = (
            token_logp(h_ND, p.head, reference.targets_N).double()
            for h_ND, p in ((hidden_ND, policy), (reference.hidden_ND, base))
        )
        log_ratio_N = ours_N - base_N
        found[K3_DISTANCE] = math.sqrt(max(0.0, float((torch.expm1(log_ratio_N) - log_ratio_N).mean())))
    if policy.adapter is not None:
        found[UPDATE_NORM] = update_of(policy.weights, policy.adapter).frobenius
    return {name: value for name, value in found.items() if math.isfinite(value)}


def hidden_in_parts(policy: Policy, states: Places) -> Tensor:
    """Last hidden states [N, D], some rows at a time."""
    parts = [hidden_at(policy, [part])[0] for part in _batches(states, BATCH_TOKENS.get(policy.device.type, 4096))]
    return torch.cat(parts) if parts else policy.head.weight_VD.new_zeros(0, policy.head.width)


def _batches(states: Places, num_tokens: int) -> Iterator[Places]:
    rows: list[list[int]] = []
    at: list[np.ndarray] = []
    for row, where in zip(states.rows, states.at, strict=True):
        if rows and sum(map(len, rows)) + len(row) > num_tokens:
            yield Places(rows, at)
            rows, at = [], []
        rows.append(row)
        at.append(where)
    if rows:
        yield Places(rows, at)
