"""The paper's claims as premises and effects of a study's runs. Torch-free.

Knows runs by role, not by name; without rows (a plan that has not run yet) the effects are there, and empty. Decides
nothing: verdicts.py applies one rule to all.
Source: arXiv:2605.22731 sec. 3 (P1-P4) and sec. 5-6 (C1-C3). Differs: each claim has premises; on-policy and off-policy are
compared at equal distance from the base; "no loss" is a share of what the base knows above chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from stateshape.analysis.drift_excess import DriftExcess, drift_excess
from stateshape.analysis.effects import (
    PERMUTATIONS,
    Claim,
    Effect,
    dose_effect,
    equivalence_margin,
    fact,
    item_effect,
    lacking,
    other_scores,
    over_seeds,
    secondary_study,
)
from stateshape.analysis.enough import few_states
from stateshape.analysis.predictors import DRIFT, correlation, heldout_r2, offered_sets, predictor_rows
from stateshape.analysis.rule import CORRELATION, HELDOUT, is_met
from stateshape.analysis.scores import StudyScores
from stateshape.core.files import BadInput
from stateshape.core.study_records import BASE, PlanRecord

ROLES = (BASE, "sft_mild", "sft_stress", "opd_stress", "opd_mild", "opd_one_step", "rl")
NO_LOSS_SHARE = 0.1  # of what the base scores above chance: a loss below it counts as none
DEGRADED_SHARE = 0.05  # the same: a teacher that lost no more is not degraded
COLLAPSE_SHARE = 0.5  # of the base's target score: a collapse keeps less
FORWARD_KL, UPDATE_LENGTH = "forward_kl_new_task_nats", "update_frobenius"
DRIFT_NAME = "mmd2_unbiased"  # the biased value sits on its sampling floor, where any two runs look alike
DRIFT_LABEL = "unbiased MMD²"
# of a run's drift above base against base: another run that is no further below it drifts no less
DRIFT_MARGIN_SHARE = 0.25
MIN_POINTS = 8  # runs x seeds for a correlation of drift with forgetting


@dataclass(frozen=True, kw_only=True, slots=True)
class Cast:
    """A study and which of its runs plays which role."""

    study: StudyScores
    roles: Mapping[str, str]
    with_bootstrap: bool = True

    def run(self, role: str) -> str:
        return self.roles.get(role, role)

    def label(self, role: str) -> str:
        return self.study.label(self.run(role))

    def target(self) -> list[str]:
        return [self.study.plan.target.name]

    def kept(self) -> list[str]:
        return [task.name for task in self.study.plan.retention]

    def effect(
        self,
        label: str,
        weights: Mapping[str, float],
        tasks: list[str],
        *,
        offset: float = 0.0,
        is_difference: bool = True,
    ) -> Effect:
        """weights: of roles. is_difference: of two runs, so that "none" has a meaning and a margin."""
        return item_effect(
            self.study,
            label,
            self.named(weights),
            tasks,
            offset=offset,
            margin=equivalence_margin(self.study, tasks) if is_difference else None,
            with_bootstrap=self.with_bootstrap,
        )

    def named(self, weights: Mapping[str, float]) -> dict[str, float]:
        return {self.run(role): weight for role, weight in weights.items()}

    def chance(self, tasks: list[str]) -> float:
        """Mean chance level."""
        return float(np.mean([task.chance for task in self.study.tasks() if task.name in tasks] or [0.0]))

    def no_loss(self, role: str, tasks: list[str], what: str) -> Effect:
        """Above zero where the run keeps more than all but NO_LOSS_SHARE of what the base scores above chance."""
        keep = 1 - NO_LOSS_SHARE
        return self.effect(
            f"{what}, {self.label(role)} minus {keep:.0%} of base, above chance",
            {role: 1, BASE: -keep},
            tasks,
            offset=NO_LOSS_SHARE * self.chance(tasks),
            is_difference=False,
        )

    def degraded(self, teacher: str, task: str) -> Effect:
        """Above zero where the teacher lost more than DEGRADED_SHARE of what the base scores above chance."""
        keep, tasks = 1 - DEGRADED_SHARE, [task]
        label = next(one.label for one in self.study.tasks() if one.name == task)
        return self.effect(
            f"{label}, {keep:.0%} of base minus teacher {self.label(teacher)}, above chance",
            {BASE: keep, teacher: -1},
            tasks,
            offset=-DEGRADED_SHARE * self.chance(tasks),
            is_difference=False,
        )

    def by_other_scores(self, label: str, weights: Mapping[str, float]) -> list[Effect]:
        """An effect on the target by each other score of its answers: greedy answers by the task's own hide part of what is
        learned.
        """
        target = self.target()
        return [
            item_effect(
                secondary_study(self.study, name),
                f"{label} ({name})",
                self.named(weights),
                target,
                with_bootstrap=False,
            )
            for name in other_scores(self.study, target[0])
        ]

    def plays(self, role: str, wanted: str, *, is_on_policy: bool | None = None, signal: str = "") -> Effect:
        """Whether the plan gives the role a run of the kind that the claim is about; unplanned where there is no run."""
        run = next((run for run in self.study.plan.runs if run.name == self.run(role)), None)
        label = f"{self.label(role)} is {wanted}"
        if run is None:
            lacks = f"the study does not plan the run {self.run(role)}"
            return lacking(label, lacks, test="not available", is_planned=False)
        method = run.method
        is_kind = method is not None and (is_on_policy is None or method.is_on_policy == is_on_policy)
        return fact(label, is_kind and method is not None and signal in method.signal)


def checked_roles(plan: PlanRecord, roles: Mapping[str, str] | None = None) -> dict[str, str]:
    """The plan's roles with those given on top. Raises BadInput naming a role or a run that does not exist."""
    chosen = {**plan.roles, **(roles or {})}
    if unknown := sorted(set(chosen) - set(ROLES)):
        raise BadInput(f"roles: unknown {', '.join(unknown)}; expected some of {', '.join(ROLES)}")
    planned = [run.name for run in plan.runs]
    for role, run in chosen.items():
        if run not in planned:
            raise BadInput(f"roles.{role}: got {run!r}; expected a run of the study: {', '.join(planned)}")
    return chosen


