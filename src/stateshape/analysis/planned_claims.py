"""The claims of a study file as premises and effects of the study's runs, and what is shown beside them.

Torch-free; decides nothing. The claims are in plan.json with the date at which they were written, and whether a run had begun
by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stateshape.analysis.dose import reaching
from stateshape.analysis.effects import Claim, Effect, other_scores
from stateshape.analysis.planned_effects import planned_effect, tasks_of
from stateshape.analysis.sampled import PASS_PREFIX
from stateshape.analysis.scores import StudyScores
from stateshape.core.measure_words import score_name
from stateshape.core.study_records import EffectChoice, PlannedClaim


def planned_claims(study: StudyScores, *, with_bootstrap: bool = True) -> list[Claim]:
    """The claims that the study file still has, in its order."""
    return [
        _planned_claim(study, planned, with_bootstrap) for planned in study.plan.claims if planned.withdrawn is None
    ]


def _planned_claim(study: StudyScores, planned: PlannedClaim, with_bootstrap: bool) -> Claim:
    choice = planned.claim
    effects = [planned_effect(study, one, with_bootstrap=with_bootstrap) for one in choice.effects]
    decisive = {effect.key for effect in effects if effect.lacks is None}
    beside = [shown for one in choice.effects for shown in _beside(study, one)]
    return Claim(
        claim_id=planned.claim_id,
        text=choice.text,
        premises=[planned_effect(study, one, with_bootstrap=with_bootstrap) for one in choice.premises],
        effects=effects,
        shown=[effect for effect in beside if effect.key not in decisive],
        family=choice.family,
    )


def _beside(study: StudyScores, choice: EffectChoice) -> list[Effect]:
    """What is shown beside an effect and decides nothing.

    An effect on the target by the task's own score, once more by each other share of right answers that the runs have: what is
    seen in one of them alone may be how answers are written, and not what was learned. And an effect at a distance that some
    seeds do not reach, by those that do: which ones do is an outcome itself.
    """
    alike = [choice, *_by_other_scores(study, choice)]
    shown = [planned_effect(study, one, with_bootstrap=False) for one in alike[1:]]
    shown += [effect for one in alike if (effect := _by_some_seeds(study, one)) is not None]
    return [effect for effect in shown if effect.lacks is None]


def _by_other_scores(study: StudyScores, choice: EffectChoice) -> list[EffectChoice]:
    target = study.plan.target.name
    if choice.measure is not None or choice.score is not None or tasks_of(study, choice.task) != [target]:
        return []
    names = [name for name in other_scores(study, target) if not name.startswith(PASS_PREFIX)]
    return [
        replace(choice, score=name, label=choice.label and f"{choice.label} ({score_name(name)})") for name in names
    ]


def _by_some_seeds(study: StudyScores, choice: EffectChoice) -> Effect | None:
    """None where all seeds reach the distance, or where it is not one that the claim names."""
    if choice.measure is not None or choice.dose is None or choice.dose.at is None:
        return None
    runs = [run for run in choice.contrast if study.along.get(run)]
    some = reaching(study, runs, choice.dose.measure, choice.dose.at)
    count, total = (max((len(one.along[run]) for run in runs), default=0) for one in (some, study))
    if not 0 < count < total:
        return None
    effect = planned_effect(some, choice, with_bootstrap=False)
    return replace(effect, label=f"{count} of {total} seeds reach it: {effect.label}")


def written_words(claims: Sequence[PlannedClaim]) -> dict[str, str]:
    """When each claim that the study file still has was written, by its id, and what it replaces."""
    words = {one.claim_id: f"written {_when(one)}" for one in claims if one.withdrawn is None}
    for one in claims:
        if one.withdrawn is not None and one.claim_id in words:
            words[one.claim_id] += f"; replaces one written {_when(one)}"
    return words


def withdrawn_words(claims: Sequence[PlannedClaim]) -> list[str]:
    """One warning for each claim that the study file dropped; one that was only changed is not among them."""
    kept = {one.claim_id for one in claims if one.withdrawn is None}
    return [
        f"claim {one.claim_id}, written {_when(one)}, was withdrawn on {(one.withdrawn or '')[:10]}"
        for one in claims
        if one.claim_id not in kept
    ]


def _when(planned: PlannedClaim) -> str:
    begun = "before the first run" if planned.runs_begun == 0 else f"after {planned.runs_begun} runs had begun"
    return f"{planned.written[:10]}, {begun}"
