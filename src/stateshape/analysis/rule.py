"""The rule that decides an effect: it holds, fails, is equivalent to none, or is open. Torch-free; knows no claim.

* Open, whatever the numbers: fewer than 3 training seeds, too few items or too few that differ, or a run that is missing.
* Holds: the 95% interval lies above the threshold and the adjusted p-value is below the level.
* Fails: the interval lies below the threshold and the adjusted p-value is below the level.
* Equivalent: neither, and two one-sided tests show that the effect is smaller than its margin either way.
A premise has one question, whether it is met: it is tested on its own at .05, because a claim needs both its premises and
its effects, so that premises add no way to support it wrongly.
"""

from __future__ import annotations

from typing import Literal

from stateshape.analysis.effects import Effect
from stateshape.analysis.power import ALPHA, MIN_SEEDS
from stateshape.core.study_records import FACTS

State = Literal["holds", "fails", "equivalent", "open"]
CORRELATION = "bootstrap over runs"
HELDOUT = "held-out prediction, bootstrap over runs"
SHOWN_TESTS = (CORRELATION, HELDOUT)  # of evidence that decides nothing


def state_of(effect: Effect, p: float | None, p_equivalent: float | None, *, level: float = ALPHA) -> State:
    """p, p_equivalent: the effect's own, adjusted for its family; None: there is no such test."""
    if effect.is_true is not None:
        return "holds" if effect.is_true else "fails"
    lo, hi = effect.estimate.lo, effect.estimate.hi
    if too_little(effect) is not None or lo is None or hi is None:
        return "open"
    if p is not None and p < level:
        if lo > effect.threshold:
            return "holds"
        if hi < effect.threshold:
            return "fails"
    return "equivalent" if p_equivalent is not None and p_equivalent < level else "open"


def premise_state(premise: Effect) -> State:
    return state_of(premise, premise.p, None)


def is_met(premise: Effect) -> bool | None:
    """None: there is too little data to know."""
    if premise.is_true is None and too_little(premise) is not None:
        return None
    return premise_state(premise) == "holds"


def too_little(effect: Effect) -> str | None:
    """Why an effect cannot decide anything, in words; None where it can."""
    if effect.lacks is not None:
        return effect.lacks
    if effect.test in (*SHOWN_TESTS, *FACTS):
        return None
    seeds = effect.estimate.n_seeds
    if seeds < MIN_SEEDS:
        return f"{seeds} training seed{'' if seeds == 1 else 's'}, fewer than {MIN_SEEDS}"
    return effect.too_few_items