def paper_claims(
    study: StudyScores, roles: Mapping[str, str] | None = None, *, with_bootstrap: bool = True
) -> list[Claim]:
    """P1-P4 and C1-C3. roles: role -> run name, over the plan's own. Raises BadInput as checked_roles."""
    cast = Cast(study=study, roles=checked_roles(study.plan, roles), with_bootstrap=with_bootstrap)
    off_policy_sft = cast.plays("sft_mild", "trained off-policy", is_on_policy=False)
    rewarded = cast.plays("rl", "trained on-policy by a reward", is_on_policy=True, signal="reward")
    return [
        _p1_stress(cast),
        _p2_on_policy(cast),
        _p3_surpass(cast),
        _p4_drift(cast),
        _improves_and_retains(
            cast, "C1", "sft_mild", off_policy_sft, "Mild SFT improves the target and loses nothing."
        ),
        _improves_and_retains(cast, "C2", "rl", rewarded, "RL improves the target and loses nothing."),
        _c3_collapse(cast),
    ]


def _p1_stress(cast: Cast) -> Claim:
    stress, mild = cast.label("sft_stress"), cast.label("sft_mild")
    return Claim(
        claim_id="P1",
        text="Off-policy training under stress causes forgetting; mild off-policy training need not.",
        premises=[cast.plays(role, "trained off-policy", is_on_policy=False) for role in ("sft_stress", "sft_mild")],
        effects=[
            cast.effect(f"mean forgetting of {stress}", {BASE: 1, "sft_stress": -1}, cast.kept()),
            cast.effect(f"mean forgetting, {stress} minus {mild}", {"sft_mild": 1, "sft_stress": -1}, cast.kept()),
            cast.no_loss("sft_mild", cast.kept(), "mean retained score"),
        ],
    )


