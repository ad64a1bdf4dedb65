"""Does this study support a claim? One rule for every claim, applied to numbers with intervals. Torch-free.

* Effects are decided by rule.py; their p-values are Holm-adjusted within the claim's family, and so are, on their own, the
  tests of equivalence. The level is .05, or what an earlier look at the study has left of it (looks.py).
* Premise not met: a premise was tested and not shown, or the plan contradicts it. The claim is then neither supported nor
  refuted, whatever its effects.
* Supported: all effects hold. Not supported: at least one fails. Equivalent: none fails, at least one is shown to be
  smaller than its margin, and the others hold. Cannot tell: anything else. Not asked: the study does not plan what the claim
  rests on; its effects are then not counted either.
* P4 asks for one pair of runs. A pair is one test, with the largest p-value of its effects, and the claim enters its family
  with the smallest of them times the number of pairs. To find no pair is no evidence that there is none: cannot tell.
The outcome comes from the numbers alone; the paper's own outcome is nowhere in this file. Does not know runs by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from stateshape.analysis.claims import paper_claims
from stateshape.analysis.effects import OF_NO_ITEMS, Claim, Effect
from stateshape.analysis.planned_claims import planned_claims, written_words
from stateshape.analysis.power import ALPHA
from stateshape.analysis.reading import load_scores
from stateshape.analysis.resolution import Resolution, resolution
from stateshape.analysis.rule import SHOWN_TESTS, State, is_met, premise_state, state_of, too_little
from stateshape.analysis.scores import StudyScores
from stateshape.analysis.statistics import holm
from stateshape.core.study_records import Evidence, Outcome, Verdict

MOST_WAYS = 2  # pairs whose effects are listed
BY_THE_PACKAGE = "by the package, the same for every study"


class Adjusted(NamedTuple):
    """p-values after Holm's correction, by effect key or way; `level` is what they are compared with."""

    effects: Mapping[str, float]
    equivalences: Mapping[str, float]
    level: float
    first_level: float  # of Holm's first and hardest step

    def state(self, effect: Effect) -> State:
        return state_of(effect, self.effects.get(effect.key), self.equivalences.get(effect.key), level=self.level)


def verdicts(
    study: StudyScores | Path,
    *,
    roles: Mapping[str, str] | None = None,
    level: float = ALPHA,
    with_bootstrap: bool = True,
) -> list[Verdict]:
    """Verdicts on the study file's own claims, then on P1-P4 and C1-C3.

    Args:
        study: a study folder or its loaded scores. roles: role -> run name, over those of the plan.
        level: of each family. with_bootstrap: also the crossed bootstrap's intervals, which decide nothing.
    Raises: BadInput naming a role or run that does not exist.
    """
    scores = load_scores(study) if isinstance(study, Path) else study
    written = written_words(scores.plan.claims)
    claims = [
        *planned_claims(scores, with_bootstrap=with_bootstrap),
        *paper_claims(scores, roles, with_bootstrap=with_bootstrap),
    ]
    by_family: dict[str, list[Claim]] = {}
    for claim in claims:
        if claim.is_asked():
            by_family.setdefault(claim.family, []).append(claim)
    adjusted = {family: adjusted_over(members, level) for family, members in by_family.items()}
    return [
        _verdict(claim, adjusted[claim.family], written.get(claim.claim_id, BY_THE_PACKAGE))
        if claim.is_asked()
        else _not_asked(claim, written.get(claim.claim_id, BY_THE_PACKAGE))
        for claim in claims
    ]


def adjusted_over(claims: Sequence[Claim], level: float) -> Adjusted:
    """Holm's correction over one family. An effect that two claims share is one test; a claim of many ways is one, too."""
    tested = {
        effect.key: effect.p
        for claim in claims
        for effect in (*claim.effects, *claim.counted)
        if effect.p is not None and too_little(effect) is None
    }
    best = {claim.claim_id: _best_way(claim) for claim in claims if claim.ways}
    family = tested | {claim_id: p for claim_id, p in best.items() if p is not None}
    adjusted = dict(zip(family, holm(list(family.values()))))
    for claim in claims:
        within = _ways_adjusted(claim)
        adjusted |= {key: max(p, adjusted[claim.claim_id]) for key, p in within.items()}
    equivalences = {
        effect.key: effect.p_equivalent
        for claim in claims
        for effect in (*claim.effects, *claim.counted)
        if effect.p_equivalent is not None and too_little(effect) is None
    }
    return Adjusted(
        effects=adjusted,
        equivalences=dict(zip(equivalences, holm(list(equivalences.values())))),
        level=level,
        first_level=level / max(1, len(family)),
    )


