"""The claims of a study file as plan.json keeps them, with the date they were written. Loads no model.

What a claim means is in analysis/planned_claims.py; what it may name, in claim_checks.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from stateshape.core.files import plain, sha256_text
from stateshape.core.study_records import ClaimChoice, EffectChoice, PlannedClaim
from stateshape.study.study_file import StudyFile


def claims_by_task_name(file: StudyFile, names: Sequence[str]) -> dict[str, ClaimChoice]:
    """The file's claims with tasks as records name them. names: of the target and the retention tasks, whose rows may be in a
    file or on the hub (data.jsonl is the task data).
    """
    own = dict(zip((choice.task for choice in (file.target, *file.retention)), names, strict=True))

    def renamed(effects: Sequence[EffectChoice]) -> list[EffectChoice]:
        return [replace(effect, task=own.get(effect.task, effect.task)) for effect in effects]

    return {
        name: replace(claim, effects=renamed(claim.effects), premises=renamed(claim.premises))
        for name, claim in file.claims.items()
    }


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
    """Of the meaning: labels may change, and what claims of before could not say is not part of theirs."""
    meaning = plain(claim)
    for effect in (*meaning["effects"], *meaning["premises"]):
        del effect["label"]
        if effect["minus"] is None:
            del effect["minus"]
    return sha256_text(json.dumps(meaning, sort_keys=True))
