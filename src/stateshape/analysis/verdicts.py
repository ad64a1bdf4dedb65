"""Does this study support the paper's claims? One rule for every claim, applied to numbers with intervals. Torch-free.

The rule, in plain words. Each claim is broken into effects that it predicts to be above a threshold: zero, or for "no loss"
-0.03 of accuracy, or for "drifts no less" a quarter of the stress run's drift (claims.py names them).
* An effect holds if its 95% interval is wholly above the threshold and its p-value, Holm-adjusted over all effects of
  all claims, is below .05.
* An effect fails if its interval is wholly below the threshold and its adjusted p-value is below .05.
* Otherwise it is open. It is also open with fewer than 3 training seeds (one run does not show how a rerun would vary) or fewer
  than 50 items, and where a run is missing.
* Supported: all effects hold. Not supported: at least one fails. Cannot tell: anything else. Not asked: the study does
  not plan every run that the claim rests on; its effects are then not among those adjusted for either.
* P4 asks for one pair of runs that drift alike and forget differently: it is supported if all effects of one pair hold;
  not supported if in every pair one fails.
Each effect has its smallest detectable effect, and an open one what it needs to be decided (resolution.py).
The outcome comes from the numbers alone; the paper's own outcome is nowhere in this file. Does not know runs by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from stateshape.analysis.claims import DRIFT_T, SHOWN_TESTS, Claim, Effect, all_claims
from stateshape.analysis.power import ALPHA, MIN_SEEDS
from stateshape.analysis.reading import load_scores
from stateshape.analysis.resolution import MIN_ITEMS, Resolution, resolution
from stateshape.analysis.scores import StudyScores
from stateshape.analysis.statistics import holm
from stateshape.core.study_records import Evidence, Outcome, Verdict

State = Literal["holds", "fails", "open"]

_LEAD: dict[Outcome, str] = {
    "supported": "Supported",
    "not supported": "Not supported",
    "cannot tell": "Cannot tell",
    "not asked": "Not asked",
}


def verdicts(study: StudyScores | Path, *, roles: Mapping[str, str] | None = None) -> list[Verdict]:
    """Verdicts on P1-P4 and C1-C3.

    Args: study: a study folder or its loaded scores. roles: role -> run name, over those of the plan.
    Raises: BadInput naming a role or run that does not exist.
    """
    claims = all_claims(load_scores(study) if isinstance(study, Path) else study, roles)
    adjusted = _adjusted([claim for claim in claims if claim.is_asked()])
    alpha = ALPHA / max(1, len(adjusted))  # of Holm's first and hardest test
    return [_verdict(claim, adjusted, alpha) if claim.is_asked() else _not_asked(claim) for claim in claims]


def _adjusted(claims: list[Claim]) -> dict[str, float]:
    """Holm-adjusted p by part key. An effect that two claims share is one test."""
    parts = {part.key: part.p for claim in claims for group in claim.groups() for part in group}
    tested = {key: p for key, p in parts.items() if p is not None}
    return dict(zip(tested, holm(list(tested.values()))))


def _verdict(claim: Claim, adjusted: Mapping[str, float], alpha: float) -> Verdict:
    outcome = _outcome([[_state(part, adjusted) for part in group] for group in claim.groups()])
    decisive = list({part.key: part for group in claim.groups() for part in group}.values())
    evidence = [_evidence(part, adjusted, alpha, is_shown=False) for part in decisive]
    evidence += [_evidence(part, adjusted, alpha, is_shown=True) for part in claim.shown]
    words = "; ".join(_words(part, adjusted, found) for part, found in zip([*decisive, *claim.shown], evidence))
    needs = "; ".join(f"{found.label} needs {found.needs}" for found in evidence if found.needs is not None)
    if outcome == "cannot tell" and needs:
        words += f". To decide: {needs}"
    return Verdict(
        claim_id=claim.claim_id,
        claim=claim.text,
        outcome=outcome,
        sentence=f"{_LEAD[outcome]}: {words}.",
        evidence=evidence,
    )


def _not_asked(claim: Claim) -> Verdict:
    lacks = dict.fromkeys(part.lacks for group in claim.groups() for part in group if not part.is_planned)
    sentence = f"{_LEAD['not asked']}: {'; '.join(lack for lack in lacks if lack)}."
    return Verdict(claim_id=claim.claim_id, claim=claim.text, outcome="not asked", sentence=sentence, evidence=[])


def _evidence(part: Effect, adjusted: Mapping[str, float], alpha: float, *, is_shown: bool) -> Evidence:
    state = _state(part, adjusted)
    seen = Resolution() if is_shown else resolution(part, alpha, is_open=state == "open")
    return Evidence(
        label=part.label,
        effect=part.estimate,
        p=part.p,
        p_holm=None if is_shown else adjusted.get(part.key),
        test=part.test,
        threshold=part.threshold,
        state="shown" if is_shown else state,
        bootstrap=part.bootstrap,
        power=seen.power,
        power_effect=seen.power_effect,
        minimal_effect=seen.minimal_effect,
        needs=seen.needs,
    )


def _outcome(groups: list[list[State]]) -> Outcome:
    if any(all(state == "holds" for state in group) for group in groups):
        return "supported"
    if all(any(state == "fails" for state in group) for group in groups):
        return "not supported"
    return "cannot tell"


def _state(part: Effect, adjusted: Mapping[str, float]) -> State:
    effect = part.estimate
    if too_little(part) is not None or effect.lo is None or effect.hi is None:
        return "open"
    if adjusted.get(part.key, 1.0) >= ALPHA:
        return "open"
    if effect.lo > part.threshold:
        return "holds"
    return "fails" if effect.hi < part.threshold else "open"


def too_little(part: Effect) -> str | None:
    """Why a part cannot decide anything, in words; None where it can."""
    if part.lacks is not None:
        return part.lacks
    if part.test in SHOWN_TESTS:
        return None
    if part.estimate.n_seeds < MIN_SEEDS:
        seeds = "1 training seed" if part.estimate.n_seeds == 1 else f"{part.estimate.n_seeds} training seeds"
        return f"{seeds}, fewer than {MIN_SEEDS}"
    if part.test != DRIFT_T and part.estimate.n_items < MIN_ITEMS:
        return f"{part.estimate.n_items} items, fewer than {MIN_ITEMS}"
    return None


def _words(part: Effect, adjusted: Mapping[str, float], found: Evidence) -> str:
    """'label +0.123 (95% interval +0.080 to +0.160, 400 items, 3 seeds, adjusted p .001, power .85 for 0.03)'."""
    effect = part.estimate
    if effect.value is None:
        return f"{part.label}: {part.lacks}"
    digits = 5 if part.test == DRIFT_T else 3  # MMD^2 is of the order of .01
    about = []
    if effect.lo is not None and effect.hi is not None:
        about.append(f"95% interval {effect.lo:+.{digits}f} to {effect.hi:+.{digits}f}")
    elif effect.note is not None:
        about.append(effect.note)
    if part.threshold != 0:
        about.append(f"must be above {part.threshold:+.{digits}f}")
    if part.test != DRIFT_T:
        about.append(f"{effect.n_items} {'runs' if part.test in SHOWN_TESTS else 'items'}")
    about.append(f"{effect.n_seeds} seed{'' if effect.n_seeds == 1 else 's'}")
    if found.p_holm is not None:
        p = found.p_holm
        about.append("adjusted p below .001" if p < 0.001 else f"adjusted p {p:.3f}".replace("0.", ".", 1))
    if found.power is not None and found.power_effect is not None:
        about.append(f"power {found.power:.2f} for {found.power_effect:g}".replace("0.", ".", 1))
    reason = too_little(part)
    if reason is not None and "fewer" in reason:
        about.append(f"not enough data to decide: {reason}")
    return f"{part.label} {effect.value:+.{digits}f} ({', '.join(about)})"
