"""An effect that a claim of a study file names: of scores, at the runs' ends or at a distance, or of a measure.

Torch-free; decides nothing. Which effects make a claim is planned_claims.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from stateshape.analysis.claims import drift_values
from stateshape.analysis.effects import (
    Effect,
    counted,
    dose_effect,
    equivalence_margin,
    item_effect,
    lacking,
    over_seeds,
    secondary_study,
)
from stateshape.analysis.enough import few_prompts, few_states
from stateshape.analysis.line import NAMES, values_along
from stateshape.analysis.reading import GOLD_LOGP
from stateshape.analysis.scores import StudyScores
from stateshape.core.dose_records import DOSE_NAMES
from stateshape.core.measure_words import distance_name, measure_name, score_name
from stateshape.core.study_records import EffectChoice

DRIFT_PREFIX, LOCALITY_PREFIX, ALONG_PREFIX, RUN_PREFIX = "drift.", "locality.", "along.", "run."
COUNTS = ("steps", "supervised_tokens", "sampled_tokens")
BEFORE_PREFIX = LOCALITY_PREFIX + "before."
CLASSIFIER = "c2st_auc"


def planned_effect(study: StudyScores, choice: EffectChoice, *, with_bootstrap: bool = True) -> Effect:
    """Turned round where it must be below its threshold, so that every effect is predicted above one."""
    is_below = choice.below is not None
    pair = list(reversed(choice.contrast)) if is_below else list(choice.contrast)
    threshold = -choice.below if choice.below is not None else choice.above or 0.0
    scores = study if choice.score is None else secondary_study(study, choice.score)
    if choice.measure is not None:
        return _measured(scores, choice, choice.measure, threshold)
    tasks = tasks_of(study, choice.task)
    is_share = choice.score != GOLD_LOGP
    margin = choice.equivalence
    if margin is None and is_share:
        margin = equivalence_margin(study, tasks)
    label = choice.label or _label(study, choice, pair)
    about = "" if choice.score is None else f" in {choice.score}"
    if choice.dose is not None:
        first, second = pair
        effect = dose_effect(
            scores,
            label,
            (first, second),
            tasks,
            measure=choice.dose.measure,
            dose=choice.dose.at,
            threshold=threshold,
            margin=margin,
            with_bootstrap=with_bootstrap,
            about=about,
        )
        return replace(effect, is_share=is_share)
    effect = item_effect(
        scores,
        label,
        _weights(choice),
        tasks,
        threshold=threshold,
        margin=margin,
        with_bootstrap=with_bootstrap,
        about=about,
    )
    return replace(effect, is_share=is_share)


def _weights(choice: EffectChoice) -> dict[str, float]:
    """Of runs, turned round where the effect must be below its threshold."""
    sign = -1.0 if choice.below is not None else 1.0
    weights: dict[str, float] = {}
    for pair, share in ((choice.contrast, sign), (choice.minus or [], -sign)):
        for run, own in zip(pair, (share, -share)):
            weights[run] = weights.get(run, 0.0) + own
    return weights


def _measured(study: StudyScores, choice: EffectChoice, measure: str, threshold: float) -> Effect:
    """First run minus second (or the first run alone) in one number per seed, turned round where it must be below."""
    planned = [run.name for run in study.plan.runs]
    label = (
        choice.label or f"{_in_words(choice, measure)}: {' minus '.join(study.label(run) for run in choice.contrast)}"
    )
    if absent := [run for run in choice.contrast if run not in planned]:
        lacks = f"the study does not plan the run {absent[0]}"
        return lacking(label, lacks, test="not available", is_planned=False, threshold=threshold)
    sign = -1.0 if choice.below is not None else 1.0
    first, *others = [measured_values(study, run, measure) for run in choice.contrast]
    seeds = set(first).intersection(*(set(other) for other in others))
    values = {seed: sign * (first[seed] - sum(other[seed] for other in others)) for seed in seeds}
    label += " (below, sign turned)" if sign < 0 else ""
    if measure.startswith(RUN_PREFIX):
        return counted(label, values, threshold=threshold, lacks="no run has finished")
    effect = over_seeds(label, values, threshold=threshold, lacks=f"{measure} was not measured")
    return replace(effect, lacks=effect.lacks or _too_few(study, choice.contrast, measure))


def _too_few(study: StudyScores, runs: Sequence[str], measure: str) -> str | None:
    """Why a distance decides nothing, in words: it was measured on too few states or prompts."""
    if measure.startswith(DRIFT_PREFIX):
        return few_states(study, runs)
    by_measure = {
        f"{LOCALITY_PREFIX}{CLASSIFIER}": study.locality,
        f"{BEFORE_PREFIX}{CLASSIFIER}": study.locality_before,
    }
    return few_prompts(by_measure.get(measure, {}), runs)


def _in_words(choice: EffectChoice, measure: str) -> str:
    if measure.startswith(ALONG_PREFIX):
        name = NAMES[measure.removeprefix(ALONG_PREFIX)]
        return name if choice.score is None else f"{name} ({score_name(choice.score)})"
    if measure.startswith(DRIFT_PREFIX):
        return f"drift ({distance_name(measure.removeprefix(DRIFT_PREFIX))})"
    if measure.startswith(BEFORE_PREFIX):
        return f"{measure_name(measure.removeprefix(BEFORE_PREFIX))}, before training"
    return measure_name(measure.removeprefix(RUN_PREFIX).removeprefix(LOCALITY_PREFIX))


def measured_values(study: StudyScores, run: str, measure: str) -> Mapping[int, float]:
    """By seed: drift.NAME from drift.json, locality.NAME over the run's probes (probe_values.py), locality.before.NAME from
    the probe before the first step, along.NAME from the points on the run's way, run.NAME from run.json.
    """
    if measure.startswith(RUN_PREFIX):
        name = measure.removeprefix(RUN_PREFIX)
        return {seed: counts[name] for seed, counts in study.counts.get(run, {}).items()}
    if measure.startswith(DRIFT_PREFIX):
        return drift_values(study, run, measure.removeprefix(DRIFT_PREFIX))
    if measure.startswith(ALONG_PREFIX):
        return values_along(study, run, measure.removeprefix(ALONG_PREFIX))
    is_before = measure.startswith(BEFORE_PREFIX)
    name = measure.removeprefix(BEFORE_PREFIX if is_before else LOCALITY_PREFIX)
    records = study.locality_before if is_before else study.locality
    by_seed = {seed: record.values.get(name) for seed, record in records.get(run, {}).items()}
    return {seed: value for seed, value in by_seed.items() if value is not None}


def tasks_of(study: StudyScores, task: str) -> list[str]:
    """Names of the tasks that an effect's `task` stands for."""
    if task == "target":
        return [study.plan.target.name]
    return [kept.name for kept in study.plan.retention] if task == "retention" else [task]


def _label(study: StudyScores, choice: EffectChoice, pair: list[str]) -> str:
    known = {task.name: task.label for task in study.tasks()}
    what = {"target": study.plan.target.label, "retention": "mean retained score"}.get(choice.task) or known.get(
        choice.task, choice.task
    )
    score = "" if choice.score is None else f" ({score_name(choice.score)})"
    dose = "" if choice.dose is None else f" at equal {DOSE_NAMES.get(choice.dose.measure, choice.dose.measure)}"
    pairs = [pair] if choice.minus is None else [pair, choice.minus if choice.below is None else choice.minus[::-1]]
    told = [" minus ".join(study.label(run) for run in one) for one in pairs]
    return f"{what}{score}{dose}, {told[0] if len(told) == 1 else ' minus '.join(f'({one})' for one in told)}"
