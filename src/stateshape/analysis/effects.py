"""An effect that a claim rests on, a claim, and the ways to compute an effect from a study. Torch-free.

An effect is oriented so that its claim predicts "above `threshold`". Effects come from evaluated items (paired by item and
seed), from runs compared at equal dose, from one number per training seed (drift, locality), or are facts of the plan.
Decides nothing (rule.py), and knows no claim (paper_claims.py, planned_claims.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import t as student_t
from scipy.stats import ttest_1samp

from stateshape.analysis.dose import common_dose, first_measured, interpolation_error, matched, measures, reach
from stateshape.analysis.estimates import EMPTY, contrast, equivalence_p, shifted, too_few_items, wider
from stateshape.analysis.sampled import of_samples
from stateshape.analysis.scores import EXTRACTIONS, DosePoint, StudyScores
from stateshape.core.study_records import BASE, COUNTED, STATED, Estimate, PairedDifference

OVER_SEEDS = "t interval over seeds"
PERMUTATIONS = "permutations of each seed, combined"
OF_NO_ITEMS = (OVER_SEEDS, PERMUTATIONS)  # tests of one number per seed
NEGLIGIBLE = 0.001  # a smaller error of interpolation is not mentioned
EQUIVALENCE_SHARE = 0.05  # of what the base scores above chance: a difference smaller than this counts as none


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """One effect a claim rests on. p tests "effect = threshold", two-sided; None where there is nothing to test.

    p_equivalent: of "the effect is not within `margin` of zero", by two one-sided tests (Schuirmann 1987).
    """

    key: str  # what is tested, from run and task names: two claims that share an effect share one test
    label: str
    estimate: Estimate
    p: float | None
    test: str
    threshold: float = 0.0
    margin: float | None = None
    p_equivalent: float | None = None
    lacks: str | None = None  # why there is no effect, in words
    is_planned: bool = True  # whether the study plans what it needs
    is_true: bool | None = None  # of a fact of the plan
    too_few_items: str | None = None  # why its items cannot decide anything, in words
    bootstrap: tuple[float, float] | None = None
    weights: Mapping[str, float] = field(default_factory=dict)  # of runs, for scores of evaluated items; else empty
    tasks: tuple[str, ...] = ()
    is_share: bool = True  # of right answers or probability; else of another unit, such as nats
    is_at_dose: bool = False  # compared at equal distance from the base, on the items that are evaluated along runs


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """Supported where all `effects` hold; with `ways` instead, where all effects of one way hold.

    premises: what must hold for the claim to be asked. counted: effects that are tested and turned out not to be asked; they
    stay in the family, because the data decided that. shown: reported, decides nothing. family: the effects of one family
    share Holm's correction.
    """

    claim_id: str
    text: str
    premises: Sequence[Effect] = ()
    effects: Sequence[Effect] = ()
    ways: Sequence[Sequence[Effect]] = ()
    counted: Sequence[Effect] = ()
    shown: Sequence[Effect] = ()
    family: str = "paper"

    def is_asked(self) -> bool:
        """Whether the study plans all that the claim rests on."""
        asked = [effect for way in self.ways for effect in way] if self.ways else [*self.premises, *self.effects]
        return bool(asked) and all(effect.is_planned for effect in asked)

    def unplanned(self) -> list[str]:
        """What the study does not plan, in words."""
        effects = [*self.premises, *self.effects, *(effect for way in self.ways for effect in way)]
        return list(dict.fromkeys(effect.lacks for effect in effects if not effect.is_planned and effect.lacks))


def fact(label: str, is_true: bool) -> Effect:
    """Something that the plan states and no data can change."""
    return Effect(key=label, label=label, estimate=EMPTY, p=None, test=STATED, is_true=is_true)


def counted(label: str, values: Mapping[int, float], *, threshold: float, lacks: str) -> Effect:
    """What was counted and not estimated, by seed: true where it is above the threshold in every seed."""
    if not values:
        return lacking(label, lacks, test=COUNTED, threshold=threshold)
    least, most = min(values.values()), max(values.values())
    found = f"{least:,.0f}" if least == most else f"{least:,.0f} to {most:,.0f}"
    told = fact(f"{label}: {found}, above {threshold:,.0f}", is_true=least > threshold)
    return replace(told, test=COUNTED, threshold=threshold)


def lacking(label: str, lacks: str, *, test: str, is_planned: bool = True, threshold: float = 0.0) -> Effect:
    """An effect that cannot be computed, with the reason."""
    return Effect(
        key=label,
        label=label,
        estimate=replace(EMPTY, note=lacks),
        p=None,
        test=test,
        threshold=threshold,
        lacks=lacks,
        is_planned=is_planned,
    )


def item_effect(
    study: StudyScores,
    label: str,
    weights: Mapping[str, float],
    tasks: Sequence[str],
    *,
    threshold: float = 0.0,
    offset: float = 0.0,
    margin: float | None = None,
    with_bootstrap: bool = True,
    about: str = "",
    off_by: float = 0.0,
) -> Effect:
    """Mean over tasks of sum_r weight_r score_r, minus `offset`, paired by item and seed.

    about: part of the key, for scores that are not the tasks' own at the end of the runs. What is missing gives an effect
    with the reason in `lacks`. off_by: how far the effect may be from the truth, whatever the items and seeds: its interval is
    wider by it on both sides, p is that of the nearest value within `off_by` of the threshold, and the margin is as much less.
    """
    planned = [run.name for run in study.plan.runs]
    absent = [run for run in weights if run not in planned]
    terms = [f"{weight:+g} {run}" for run, weight in sorted(weights.items())]
    null = threshold + offset
    difference = contrast(study, weights, tasks, null=null, with_bootstrap=with_bootstrap)
    if off_by > 0:
        difference = _loosened(study, weights, tasks, difference, null=null, by=off_by)
    lacks = None
    if not tasks:
        lacks = "the study has no retention task"
    elif absent:
        lacks = f"the study does not plan the run{'s' if len(absent) > 1 else ''} {', '.join(absent)}"
    elif difference.difference.value is None:
        lacks = f"no finished rows for {' and '.join(weights)} with the same seed"
    bootstrap = difference.bootstrap
    return Effect(
        key=f"{' '.join(terms)} on {' '.join(tasks)} above {threshold + offset:g}{about}",
        label=label,
        estimate=shifted(difference.difference, -offset) if lacks is None else replace(EMPTY, note=lacks),
        p=difference.p,
        test=difference.test,
        threshold=threshold,
        margin=margin,
        p_equivalent=None if margin is None else equivalence_p(study, weights, tasks, max(0.0, margin - off_by)),
        lacks=lacks,
        is_planned=not absent and bool(tasks),
        too_few_items=too_few_items(study, weights, tasks),
        bootstrap=None if bootstrap is None else (bootstrap[0] - offset, bootstrap[1] - offset),
        weights={} if absent else weights,
        tasks=tuple(tasks),
    )


def _loosened(
    study: StudyScores,
    weights: Mapping[str, float],
    tasks: Sequence[str],
    difference: PairedDifference,
    *,
    null: float,
    by: float,
) -> PairedDifference:
    """The difference as it is, where it may be off by a number: tested against the nearest value within it of `null`."""
    found, bootstrap = difference.difference, difference.bootstrap
    if found.value is None:
        return difference
    nearest = min(max(found.value, null - by), null + by)
    p = contrast(study, weights, tasks, null=nearest, with_bootstrap=False).p
    return replace(
        difference,
        difference=wider(found, by),
        p=1.0 if p is not None and nearest == found.value else p,
        bootstrap=None if bootstrap is None else (bootstrap[0] - by, bootstrap[1] + by),
    )


def dose_effect(
    study: StudyScores,
    label: str,
    pair: tuple[str, str],
    tasks: Sequence[str],
    *,
    measure: str,
    dose: float | None = None,
    weights: Mapping[str, float] | None = None,
    threshold: float = 0.0,
    offset: float = 0.0,
    margin: float | None = None,
    with_bootstrap: bool = True,
    about: str = "",
) -> Effect:
    """As item_effect, with the runs of `pair` at the same distance from the base instead of at their ends.

    Scores between two measured points are on a straight line; how far that may be off (dose.interpolation_error, added up over
    the runs) is part of the interval and of the test, and in the label.

    Args:
        measure: of the distance, as in along.jsonl. dose: the distance; None: the largest one that every seed of both reaches.
        weights: of runs, where they are not the first of the pair minus the second.
    """
    weights = weights or {pair[0]: 1.0, pair[1]: -1.0}
    if study.plan.num_along == 0:
        unplanned = "the study does not plan scores along the runs (`along:` in the study file)"
        return lacking(label, unplanned, test="not available", is_planned=False, threshold=threshold)
    trained = [run for run in pair if run != BASE]
    at, lacks = _common_measured(study, trained, measure, dose)
    if lacks is not None:
        at_end = item_effect(
            study,
            label if dose is None else f"{label} (at {dose:.3g})",
            weights,
            tasks,
            threshold=threshold,
            offset=offset,
            with_bootstrap=False,
            about=f"{about} at {measure} {'that both reach' if dose is None else f'{dose:.6g}'}",
        )
        return _never_measured(at_end, at_end.lacks or lacks)
    off_by = sum(abs(weights.get(run, 0.0)) * interpolation_error(study, run, measure, at, tasks) for run in trained)
    between = f", give or take {off_by:.2g} between measured points" if off_by >= NEGLIGIBLE else ""
    effect = item_effect(
        matched(study, trained, measure, at),
        f"{label} (at {at:.3g}{between})",
        weights,
        tasks,
        threshold=threshold,
        offset=offset,
        margin=margin,
        with_bootstrap=with_bootstrap,
        about=f"{about} at {measure} {at:.6g}",
        off_by=off_by,
    )
    if effect.lacks is not None and effect.is_planned:
        lacks = f"{effect.lacks} that reaches {measure} {at:.3g}"
        effect = replace(effect, lacks=lacks, estimate=replace(effect.estimate, note=lacks))
    return replace(effect, is_at_dose=True)


def _never_measured(at_end: Effect, lacks: str) -> Effect:
    """The effect at a distance at which its runs were not measured."""
    estimate = replace(EMPTY, note=lacks)
    return replace(at_end, estimate=estimate, p=None, p_equivalent=None, bootstrap=None, lacks=lacks, is_at_dose=True)


def _common_measured(
    study: StudyScores, runs: Sequence[str], measure: str, dose: float | None
) -> tuple[float, str | None]:
    """A dose at which all runs were measured, or in words why there is none."""
    if measure not in measures(study) or any(reach(study, run, measure) is None for run in runs):
        return 0.0, f"no {measure} along {' and '.join(runs)}"
    farthest = common_dose(study, runs, measure) or 0.0
    at = farthest if dose is None else dose
    nearest = {run: first_measured(study, run, measure) or 0.0 for run in runs}
    run = max(nearest, key=nearest.__getitem__)
    if at <= 0 or at > farthest or at < nearest[run]:
        other = min(runs, key=lambda one: reach(study, one, measure) or 0.0)
        return 0.0, (
            f"never measured at one {measure}: {study.label(other)} reaches {farthest:.3g} in every seed, and "
            f"{study.label(run)} was first measured at {nearest[run]:.3g}"
            + ("" if dose is None else f"; asked for {dose:.3g}")
        )
    return at, None


def over_seeds(label: str, values: Mapping[int, float], *, threshold: float = 0.0, lacks: str = "") -> Effect:
    """Mean over training seeds with Student's t interval: for what is one number per seed, with no items to resample."""
    ordered = np.array([values[seed] for seed in sorted(values)])
    if len(ordered) == 0:
        return lacking(label, lacks, test=OVER_SEEDS, threshold=threshold)
    mean = float(ordered.mean())
    note: str | None = "one training seed: no interval"
    lo = hi = p = sd = stderr = half = None
    if len(ordered) > 1:
        sd, note = float(ordered.std(ddof=1)), None
        stderr = sd / math.sqrt(len(ordered))
        half = float(student_t.ppf(0.975, len(ordered) - 1)) * stderr
        lo, hi = mean - half, mean + half
        if half > 0:
            p = float(ttest_1samp(ordered, threshold).pvalue)
        else:  # what a copied file looks like, or a measure at its end, as an AUC of 1
            note = f"the same value, {mean:.3g}, for every seed: no spread to test by"
    estimate = Estimate(
        value=mean,
        lo=lo,
        hi=hi,
        n_items=0,
        n_seeds=len(ordered),
        per_seed={str(seed): values[seed] for seed in sorted(values)},
        stderr=stderr,
        seed_sd=sd,
        note=note,
    )
    key = f"{label} above {threshold:g}"
    lacks_spread = note if half == 0 else None
    return Effect(
        key=key, label=label, estimate=estimate, p=p, test=OVER_SEEDS, threshold=threshold, lacks=lacks_spread
    )


