"""Whether the claims of a study file name what the study will have. Loads no model."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence

from stateshape.analysis.planned_effects import ALONG_PREFIX
from stateshape.analysis.sampled import of_samples
from stateshape.core.dose_records import DOSE_NAMES
from stateshape.core.files import BadInput
from stateshape.core.study_records import BASE, DoseChoice, EffectChoice
from stateshape.core.wording import shown
from stateshape.study.claim_names import measured_names, score_names
from stateshape.study.study_file import StudyFile
from stateshape.tasks.task import Task

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
OF_THE_PACKAGE = ("P1", "P2", "P3", "P4", "C1", "C2", "C3")
ADD_ALONG = "expected scores along the runs; add along: {points: 6} to the study file (docs/dose.md)"


def check_claims(file: StudyFile) -> None:
    """Raises BadInput with the field where a claim names what the study does not have, or says two things."""
    for name, claim in file.claims.items():
        where = f"claims.{shown(name)}" if not NAME.fullmatch(name) else f"claims.{name}"
        if not NAME.fullmatch(name) or name in OF_THE_PACKAGE:
            raise BadInput(
                f"{where}: got {shown(name)}; expected letters, digits, '_', '-' and '.', and not one of the package's own "
                f"claims ({', '.join(OF_THE_PACKAGE)}); rename it"
            )
        if not claim.effects:
            raise BadInput(f"{where}.effects: got none; expected at least one effect that decides the claim")
    for where, effect in effects_of(file):
        check_effect(effect, where, file)


def effects_of(file: StudyFile) -> Iterator[tuple[str, EffectChoice]]:
    """Every effect and premise of the file's claims, with its place there."""
    for name, claim in file.claims.items():
        for kind, effects in (("effects", claim.effects), ("premises", claim.premises)):
            yield from ((f"claims.{name}.{kind}[{index}]", effect) for index, effect in enumerate(effects))


def check_effect(effect: EffectChoice, where: str, file: StudyFile) -> None:
    """Raises BadInput."""
    runs, tasks = [BASE, *file.runs], [choice.task for choice in (file.target, *file.retention)]
    pair, least = effect.contrast, 1 if effect.measure is not None else 2
    if not least <= len(pair) <= 2 or len(set(pair)) != len(pair):
        expected = "one run, or two different ones" if least == 1 else "two different runs: [first, second]"
        raise BadInput(f"{where}.contrast: got {shown(pair)}; expected {expected}")
    if odd := [run for run in pair if run not in runs]:
        raise BadInput(f"{where}.contrast: got {shown(odd[0])}; expected one of {', '.join(runs)}")
    if effect.minus is not None:
        check_minus(effect, effect.minus, where, runs)
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
    if effect.measure is not None:
        check_measure(effect, effect.measure, where, file)
    if effect.dose is not None:
        check_dose(effect, effect.dose, where, file)


def check_minus(effect: EffectChoice, minus: list[str], where: str, runs: Sequence[str]) -> None:
    """Raises BadInput."""
    if len(minus) != 2 or minus[0] == minus[1] or minus == effect.contrast:
        raise BadInput(
            f"{where}.minus: got {shown(minus)}; expected two different runs, another pair than the contrast"
        )
    if odd := [run for run in minus if run not in runs]:
        raise BadInput(f"{where}.minus: got {shown(odd[0])}; expected one of {', '.join(runs)}")
    if effect.dose is not None or effect.measure is not None:
        raise BadInput(
            f"{where}.minus: got one with a dose or a measure; expected it for scores at the runs' ends only"
        )


def check_measure(effect: EffectChoice, measure: str, where: str, file: StudyFile) -> None:
    """Raises BadInput."""
    if effect.dose is not None or effect.equivalence is not None:
        raise BadInput(f"{where}: got a measure with dose or equivalence; expected these for scores only")
    if effect.score is not None and not measure.startswith(ALONG_PREFIX):
        raise BadInput(f"{where}: got a measure with a score; expected one for along.NAME only, which is about scores")
    if BASE in effect.contrast:
        raise BadInput(
            f"{where}.contrast: got base with a measure; expected trained runs: base is what they are measured from"
        )
    if file.along is None and measure.startswith(ALONG_PREFIX):
        raise BadInput(f"{where}.measure: got {shown(measure)} in a study without along; {ADD_ALONG}")
    known = measured_names(file)
    if measure not in known:
        near = difflib.get_close_matches(measure, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise BadInput(
            f"{where}.measure: got {shown(measure)}; expected what this study measures: drift.NAME, locality.NAME, "
            f"along.NAME or run.NAME (docs/verdicts.md){hint}"
        )


def check_dose(effect: EffectChoice, dose: DoseChoice, where: str, file: StudyFile) -> None:
    """Raises BadInput."""
    if dose.measure not in DOSE_NAMES:
        raise BadInput(f"{where}.dose.measure: got {shown(dose.measure)}; expected one of {', '.join(DOSE_NAMES)}")
    if dose.at is not None and not dose.at > 0:
        raise BadInput(f"{where}.dose.at: got {dose.at:g}; expected a distance above 0")
    if BASE in effect.contrast:
        raise BadInput(f"{where}.contrast: got base with a dose; expected two trained runs: the base is at dose 0")
    if file.along is None:
        raise BadInput(f"{where}.dose: got one in a study without along; {ADD_ALONG}")


def check_scores(file: StudyFile, target: Task, retention: Sequence[Task]) -> None:
    """Whether the secondary scores that claims name will be there. Raises BadInput."""
    choices = (file.target, *file.retention)
    known = [
        (task, score_names(task, choice.samples)) for task, choice in zip((target, *retention), choices, strict=True)
    ]
    by_name = {choice.task: [one] for choice, one in zip(choices, known)} | {
        "target": known[:1],
        "retention": known[1:],
    }
    for where, effect in effects_of(file):
        of = "target" if effect.measure is not None else effect.task  # what is measured along runs is about the target
        for task, scores in by_name[of]:
            if effect.score is not None and effect.score not in scores:
                others = f"one of {', '.join(scores)}" if scores else "none"
                raise BadInput(
                    f"{where}.score: got {shown(effect.score)}; expected {others}, which rows of {task.name} have beside "
                    f"{task.metric}; samples add strict_t1, flexible_t1 and pass_at_2 to answers in free text"
                )
        check_sampled_along(file, where, effect)


def check_sampled_along(file: StudyFile, where: str, effect: EffectChoice) -> None:
    """Raises BadInput where a score of samples is asked for on the runs' way, and samples are taken at the end only."""
    is_along = effect.dose is not None or effect.measure is not None
    if is_along and effect.score is not None and of_samples([effect.score]) and not (file.along and file.along.samples):
        raise BadInput(
            f"{where}.score: got {shown(effect.score)} on the way of runs, which take samples at their end only; expected "
            "samples at each point; add samples: true to along"
        )
