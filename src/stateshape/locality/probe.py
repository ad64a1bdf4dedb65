"""One probe: every number of a LocalityRecord, from a step's training states and fresh rollouts of the same learner.

`begin_probe` before the update, `end_probe` after it. Of the policy before the update, hidden states are kept, [N, D],
never logits.
Draws by its own seeds. Writes no files, and leaves the learner as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stateshape.core.head import Head
from stateshape.core.seeds import seed_for
from stateshape.core.signals import Imitate, MatchDistribution, Signal
from stateshape.core.tensors import token_logp
from stateshape.locality.compared import Compared, Written, hidden_at
from stateshape.locality.divergence import kl, resolution_nats, top_k_overlap
from stateshape.locality.geometry import update_of
from stateshape.locality.reachability import ess_share, reachability_gap
from stateshape.locality.recoverability import (
    GradeCounts,
    Graded,
    Grader,
    count_grades,
    prefix_fraction,
    taken_over_at,
)
from stateshape.locality.states import Places, TrainingRow, places, thinned, training_rows
from stateshape.locality.told_apart import c2st_auc
from stateshape.policy.policy import Policy
from stateshape.sampling.settings import Completion

CUTS = 4  # states of a row that the classifier sees: more repeat the same text rather than add evidence
Values = dict[str, float | None]


class Pending(NamedTuple):
    """What a probe knows before the update; `at` and `hidden` by "training", "own", "neutral". `head`: the learner's then.

    num_prompts: on the smaller side of the classifier.
    """

    values: Values
    learner_grades: GradeCounts
    at: dict[str, Places]
    hidden: dict[str, Tensor]
    head: Head
    num_prompts: int


class _Written(NamedTuple):
    """What the learner has just written: on held-out prompts, on retention prompts, and on from training states."""

    own: Written
    neutral: Written
    grades: GradeCounts


@torch.no_grad()
def begin_probe(
    learner: Policy, signals: Mapping[str, Signal], compared: Compared, grader: Grader | None, *, seed: int, step: int
) -> Pending:
    """Everything but the ratios. `seed`, `step`: of the run."""
    rng = np.random.default_rng(seed_for(seed, "locality choice", step))
    every_row = training_rows(signals)
    order = rng.permutation(len(every_row))[: compared.settings.prompts]
    rows = [every_row[i] for i in order]
    fresh = _write(learner, rows, signals, compared, grader, rng=rng, seed=seed_for(seed, "locality", step))

    limit = compared.settings.positions
    prefix = thinned([row.prefix_tokens for row in rows], limit, rng)
    tokens = thinned([row.tokens for row in rows], limit, rng)
    at = {
        "prefix": _predicting(rows, prefix),
        "training": _predicting(rows, tokens),
        "own": fresh.own.states,
        "neutral": fresh.neutral.states,
    }
    by_base = compared.by_base
    at |= {f"base {name}": states for name, (states, _) in by_base.items()}
    hidden = dict(zip(at, hidden_at(learner, list(at.values()))))
    head, base_head = learner.head, compared.base.head
    base_hidden = dict(zip(("own", "neutral"), hidden_at(compared.base, [at["own"], at["neutral"]])))

    def forward(name: str) -> float | None:
        return mean(kl(by_base[name].hidden_ND, base_head, hidden[f"base {name}"], head))

    def reverse(name: str) -> float | None:
        return mean(kl(hidden[name], head, base_hidden[name], base_head))

    values: Values = {
        **_surprise(learner, rows, prefix, hidden["prefix"], fresh.own.completions),
        "c2st_auc": _told_apart(every_row, fresh.own, rng),
        "forward_kl_new_task_nats": forward("new task"),
        "reverse_kl_new_task_nats": reverse("own"),
        "forward_kl_retention_nats": forward("retention"),
        "reverse_kl_retention_nats": reverse("neutral"),
        "learner_recoverability": fresh.grades.share,
        **_agreement(rows, tokens, hidden["training"], head, signals),
        **_geometry(learner),
    }
    still_needed = ("training", "own", "neutral")
    return Pending(
        values,
        fresh.grades,
        {name: at[name] for name in still_needed},
        {name: hidden[name] for name in still_needed},
        learner.head_now(),
        min(len({row.row.item_id for row in every_row}), len(fresh.own.completions)),
    )


@torch.no_grad()
def end_probe(learner: Policy, pending: Pending) -> Values:
    """The values, with the ratios: how far the update moved the policy elsewhere, over how far where it was made."""
    moved: Values = {}
    for (name, before_ND), after_ND in zip(pending.hidden.items(), hidden_at(learner, list(pending.at.values()))):
        moved[name] = mean(kl(before_ND, pending.head, after_ND, learner.head))
    resolution = resolution_nats(learner.weights.dtype)
    ratios = {
        "locality_ratio": _ratio(moved["own"], moved["training"], resolution),
        "neutral_ratio": _ratio(moved["neutral"], moved["training"], resolution),
    }
    return {**pending.values, **ratios}


def mean(values_N: Tensor) -> float | None:
    return float(values_N.mean()) if len(values_N) else None


def response_text(policy: Policy, ids: Sequence[int]) -> str:
    """As evaluation decodes it: without the end_probe token."""
    return policy.decode(ids[:-1] if ids and ids[-1] in policy.eos_ids else ids)


def _ratio(numerator: float | None, denominator: float | None, resolution: float) -> float | None:
    """None where the update left the training states alone, or moved them by no more than rounding."""
    if numerator is None or denominator is None or denominator < resolution:
        return None
    return numerator / denominator


def _predicting(rows: Sequence[TrainingRow], tokens: Sequence[np.ndarray]) -> Places:
    return places([row.row.ids for row in rows], [at - 1 for at in tokens])


def _write(
    learner: Policy,
    rows: Sequence[TrainingRow],
    signals: Mapping[str, Signal],
    compared: Compared,
    grader: Grader | None,
    *,
    rng: np.random.Generator,
    seed: int,
) -> _Written:
    """Fresh rollouts and continuations of training states, in one call of the sampler; then the retention prompts."""
    settings = compared.settings
    continued: list[tuple[TrainingRow, int]] = []
    for row in rows if grader is not None else ():
        at = taken_over_at(row.row) if isinstance(signals[row.term], Imitate) else None
        at = int(rng.choice(row.tokens)) if at is None else at
        if learner.longest_row is None or at + settings.max_new_tokens <= learner.longest_row:
            continued.append((row, at))
    prompts = [list(ids) for ids in compared.new_task[: settings.prompts]]
    written = compared.sampler.sample(
        learner,
        [*prompts, *(row.row.ids[:at] for row, at in continued)],
        compared.sampling(is_retention=False),
        seed=seed_for(seed, "rollouts"),
    )
    graded = []
    for (row, at), completion in zip(continued, written[len(prompts) :], strict=True):
        assert grader is not None
        verdict = grader(row.row.item_id, response_text(learner, [*row.prefix(at), *completion.ids]))
        if verdict is not None:
            graded.append(Graded(prefix_fraction(row.row, at), verdict))
    own = compared.rollouts(prompts, written[: len(prompts)], seed=seed_for(seed, "states"))
    neutral = compared.write(learner, "retention", is_retention=True, seed=seed)
    return _Written(own, neutral, count_grades(graded))


def _surprise(
    learner: Policy,
    rows: Sequence[TrainingRow],
    tokens: Sequence[np.ndarray],
    hidden_ND: Tensor,
    own: Sequence[Completion],
) -> Values:
    """Reachability and freshness, of the tokens that training states consist of."""
    pairs = [(row.row, int(t)) for row, at in zip(rows, tokens, strict=True) for t in at]
    ids_N = torch.tensor([row.ids[t] for row, t in pairs], dtype=torch.int64, device=hidden_ND.device)
    logp_N = token_logp(hidden_ND, learner.head, ids_N).double().cpu().numpy()
    behaviour_N = np.array([row.logps[t] for row, t in pairs], np.float64)  # None becomes NaN
    known_N = ~np.isnan(behaviour_N)
    gap = reachability_gap(-logp_N, np.array([-logp for completion in own for logp in completion.logps[:-1]]))
    return {
        "reachability_gap_nats": None if gap is None else gap.mean_nats,
        "reachability_gap_p90_nats": None if gap is None else gap.p90_nats,
        "ess_share": ess_share(logp_N[known_N] - behaviour_N[known_N]),
    }


def _told_apart(rows: Sequence[TrainingRow], own: Written, rng: np.random.Generator) -> float | None:
    """The classifier on a few states of every training row and of every fresh rollout."""
    training = [(row.row.item_id, row.prefix(int(t))) for row in rows for t in _some(row.tokens, rng)]
    fresh = [
        (str(number), completion.ids[: int(t)])
        for number, completion in enumerate(own.completions)
        for t in _some(np.arange(len(completion.ids)), rng)
    ]
    return c2st_auc(
        [ids for _, ids in training],
        [ids for _, ids in fresh],
        training_prompts=[name for name, _ in training],
        own_prompts=[name for name, _ in fresh],
        seed=int(rng.integers(2**31)),
    )


def _some(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(tokens, min(CUTS, len(tokens)), replace=False)


def _agreement(
    rows: Sequence[TrainingRow],
    tokens: Sequence[np.ndarray],
    hidden_ND: Tensor,
    head: Head,
    signals: Mapping[str, Signal],
) -> Values:
    """Learner and teacher at training states, where the signal is the teacher's distribution over the same tokens."""
    shared, covered = [], []
    of_row = hidden_ND.split([len(at) for at in tokens])
    for row, at, hidden_nD in zip(rows, tokens, of_row, strict=True):
        signal = signals[row.term]
        if not isinstance(signal, MatchDistribution) or signal.shared is not None or not len(at):
            continue
        cells = row.first + np.searchsorted(row.tokens, at)
        teacher_nE = signal.teacher_hidden_ND[torch.as_tensor(cells, device=hidden_nD.device)]
        shared_n, covered_n = top_k_overlap(hidden_nD, head, teacher_nE, signal.teacher_head)
        shared.append(shared_n)
        covered.append(covered_n)
    if not shared:
        return {"topk_overlap": None, "topk_mass": None}
    return {"topk_overlap": mean(torch.cat(shared)), "topk_mass": mean(torch.cat(covered))}


def _geometry(learner: Policy) -> Values:
    assert learner.adapter is not None
    update = update_of(learner.weights, learner.adapter)
    return {
        "update_frobenius": update.frobenius,
        "update_spectral": update.spectral,
        "stable_rank": update.stable_rank,
        "effective_rank": update.effective_rank,
    }