def secondary_study(study: StudyScores, name: str) -> StudyScores:
    """The study with a secondary score of its rows in place of the tasks' own; runs and tasks without it are empty."""
    scores = {
        run: {task: by_name[name] for task, by_name in tasks.items() if name in by_name}
        for run, tasks in study.secondary.items()
    }
    along = {
        run: {seed: [_by_score(point, name) for point in points] for seed, points in seeds.items()}
        for run, seeds in study.along.items()
    }
    return replace(study, scores=scores, secondary={}, along=along)


def other_scores(study: StudyScores, task: str) -> list[str]:
    """Names of the scores that some run has of the task's answers, beside the task's own: by another extraction, of samples."""
    held = [tasks.get(task, {}) for tasks in study.secondary.values()]
    return list(
        dict.fromkeys(name for scores in held for name in (*EXTRACTIONS, *of_samples(scores)) if name in scores)
    )


def _by_score(point: DosePoint, name: str) -> DosePoint:
    held = {task: scores[name] for task, scores in point.secondary.items() if name in scores}
    return replace(point, scores=held, secondary={})


def above_chance(study: StudyScores, tasks: Sequence[str]) -> float | None:
    """What the base scores above chance, mean over tasks; None where it was not evaluated, or is not above chance."""
    known = {task.name: task.chance for task in study.tasks()}
    seeds = study.common_seeds([BASE], tasks) if tasks else []
    if not seeds:
        return None
    means = [float(study.matrix(BASE, task, seeds).mean()) - known[task] for task in tasks]
    mean = sum(means) / len(means)
    return mean if mean > 0 else None


def equivalence_margin(study: StudyScores, tasks: Sequence[str]) -> float | None:
    """The share EQUIVALENCE_SHARE of what the base knows above chance."""
    known = above_chance(study, tasks)
    return None if known is None else EQUIVALENCE_SHARE * known