def _way_p(way: Sequence[Effect]) -> float | None:
    """All effects of a way must hold: their largest p-value tests that."""
    known = [effect.p for effect in way if effect.p is not None and too_little(effect) is None]
    return max(known) if len(known) == len(way) else None


def _best_way(claim: Claim) -> float | None:
    known = [p for way in claim.ways if (p := _way_p(way)) is not None]
    return min(1.0, min(known) * len(claim.ways)) if known else None


def way_key(claim: Claim, index: int) -> str:
    return f"{claim.claim_id} way {index}"


def _ways_adjusted(claim: Claim) -> dict[str, float]:
    known = {way_key(claim, index): p for index, way in enumerate(claim.ways) if (p := _way_p(way)) is not None}
    return dict(zip(known, holm(list(known.values()))))


# One claim


def _verdict(claim: Claim, adjusted: Adjusted, written: str) -> Verdict:
    premises = [_plain(premise, premise_state(premise)) for premise in claim.premises]
    if claim.ways:
        states, decisive = _ways(claim, adjusted)
    else:
        states = [adjusted.state(effect) for effect in claim.effects]
        decisive = [evidence_of(effect, adjusted, state) for effect, state in zip(claim.effects, states)]
    outcome = _outcome(claim, states)
    shown = [_plain(effect, "shown") for effect in claim.shown]
    return Verdict(
        claim_id=claim.claim_id,
        claim=claim.text,
        outcome=outcome,
        sentence=_sentence(claim, outcome, decisive, shown),
        evidence=[*decisive, *shown],
        premises=premises,
        written=written,
        family=claim.family,
    )


def _not_asked(claim: Claim, written: str) -> Verdict:
    return Verdict(
        claim_id=claim.claim_id,
        claim=claim.text,
        outcome="not asked",
        sentence=f"Not asked: {'; '.join(claim.unplanned()) or 'the study has nothing that it rests on'}.",
        evidence=[],
        written=written,
        family=claim.family,
    )


def _outcome(claim: Claim, states: Sequence[State]) -> Outcome:
    met = [is_met(premise) for premise in claim.premises]
    if any(one is False for one in met):
        return "premise not met"
    if any(one is None for one in met):
        return "cannot tell"
    if claim.ways:
        return "supported" if "holds" in states else "cannot tell"
    if all(state == "holds" for state in states):
        return "supported"
    if "fails" in states:
        return "not supported"
    return "equivalent" if all(state in ("holds", "equivalent") for state in states) else "cannot tell"


def _ways(claim: Claim, adjusted: Adjusted) -> tuple[list[State], list[Evidence]]:
    """A state for each way, and the evidence of the most telling ones: those that hold, else the one with the smallest p."""
    states: list[State] = []
    for index, way in enumerate(claim.ways):
        p = adjusted.effects.get(way_key(claim, index))
        holds = all(state_of(effect, p, None, level=adjusted.level) == "holds" for effect in way)
        states.append("holds" if holds else "open")
    ranked = sorted(range(len(claim.ways)), key=lambda i: (states[i] != "holds", _rank(_way_p(claim.ways[i]))))
    listed = ranked[: max(1, min(MOST_WAYS, states.count("holds")))]
    evidence = []
    for index in listed:
        p = adjusted.effects.get(way_key(claim, index))
        for effect in claim.ways[index]:
            state = state_of(effect, p, None, level=adjusted.level)
            evidence.append(evidence_of(effect, adjusted, state, p_holm=p))
    return states, evidence


def _rank(p: float | None) -> float:
    return 2.0 if p is None else p


