"""The evaluated items of a whole study, lined up by item, and contrasts between runs on them. Torch-free.

A study's runs answer the same items, so every comparison here is paired: by item, and by training seed where both runs
have one. The untrained base has no training seed; where it was evaluated once, its rows are paired with every seed.
Does not know which contrasts matter (claims.py) or how they are laid out (compare.py). Read by scores.py.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from stateshape.analysis.sampled import of_samples
from stateshape.analysis.scores import EXTRACTIONS, StudyScores
from stateshape.analysis.statistics import (
    centred_p,
    crossed_spread,
    enough_items,
    exact_mcnemar,
    is_binary,
    mean_estimate,
    percentile_interval,
    resampled_means,
    t_interval,
    t_test,
    unanimous_half_width,
    unanimous_p,
)
from stateshape.core.study_records import BASE, UNANIMOUS, Estimate, PairedDifference

EMPTY = Estimate(value=None, lo=None, hi=None, n_items=0, n_seeds=0)
MCNEMAR = "exact McNemar"
ITEM_BOOTSTRAP = "paired bootstrap over items"
SEEDS_AND_ITEMS = "t over seeds and items (crossed random effects)"
MIN_INTERVAL_ITEMS = 10  # fewer give no interval: a bootstrap of them has too few distinct resamples
ABOVE_CHANCE = "retention_above_chance"


# Estimates


def score_estimate(study: StudyScores, run: str, task: str) -> Estimate:
    """A run's mean score: Wilson (or normal) interval for one seed, t over seeds and items for several."""
    seeds = study.common_seeds([run], [task])
    if not seeds:
        return EMPTY
    scores_SN = study.matrix(run, task, seeds)
    if len(seeds) == 1:
        metric = mean_estimate(scores_SN[0])
        lo, hi = metric.ci95 if metric.ci95 is not None else (None, None)
        note = None if metric.ci95 is not None else "one item: no interval"
        found = _estimate(seeds, scores_SN.mean(axis=1), n_items=scores_SN.shape[1])
        return replace(found, lo=lo, hi=hi, note=note, stderr=metric.stderr)
    found = _with_interval(seeds, [scores_SN], width=1.0)
    if is_binary(scores_SN) and found.lo is not None and found.hi is not None:
        return replace(found, lo=max(0.0, found.lo), hi=min(1.0, found.hi))
    return found


def answer_estimates(study: StudyScores, run: str, task: str) -> dict[str, Estimate]:
    """A run's mean by each score of its answers that is not the task's metric: the other extraction, and of samples.

    Empty where answers are not free text.
    """
    held = study.secondary.get(run, {}).get(task, {})
    return {
        name: score_estimate(replace(study, scores={run: {task: held[name]}}), run, task)
        for name in (*(name for name in EXTRACTIONS if name in held), *of_samples(held))
    }


def contrast(
    study: StudyScores,
    weights: Mapping[str, float],
    tasks: Sequence[str],
    *,
    null: float = 0.0,
    with_bootstrap: bool = True,
) -> PairedDifference:
    """Mean over tasks of sum_r weight_r score_r, paired by item and seed, tested against `null`.

    with_bootstrap: also the bootstrap's interval where it is not needed: for several seeds.

    {"rl": 1, "base": -1} is rl minus base. One seed of a plain difference of 0/1 scores on one task: exact McNemar. One
    seed otherwise: bootstrap over items; its intervals are the bootstrap's. Several: t with seeds and items as crossed
    random effects, and the crossed bootstrap for comparison. Where a run or task is missing the estimate is empty, p None.
    """
    versus = next((run for run, weight in weights.items() if weight < 0), "")
    seeds = study.common_seeds(list(weights), tasks)
    if not seeds or not tasks:
        return PairedDifference(versus=versus, difference=EMPTY, p=None, test="not available")
    differences = _differences(study, weights, tasks, seeds)
    width = _width(weights)
    found = _with_interval(seeds, differences, width=width)
    num_items = min(difference.shape[1] for difference in differences)
    if num_items < MIN_INTERVAL_ITEMS:
        return PairedDifference(versus=versus, difference=found, p=None, test="none: too few items")
    if _is_unanimous(differences):
        p = unanimous_p(num_items, width, abs((found.value or 0.0) - null))
        return PairedDifference(versus=versus, difference=found, p=p, test=UNANIMOUS)
    if len(seeds) > 1 and not with_bootstrap:
        p = t_test(crossed_spread(differences), null=null)
        return PairedDifference(versus=versus, difference=found, p=p, test=SEEDS_AND_ITEMS)
    means_R = resampled_means(differences, np.random.default_rng(_seed_of(*weights, *tasks)))
    lo, hi = percentile_interval(means_R)
    if len(seeds) > 1:
        p = t_test(crossed_spread(differences), null=null)
        return PairedDifference(versus=versus, difference=found, p=p, test=SEEDS_AND_ITEMS, bootstrap=(lo, hi))
    found = replace(found, lo=lo, hi=hi)
    p, test = centred_p(means_R - null, observed=(found.value or 0.0) - null), ITEM_BOOTSTRAP
    if len(tasks) == 1 and null == 0 and sorted(weights.values()) == [-1, 1]:
        first, second = (study.matrix(run, tasks[0], seeds)[0] for run in weights)
        if is_binary(first) and is_binary(second):
            p, test = exact_mcnemar(first == 1, second == 1), MCNEMAR
    return PairedDifference(versus=versus, difference=found, p=p, test=test)