def _p2_on_policy(cast: Cast) -> Claim:
    """At equal KL to the base. The same at equal length of the update is shown."""
    stress, off = cast.label("sft_stress"), cast.run("sft_stress")
    premises = [cast.plays("sft_stress", "trained off-policy", is_on_policy=False)]
    effects: list[Effect] = []
    shown: list[Effect] = []
    for role in ("opd_stress", "rl"):
        run, name = cast.run(role), cast.label(role)
        premises.append(cast.plays(role, "trained on-policy", is_on_policy=True))
        for measure, what, into in ((FORWARD_KL, "equal KL", effects), (UPDATE_LENGTH, "equal update length", shown)):
            into.append(
                dose_effect(
                    cast.study,
                    f"mean retained score at {what}, {name} minus {stress}",
                    (run, off),
                    cast.kept(),
                    measure=measure,
                    margin=equivalence_margin(cast.study, cast.kept()),
                    with_bootstrap=cast.with_bootstrap,
                )
            )
        target = cast.study.plan.target.label
        effects.append(cast.no_loss(role, cast.target(), target))
        shown += cast.by_other_scores(f"{target}, {name} minus base", {role: 1, BASE: -1})
    return Claim(
        claim_id="P2",
        text=(
            "At equal distance from the base, on-policy methods retain more of its knowledge than off-policy SFT, "
            "and keep more than nine tenths of its score on the target."
        ),
        premises=premises,
        effects=effects,
        shown=shown,
    )


def _p3_surpass(cast: Cast) -> Claim:
    """Asked only on tasks where the teacher is degraded. There an untrained student is above it too, hence the base."""
    teacher = {run.name: run.teacher for run in cast.study.plan.runs}.get(cast.run("opd_stress")) or "sft_stress"
    student = cast.label("opd_stress")
    pair = f"{student} minus its teacher {cast.label(teacher)}"
    target, *kept = cast.study.tasks()
    weights = {"opd_stress": 1.0, teacher: -1.0}
    asked = [
        cast.effect(f"{target.label}, {pair}", weights, [target.name]),
        cast.effect(f"{target.label}, {student} minus base", {"opd_stress": 1, BASE: -1}, [target.name]),
    ]
    counted, shown = [], cast.by_other_scores(f"{target.label}, {pair}", weights)
    for task in kept:
        effect = cast.effect(f"{task.label}, {pair}", weights, [task.name])
        premise = cast.degraded(teacher, task.name)
        if is_met(premise) is False:
            counted.append(effect)
            shown += [premise, replace(effect, label=f"{effect.label} (not asked: that teacher is not degraded there)")]
        else:
            asked.append(effect)
    return Claim(
        claim_id="P3",
        text=(
            "A student trained on its own states surpasses its degraded teacher, on the target and wherever else the teacher "
            "is degraded; on the target it surpasses the untrained base too."
        ),
        premises=[
            cast.plays("opd_stress", "trained on-policy by a teacher", is_on_policy=True, signal="teacher"),
            cast.degraded(teacher, target.name),
        ],
        effects=asked,
        counted=counted,
        shown=shown,
    )


def _improves_and_retains(cast: Cast, claim_id: str, role: str, premise: Effect, text: str) -> Claim:
    """Greedy answers decide. What the runs score otherwise is shown: greedy answers hide part of what is learned."""
    gain = f"{cast.study.plan.target.label}, {cast.label(role)} minus base"
    return Claim(
        claim_id=claim_id,
        text=text,
        premises=[premise],
        effects=[
            cast.effect(gain, {role: 1, BASE: -1}, cast.target()),
            cast.no_loss(role, cast.kept(), "mean retained score"),
        ],
        shown=cast.by_other_scores(gain, {role: 1, BASE: -1}),
    )


def _c3_collapse(cast: Cast) -> Claim:
    label, target = cast.label("opd_one_step"), cast.study.plan.target.label
    half = {BASE: COLLAPSE_SHARE, "opd_one_step": -1}
    return Claim(
        claim_id="C3",
        text="One-step on-policy distillation collapses: the target score falls below half of the base's.",
        premises=[cast.plays("opd_one_step", "trained on-policy by a teacher", is_on_policy=True, signal="teacher")],
        effects=[cast.effect(f"{target}, half of base minus {label}", half, cast.target(), is_difference=False)],
    )


