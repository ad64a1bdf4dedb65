"""What a look at the verdicts may spend of the error rate, when seeds are added after an earlier look. Torch-free.

A study may be read when some of its seeds are done, and given more seeds afterwards. Every reading is a chance to be wrong.
So the level .05 is spent along the planned seeds as O'Brien and Fleming's bound does: little early, most of it at the end.
Seeds beyond the plan, after all was spent, get half of what the look before them had, and the verdicts say so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.stats import norm

from stateshape.analysis.power import ALPHA, MIN_SEEDS
from stateshape.analysis.scores import StudyScores
from stateshape.core.study_records import Look


def spent_until(num_seeds: int, planned_seeds: int) -> float:
    """Share of ALPHA that may be spent by looks at up to num_seeds of planned_seeds.

    alpha(t) = 2 - 2 Phi(z_{1-alpha/2} / sqrt(t)),  t = num_seeds / planned_seeds, at most 1

    Source: Lan & DeMets 1983, O'Brien-Fleming type.
    """
    share = num_seeds / planned_seeds
    if share >= 1:
        return ALPHA
    return 2 - 2 * float(norm.cdf(norm.ppf(1 - ALPHA / 2) / math.sqrt(share)))


def next_level(num_seeds: int, planned_seeds: int, looks: Sequence[Look]) -> float:
    """Level of a look at num_seeds. A repeated look at as many seeds has the level it had.

    planned_seeds: seeds that the study planned when it was first looked at, or now if it never was.
    """
    if again := [look for look in looks if look.num_seeds == num_seeds]:
        return again[-1].level
    if not looks:
        return spent_until(num_seeds, planned_seeds)
    first_plan = looks[0].planned_seeds
    last = max(look.num_seeds for look in looks)
    if last >= first_plan:
        return looks[-1].level / 2
    return max(0.0, spent_until(num_seeds, first_plan) - spent_until(last, first_plan))


def is_beyond_plan(num_seeds: int, looks: Sequence[Look]) -> bool:
    """Whether this look has seeds that were added after the planned ones had been looked at."""
    return bool(looks) and num_seeds > looks[0].planned_seeds


def finished_seeds(study: StudyScores) -> int:
    """Seeds for which every run that has any has its scores: those a verdict can rest on."""
    per_run = [
        set.intersection(*(set(by_seed) for by_seed in tasks.values()))
        for run, tasks in study.scores.items()
        if run not in study.measured_once and tasks
    ]
    return len(set.intersection(*per_run)) if per_run else 0


def counts_as_look(num_seeds: int) -> bool:
    """Fewer seeds decide nothing, so reading them spends nothing."""
    return num_seeds >= MIN_SEEDS


def total_spent(looks: Sequence[Look]) -> float:
    """Bound on the chance of a false finding over all looks."""
    return sum({look.num_seeds: look.level for look in looks}.values())