def equivalence_p(
    study: StudyScores, weights: Mapping[str, float], tasks: Sequence[str], margin: float
) -> float | None:
    """p-value of "the effect is not within -margin..margin", over several seeds; None where that cannot be tested.

    The larger of two one-sided p-values; below .05 the 90% interval lies inside the margin.
    Source: Schuirmann 1987 (two one-sided tests).
    """
    seeds = study.common_seeds(list(weights), tasks) if tasks else []
    if len(seeds) < 2:
        return None
    differences = _differences(study, weights, tasks, seeds)
    num_items = min(difference.shape[1] for difference in differences)
    if num_items < MIN_INTERVAL_ITEMS:
        return None
    value = float(np.mean([difference.mean() for difference in differences]))
    if not -margin < value < margin:
        return 1.0
    nearest = margin - abs(value)
    if _is_unanimous(differences):
        return unanimous_p(num_items, _width(weights), nearest) / 2
    return t_test(crossed_spread(differences), null=value + nearest) / 2


def too_few_items(study: StudyScores, weights: Mapping[str, float], tasks: Sequence[str]) -> str | None:
    """Why the items of a contrast cannot decide anything (statistics.enough_items), in words; None where they can."""
    seeds = study.common_seeds(list(weights), tasks)
    return enough_items(_differences(study, weights, tasks, seeds)) if seeds else None


def shifted(estimate: Estimate, by: float) -> Estimate:
    """The estimate plus a number that is known exactly."""
    if estimate.value is None or by == 0:
        return estimate
    return replace(
        estimate,
        value=estimate.value + by,
        lo=None if estimate.lo is None else estimate.lo + by,
        hi=None if estimate.hi is None else estimate.hi + by,
        per_seed={seed: value + by for seed, value in estimate.per_seed.items()},
    )


def wider(estimate: Estimate, by: float) -> Estimate:
    """The estimate with an interval that is wider by a number on both sides."""
    return replace(
        estimate,
        lo=None if estimate.lo is None else estimate.lo - by,
        hi=None if estimate.hi is None else estimate.hi + by,
    )


def _differences(
    study: StudyScores, weights: Mapping[str, float], tasks: Sequence[str], seeds: Sequence[int]
) -> list[np.ndarray]:
    """[S, N] per task: sum_r weight_r score_r."""
    return [
        sum((weight * study.matrix(run, task, seeds) for run, weight in weights.items()), start=np.zeros(()))
        for task in tasks
    ]


def _width(weights: Mapping[str, float]) -> float:
    """The most that one item can change the mean of its task, for scores between 0 and 1."""
    return float(sum(abs(weight) for weight in weights.values()))


def secondary_differences(study: StudyScores, run: str, other: str, task: str) -> dict[str, Estimate]:
    """run minus other in the secondary scores (secondary.py) that both have; t intervals, nothing is tested.

    Against the base of a retention task also (run - chance) / (base - chance), which is a ratio and no difference.
    """
    found = {}
    held = [study.secondary.get(name, {}).get(task, {}) for name in (run, other)]
    for name in held[0].keys() & held[1].keys():
        beside = replace(study, scores={run: {task: held[0][name]}, other: {task: held[1][name]}})
        if seeds := beside.common_seeds([run, other], [task]):
            difference_SN = beside.matrix(run, task, seeds) - beside.matrix(other, task, seeds)
            found[name] = _with_interval(seeds, [difference_SN], width=None)
    if other == BASE and task in [kept.name for kept in study.plan.retention]:
        ratio = retention(study, run, is_chance_corrected=True, tasks=[task])
        if ratio is not None:
            found[ABOVE_CHANCE] = ratio
    return dict(sorted(found.items()))