# P4: drift


def _p4_drift(cast: Cast) -> Claim:
    """One pair of the plan's runs is enough: one drifts no less than the other, and forgets less."""
    trained = [run.name for run in cast.study.plan.runs if run.name not in cast.study.measured_once]
    pairs = list(combinations(trained, 2))
    lacks = "the study plans fewer than two trained runs"
    ways = [_drift_pair(replace(cast, with_bootstrap=False), *pair) for pair in pairs]
    return Claim(
        claim_id="P4",
        text="Scalar drift does not explain forgetting: of some two runs, the one that drifts no less forgets less.",
        ways=ways or [[lacking("two trained runs", lacks, test="not available", is_planned=False)]],
        shown=[_correlation(cast.study), *_heldout(cast.study)],
    )


def _drift_pair(cast: Cast, first: str, second: str) -> list[Effect]:
    """The effects of one pair, with the run that retains more first: p is two-sided, so that this choice costs nothing."""
    study = cast.study
    retained = cast.effect("", {first: 1, second: -1}, cast.kept(), is_difference=False)
    if retained.estimate.value is not None and retained.estimate.value < 0:
        first, second = second, first
        retained = cast.effect("", {first: 1, second: -1}, cast.kept(), is_difference=False)
    label = f"{study.label(first)} minus {study.label(second)}"
    values = {run: drift_values(study, run) for run in (first, second)}
    excess = drift_excess(study.drift.get(second, {}), DRIFT_NAME)
    gaps = {seed: values[first][seed] - values[second][seed] for seed in values[first].keys() & values[second].keys()}
    margin = DRIFT_MARGIN_SHARE * max(0.0, excess.estimate.value or 0.0)
    few, none = few_states(study, [first, second]), "no drift was measured"
    drifts = [
        above_base(f"drift ({DRIFT_LABEL}) of {study.label(second)} minus base-vs-base drift", excess),
        over_seeds(f"drift ({DRIFT_LABEL}), {label}", gaps, threshold=-margin, lacks=none),
    ]
    return [
        *(replace(effect, lacks=effect.lacks or few) for effect in drifts),
        replace(retained, label=f"mean retained score, {label}"),
    ]


def drift_values(study: StudyScores, run: str, name: str = DRIFT_NAME) -> dict[int, float]:
    """By seed: a distance of drift.json, where it is a number."""
    by_seed = {seed: record.distances.get(name) for seed, record in study.drift.get(run, {}).items()}
    return {seed: v.value for seed, v in by_seed.items() if v is not None and v.value is not None}


def above_base(label: str, excess: DriftExcess) -> Effect:
    """Whether a run drifts more than base against base does."""
    estimate = excess.estimate
    lacks = "no drift was measured" if estimate.value is None else None
    return Effect(key=label, label=label, estimate=estimate, p=excess.p, test=PERMUTATIONS, lacks=lacks)


def _correlation(study: StudyScores) -> Effect:
    """Spearman correlation of drift with mean forgetting over runs x seeds."""
    label = f"Spearman correlation of drift ({DRIFT_LABEL}) with mean forgetting, over runs and seeds"
    result = correlation(predictor_rows(study), DRIFT, kind="Spearman", min_runs=MIN_POINTS)
    lacks = result.value.note if result.value.value is None else None
    return Effect(key=label, label=label, estimate=result.value, p=result.p, test=CORRELATION, lacks=lacks)


def _heldout(study: StudyScores) -> list[Effect]:
    """Held-out R^2 of mean forgetting on each set of predictors that enough runs have; one line of why where none is."""
    rows = predictor_rows(study)
    effects: list[Effect] = []
    for name, predictors in offered_sets(rows).sets.items():
        score = heldout_r2(rows, predictors, by="configuration")
        label = f"held-out R^2 of mean forgetting predicted from {name}, whole configurations held out"
        lacks = score.estimate.note if score.estimate.value is None else None
        if lacks is None or not effects:
            effects.append(
                Effect(key=label, label=label, estimate=score.estimate, p=score.p, test=HELDOUT, lacks=lacks)
            )
    return effects
