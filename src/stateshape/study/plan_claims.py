"""The claims of a study file: checked before any model loads, and kept in plan.json with the date they were written.

Loads no model. What a claim means is in analysis/planned_claims.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from stateshape.core.files import BadInput, plain, sha256_text
from stateshape.core.study_records import BASE, ClaimChoice, EffectChoice, PlannedClaim
from stateshape.core.wording import shown

MEASURED = ("drift.", "locality.")
ALONG = ("along.line_r2", "along.line_slope", "along.peak")  # analysis/line.py
DOSES = ("forward_kl_new_task_nats", "k3_distance", "update_frobenius")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
OF_THE_PACKAGE = ("P1", "P2", "P3", "P4", "C1", "C2", "C3")


def check_claims(claims: Mapping[str, ClaimChoice], *, runs: Sequence[str], tasks: Sequence[str]) -> None:
    """Raises BadInput with the field where a claim names what the study does not have, or says two things."""
    for name, claim in claims.items():
        where = f"claims.{shown(name)}" if not NAME.fullmatch(name) else f"claims.{name}"
        if not NAME.fullmatch(name) or name in OF_THE_PACKAGE:
            raise BadInput(
                f"{where}: got {shown(name)}; expected letters, digits, '_', '-' and '.', and not one of the package's own "
                f"claims ({', '.join(OF_THE_PACKAGE)}); rename it"
            )
        if not claim.effects:
            raise BadInput(f"{where}.effects: got none; expected at least one effect that decides the claim")
        for kind, effects in (("effects", claim.effects), ("premises", claim.premises)):
            for index, effect in enumerate(effects):
                check_effect(effect, f"{where}.{kind}[{index}]", runs=runs, tasks=tasks)


def check_effect(effect: EffectChoice, where: str, *, runs: Sequence[str], tasks: Sequence[str]) -> None:
    """Raises BadInput."""
    pair, least = effect.contrast, 1 if effect.measure is not None else 2
    if not least <= len(pair) <= 2 or len(set(pair)) != len(pair):
        expected = "one run, or two different ones" if least == 1 else "two different runs: [first, second]"
        raise BadInput(f"{where}.contrast: got {shown(pair)}; expected {expected}")
    if odd := [run for run in pair if run not in runs]:
        raise BadInput(f"{where}.contrast: got {shown(odd[0])}; expected one of {', '.join(runs)}")
    if effect.above is not None and effect.below is not None:
        raise BadInput(f"{where}: got above {effect.above:g} and below {effect.below:g}; expected one of the two")
    if effect.task not in ("target", "retention", *tasks):
        raise BadInput(
            f"{where}.task: got {shown(effect.task)}; expected target, retention or one of {', '.join(tasks)}"
        )
    if effect.task == "retention" and len(tasks) == 1 and effect.measure is None:
        raise BadInput(f"{where}.task: got retention; expected target: the study has no retention task")
    if effect.equivalence is not None and not effect.equivalence > 0:
        raise BadInput(f"{where}.equivalence: got {effect.equivalence:g}; expected a number above 0")
    check_measure(effect, where)


def check_measure(effect: EffectChoice, where: str) -> None:
    """Raises BadInput."""
    if effect.measure is not None:
        if not effect.measure.startswith(MEASURED) and effect.measure not in ALONG:
            raise BadInput(
                f"{where}.measure: got {shown(effect.measure)}; expected drift.NAME or locality.NAME (docs/drift.md, "
                f"docs/locality.md), or one of {', '.join(ALONG)} (docs/dose.md)"
            )
        if effect.dose is not None or effect.score is not None or effect.equivalence is not None:
            raise BadInput(f"{where}: got a measure with dose, score or equivalence; expected these for scores only")
    if effect.dose is not None:
        if effect.score is not None:
            raise BadInput(f"{where}: got score and dose; expected one of them: doses have the tasks' own scores")
        if effect.dose.measure not in DOSES:
            raise BadInput(
                f"{where}.dose.measure: got {shown(effect.dose.measure)}; expected one of {', '.join(DOSES)}"
            )
        if effect.dose.at is not None and not effect.dose.at > 0:
            raise BadInput(f"{where}.dose.at: got {effect.dose.at:g}; expected a distance above 0")
        if BASE in effect.contrast:
            raise BadInput(f"{where}.contrast: got base with a dose; expected two trained runs: the base is at dose 0")


def recorded_claims(
    begun: Sequence[PlannedClaim], claims: Mapping[str, ClaimChoice], *, now: str, runs_begun: int
) -> list[PlannedClaim]:
    """The claims as plan.json keeps them: an unchanged one with its first date, a new or changed one with now.

    One that the study file no longer has stays, withdrawn. now: ISO date. runs_begun: folders of runs that exist.
    """
    known = {(one.claim_id, one.sha256): one for one in begun}
    kept = []
    for name, claim in claims.items():
        sha256 = claim_sha256(claim)
        before = known.pop((name, sha256), None)
        new = PlannedClaim(claim_id=name, claim=claim, sha256=sha256, written=now, runs_begun=runs_begun)
        kept.append(new if before is None else replace(before, withdrawn=None))
    return [*kept, *(replace(one, withdrawn=one.withdrawn or now) for one in known.values())]


def claim_sha256(claim: ClaimChoice) -> str:
    """Of the meaning: labels may change."""
    meaning = plain(claim)
    for effect in (*meaning["effects"], *meaning["premises"]):
        del effect["label"]
    return sha256_text(json.dumps(meaning, sort_keys=True))