def retention(
    study: StudyScores, run: str, *, is_chance_corrected: bool, tasks: Sequence[str] | None = None
) -> Estimate | None:
    """Mean over retention tasks of post/base, or of (post - chance)/(base - chance).

    Its interval is that of `contrast` on the ratio's linear part r + (post - c - r (base - c)) / (base - c) per item, with
    r the ratio (delta method). None where rows are missing, or the base is not above zero (above chance). No interval
    where the base's own 95% interval reaches down to it: the ratio is then unbounded (Fieller 1954).
    Source: arXiv:2605.22731 sec. 4 (ratio). Differs: the chance correction.
    """
    chosen = [task for task in study.plan.retention if tasks is None or task.name in tasks]
    seeds = study.common_seeds([BASE, run], [task.name for task in chosen])
    if not seeds or not chosen:
        return None
    linear, per_seed, is_unbounded = [], [], False
    for task in chosen:
        floor = task.chance if is_chance_corrected else 0.0
        base_SN, post_SN = (study.matrix(name, task.name, seeds) - floor for name in (BASE, run))
        above = float(base_SN.mean())
        if above <= 0:
            return None
        # the ratio of means over seeds, not the mean of ratios: a seed's base near chance would dominate the latter
        ratio = float(post_SN.mean()) / above
        linear.append(ratio + (post_SN - ratio * base_SN) / above)
        per_seed.append(post_SN.mean(axis=1) / above)
        is_unbounded |= base_SN.shape[1] > 1 and t_interval(crossed_spread([base_SN])).lo <= 0
    found = _with_interval(seeds, linear, width=None)
    values_S = np.mean(per_seed, axis=0)
    found = replace(found, per_seed={str(seed): float(value) for seed, value in zip(seeds, values_S)})
    if is_unbounded:
        return replace(found, lo=None, hi=None, note="the base may be at chance level: the ratio is unbounded")
    return found


def _with_interval(seeds: Sequence[int], arrays: Sequence[np.ndarray], *, width: float | None) -> Estimate:
    """Mean over tasks, seeds and items with its t interval. width: the most that one item can change the mean of its task;
    None for what has no such bound."""
    found = _estimate(seeds, np.mean([a.mean(axis=1) for a in arrays], axis=0), n_items=sum(a.shape[1] for a in arrays))
    num_items = min(array.shape[1] for array in arrays)
    if num_items < MIN_INTERVAL_ITEMS:
        return replace(found, note=f"{num_items} items, fewer than {MIN_INTERVAL_ITEMS}: no interval")
    if _is_unanimous(arrays):
        if width is None:
            return replace(found, note="all items have the same value: no interval")
        value, half = found.value or 0.0, unanimous_half_width(num_items, width)
        alike = "all items have the same value"
        if value == 0 and width > 1:  # of a difference; a score's width is 1
            alike = f"no item differs: {num_items} items exclude only changes beyond {half:.3f}"
        return replace(found, lo=value - half, hi=value + half, note=alike)
    spread = crossed_spread(arrays)
    lo, hi = t_interval(spread)
    seed_sd = math.sqrt(spread.seed_variance * len(seeds)) if len(seeds) > 1 else None
    note = "one training seed: the interval covers items only" if len(seeds) == 1 else None
    return replace(found, lo=lo, hi=hi, stderr=math.sqrt(spread.variance), seed_sd=seed_sd, note=note)


def _is_unanimous(arrays: Sequence[np.ndarray]) -> bool:
    """Whether no item of any task, in any seed, differs from the others."""
    return all(np.ptp(array) < 1e-12 for array in arrays)


def _seed_of(*names: str) -> int:
    """Seeded by what is estimated, so that a number does not depend on which others were asked for."""
    return int.from_bytes(hashlib.sha256("/".join(names).encode()).digest()[:8], "big")


def _estimate(seeds: Sequence[int], values_S: np.ndarray, *, n_items: int) -> Estimate:
    return Estimate(
        value=float(values_S.mean()),
        lo=None,
        hi=None,
        n_items=n_items,
        n_seeds=len(seeds),
        per_seed={str(seed): float(value) for seed, value in zip(seeds, values_S)},
    )