def _plain(effect: Effect, state: Literal["holds", "fails", "equivalent", "open", "shown"]) -> Evidence:
    """Without what its family adds: of premises, and of what is only shown."""
    return Evidence(
        label=effect.label,
        effect=effect.estimate,
        p=effect.p,
        p_holm=None,
        test=effect.test,
        threshold=effect.threshold,
        state=state,
        bootstrap=effect.bootstrap,
    )


def evidence_of(effect: Effect, adjusted: Adjusted, state: State, *, p_holm: float | None = None) -> Evidence:
    found: Resolution = resolution(effect, adjusted.first_level, is_open=state == "open")
    return replace(
        _plain(effect, state),
        p_holm=adjusted.effects.get(effect.key) if p_holm is None else p_holm,
        power=found.power,
        power_effect=found.power_effect,
        minimal_effect=found.minimal_effect,
        needs=found.needs,
        margin=effect.margin,
        p_equivalent=adjusted.equivalences.get(effect.key),
    )


# In words


def _sentence(claim: Claim, outcome: Outcome, decisive: Sequence[Evidence], shown: Sequence[Evidence]) -> str:
    lead = f"{outcome[0].upper()}{outcome[1:]}"
    premises = [_premise_words(premise) for premise in claim.premises if is_met(premise) is not True]
    effects = claim.effects or [effect for way in claim.ways for effect in way]
    lacking = {effect.label: too_little(effect) for effect in (*effects, *claim.shown)}
    words = [*premises, *(_words(evidence, lacking.get(evidence.label)) for evidence in (*decisive, *shown))]
    if len(claim.ways) > 1:
        words.insert(len(premises), f"{len(claim.ways)} pairs of runs were compared")
    sentence = f"{lead}: {'; '.join(words)}"
    needs = "; ".join(f"{one.label} needs {one.needs}" for one in decisive if one.needs is not None)
    if outcome == "cannot tell" and needs:
        sentence += f". To decide: {needs}"
    return f"{sentence}."


def _premise_words(premise: Effect) -> str:
    if premise.is_true is False:
        return f"the plan contradicts the premise that {premise.label}"
    if is_met(premise) is None:
        return f"premise unknown ({premise.label}: {too_little(premise)})"
    return f"premise not shown: {_words(_plain(premise, premise_state(premise)), None)}"


def _words(evidence: Evidence, lacks: str | None) -> str:
    """'label +0.123 (95% interval +0.080 to +0.160, 400 items, 3 seeds, adjusted p .001, power .85 for 0.03)'."""
    effect = evidence.effect
    if effect.value is None:
        return f"{evidence.label}: {lacks}"
    digits = 5 if evidence.test in OF_NO_ITEMS else 3  # MMD^2 is of the order of .01
    about = []
    if effect.lo is not None and effect.hi is not None:
        about.append(f"95% interval {effect.lo:+.{digits}f} to {effect.hi:+.{digits}f}")
    elif effect.note is not None:
        about.append(effect.note)
    if evidence.threshold != 0:
        about.append(f"must be above {evidence.threshold:+.{digits}f}")
    if evidence.test not in OF_NO_ITEMS:
        about.append(f"{effect.n_items} {'runs' if evidence.test in SHOWN_TESTS else 'items'}")
    about.append(f"{effect.n_seeds} seed{'' if effect.n_seeds == 1 else 's'}")
    if evidence.p_holm is not None:
        about.append(f"adjusted p {_p_words(evidence.p_holm)}")
    if evidence.state == "equivalent" and evidence.margin is not None and evidence.p_equivalent is not None:
        about.append(f"within {evidence.margin:.3f} of zero, adjusted p {_p_words(evidence.p_equivalent)}")
    if evidence.power is not None and evidence.power_effect is not None:
        about.append(f"power {evidence.power:.2f} for {evidence.power_effect:.2g}".replace("0.", ".", 1))
    if lacks is not None and "fewer" in lacks:
        about.append(f"not enough data to decide: {lacks}")
    return f"{evidence.label} {effect.value:+.{digits}f} ({', '.join(about)})"


def _p_words(p: float) -> str:
    return "below .001" if p < 0.001 else f"{p:.3f}".replace("0.", ".", 1)
