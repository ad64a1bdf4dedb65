"""The paper's claims as contrasts between runs: the runs compared, and the direction that the claim predicts.

Each claim becomes parts; a part is an effect, oriented so that the claim predicts "above `threshold`". Does not decide
anything: verdicts.py applies one rule to all parts. Knows runs by role, not by name; without rows (a plan that has not
run yet) the parts are there, and empty.
Source: arXiv:2605.22731 sec. 3 (P1-P4) and sec. 5-6 (C1-C3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import t as student_t
from scipy.stats import ttest_1samp

from stateshape.analysis.estimates import EMPTY, contrast
from stateshape.analysis.predictors import DRIFT, SETS, correlation, heldout_r2, predictor_rows
from stateshape.analysis.scores import StudyScores
from stateshape.core.files import BadInput
from stateshape.core.study_records import Estimate, PlanRecord

ROLES = ("base", "sft_mild", "sft_stress", "opd_stress", "opd_mild", "opd_one_step", "rl")
NO_LOSS_MARGIN = 0.03  # accuracy; a retention loss below this counts as none: about what 2,000 paired items resolve
COLLAPSE_SHARE = 0.5  # of the base's target score: a collapse keeps less
# of the stress run's drift above base against base: a run no further below it than this counts as drifting no less
DRIFT_MARGIN_SHARE = 0.25
DRIFT_NAME = "mmd2_unbiased"  # the biased value sits on its sampling floor, where any two runs look alike
DRIFT_T = "t interval over seeds"
CORRELATION = "bootstrap over runs"
HELDOUT = "held-out prediction, bootstrap over runs"
SHOWN_TESTS = (CORRELATION, HELDOUT)  # of evidence that decides nothing
MIN_STATES = 50  # a side; a distance of fewer decides nothing
MIN_POINTS = 8  # runs x seeds for a correlation of drift with forgetting


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """One effect a claim rests on. p tests "effect = threshold", two-sided; None where there is nothing to test."""

    key: str  # what is tested, from run and task names: two claims that share an effect share one test
    label: str
    estimate: Estimate
    p: float | None
    test: str
    threshold: float = 0.0
    lacks: str | None = None  # why there is no effect, in words
    is_planned: bool = True  # whether the study plans the runs
    bootstrap: tuple[float, float] | None = None
    weights: Mapping[str, float] = field(default_factory=dict)  # of runs, for scores of evaluated items; else empty
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """`parts` must all hold. `ways`, if given, instead: each is a set of parts, and one way that holds is enough.

    Ways that rest on runs the study does not plan are left out, unless none is left.
    """

    claim_id: str
    text: str
    parts: list[Effect] = field(default_factory=list)
    ways: list[list[Effect]] = field(default_factory=list)
    shown: list[Effect] = field(default_factory=list)  # evidence that is reported and decides nothing

    def groups(self) -> list[list[Effect]]:
        planned = [way for way in self.ways if all(part.is_planned for part in way)]
        return planned or self.ways or [self.parts]

    def is_asked(self) -> bool:
        """Whether the study plans what the claim rests on: all parts of at least one group."""
        return any(all(part.is_planned for part in group) for group in self.groups())


@dataclass(frozen=True, kw_only=True, slots=True)
class Cast:
    """A study and which of its runs plays which role."""

    study: StudyScores
    roles: Mapping[str, str]

    def run(self, role: str) -> str:
        return self.roles.get(role, role)

    def label(self, role: str) -> str:
        return self.study.label(self.run(role))

    def part(self, label: str, weights: Mapping[str, float], tasks: list[str], *, threshold: float = 0.0) -> Effect:
        """The contrast with roles as keys. Weights that need a missing role give a part with the reason in `lacks`."""
        named = {self.run(role): weight for role, weight in weights.items()}
        planned = [run.name for run in self.study.plan.runs]
        absent = [run for run in named if run not in planned]
        found = contrast(self.study, named, tasks, null=threshold)
        lacks = None
        if not tasks:
            lacks = "the study has no retention task"
        elif absent:
            lacks = f"the study does not plan the run{'s' if len(absent) > 1 else ''} {', '.join(absent)}"
        elif found.difference.value is None:
            lacks = f"no finished rows for {' and '.join(named)} with the same seed"
        terms = [f"{weight:+g} {run}" for run, weight in sorted(named.items())]
        return Effect(
            key=f"{' '.join(terms)} on {' '.join(tasks)} above {threshold:g}",
            label=label,
            estimate=found.difference,
            p=found.p,
            test=found.test,
            threshold=threshold,
            lacks=lacks,
            is_planned=not absent,
            bootstrap=found.bootstrap,
            weights={} if absent else named,
            tasks=tuple(tasks),
        )

    def target(self) -> list[str]:
        return [self.study.plan.target.name]

    def kept(self) -> list[str]:
        return [task.name for task in self.study.plan.retention]


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


def all_claims(study: StudyScores, roles: Mapping[str, str] | None = None) -> list[Claim]:
    """P1-P4 and C1-C3. roles: role -> run name, over the plan's own. Raises BadInput as checked_roles."""
    cast = Cast(study=study, roles=checked_roles(study.plan, roles))
    return [
        _p1_stress(cast),
        _p2_locality(cast),
        _p3_surpass(cast),
        _p4_drift(cast),
        _improves_and_retains(cast, "C1", "sft_mild", "Mild SFT improves the target with no retention loss."),
        _improves_and_retains(cast, "C2", "rl", "RL improves the target with no retention loss."),
        _c3_collapse(cast),
    ]


def _p1_stress(cast: Cast) -> Claim:
    stress, mild = cast.label("sft_stress"), cast.label("sft_mild")
    return Claim(
        claim_id="P1",
        text="Off-policy training under stress can cause forgetting; mild off-policy training need not.",
        parts=[
            cast.part(f"mean forgetting of {stress}", {"base": 1, "sft_stress": -1}, cast.kept()),
            cast.part(f"mean forgetting, {stress} minus {mild}", {"sft_mild": 1, "sft_stress": -1}, cast.kept()),
        ],
    )


def _p2_locality(cast: Cast) -> Claim:
    stress = cast.label("sft_stress")
    pairs = {role: f"mean retained score, {cast.label(role)} minus {stress}" for role in ("opd_stress", "rl")}
    return Claim(
        claim_id="P2",
        text="On-policy methods retain the base model's knowledge better than off-policy SFT under stress.",
        parts=[cast.part(label, {role: 1, "sft_stress": -1}, cast.kept()) for role, label in pairs.items()],
    )


def _p3_surpass(cast: Cast) -> Claim:
    planned = {run.name: run.teacher for run in cast.study.plan.runs}.get(cast.run("opd_stress"))
    teacher = planned or cast.run("sft_stress")
    pair = f"{cast.label('opd_stress')} minus its teacher {cast.study.label(teacher)}"
    return Claim(
        claim_id="P3",
        text="A student trained on its own states surpasses its degraded teacher on every task.",
        parts=[
            cast.part(f"{task.label}, {pair}", {"opd_stress": 1, teacher: -1}, [task.name])
            for task in cast.study.tasks()
        ],
    )


def _improves_and_retains(cast: Cast, claim_id: str, role: str, text: str) -> Claim:
    label, target = cast.label(role), cast.study.plan.target.label
    weights = {role: 1, "base": -1}
    return Claim(
        claim_id=claim_id,
        text=text,
        parts=[
            cast.part(f"{target}, {label} minus base", weights, cast.target()),
            cast.part(f"mean retained score, {label} minus base", weights, cast.kept(), threshold=-NO_LOSS_MARGIN),
        ],
    )


def _c3_collapse(cast: Cast) -> Claim:
    label, target = cast.label("opd_one_step"), cast.study.plan.target.label
    half = {"base": COLLAPSE_SHARE, "opd_one_step": -1}
    return Claim(
        claim_id="C3",
        text="One-step on-policy distillation collapses: the target score falls below half of the base's.",
        parts=[
            cast.part(f"{target}, base minus {label}", {"base": 1, "opd_one_step": -1}, cast.target()),
            cast.part(f"{target}, half of base minus {label}", half, cast.target()),
        ],
    )


# P4: drift


def _p4_drift(cast: Cast) -> Claim:
    """Holds if some on-policy run drifts no less than stress SFT, beyond sampling noise, and yet forgets less."""
    return Claim(
        claim_id="P4",
        text="Scalar drift does not explain forgetting: runs with similar drift forget differently.",
        ways=[_drift_way(cast, role) for role in ("opd_stress", "rl")],
        shown=[_correlation(cast.study), *_heldout(cast.study)],
    )


def _drift_way(cast: Cast, role: str) -> list[Effect]:
    stress, other = cast.label("sft_stress"), cast.label(role)
    excess = _drift_above_floor(cast.study, cast.run("sft_stress"))
    values = {run: _drift_values(cast.study, run) for run in (cast.run(role), cast.run("sft_stress"))}
    first, second = values.values()
    gaps = {seed: first[seed] - second[seed] for seed in first.keys() & second.keys()}
    margin = DRIFT_MARGIN_SHARE * max(0.0, float(np.mean(list(excess.values())))) if excess else 0.0
    few = _few_states(cast.study, list(values))
    drifts = [
        _over_seeds(f"drift ({DRIFT_NAME}) of {stress} minus base-vs-base drift", excess),
        _over_seeds(f"drift ({DRIFT_NAME}), {other} minus {stress}", gaps, threshold=-margin),
    ]
    return [
        *(replace(part, lacks=part.lacks or few) for part in drifts),
        cast.part(f"mean retained score, {other} minus {stress}", {role: 1, "sft_stress": -1}, cast.kept()),
    ]


def _few_states(study: StudyScores, runs: list[str]) -> str | None:
    sizes = [record.num_states for run in runs for record in study.drift.get(run, {}).values()]
    if sizes and min(sizes) < MIN_STATES:
        return f"{min(sizes)} states per side, fewer than {MIN_STATES}"
    return None


def _drift_values(study: StudyScores, run: str) -> dict[int, float]:
    held = {seed: record.distances.get(DRIFT_NAME) for seed, record in study.drift.get(run, {}).items()}
    return {seed: v.value for seed, v in held.items() if v is not None and v.value is not None}


def _drift_above_floor(study: StudyScores, run: str) -> dict[int, float]:
    values = _drift_values(study, run)
    floors = {seed: study.drift[run][seed].distances[DRIFT_NAME].base_vs_base for seed in values}
    return {seed: values[seed] - floor for seed, floor in floors.items() if floor is not None}


def _over_seeds(label: str, values: Mapping[int, float], *, threshold: float = 0.0) -> Effect:
    """Mean over training seeds with Student's t interval: a drift is one number per seed, with no items to resample."""
    ordered = np.array([values[seed] for seed in sorted(values)])
    if len(ordered) == 0:
        lacks = "no drift was measured"
        return Effect(key=label, label=label, estimate=EMPTY, p=None, test=DRIFT_T, threshold=threshold, lacks=lacks)
    mean = float(ordered.mean())
    note: str | None = "one training seed: no interval"
    lo = hi = p = sd = stderr = None
    if len(ordered) > 1:
        sd, note = float(ordered.std(ddof=1)), None
        stderr = sd / math.sqrt(len(ordered))
        half = float(student_t.ppf(0.975, len(ordered) - 1)) * stderr
        lo, hi = mean - half, mean + half
        # no spread at all over seeds is what a copied file looks like; there is then nothing to test by
        p = float(ttest_1samp(ordered, threshold).pvalue) if half > 0 else None
    per_seed = {str(seed): values[seed] for seed in sorted(values)}
    effect = Estimate(
        value=mean,
        lo=lo,
        hi=hi,
        n_items=0,
        n_seeds=len(ordered),
        per_seed=per_seed,
        stderr=stderr,
        seed_sd=sd,
        note=note,
    )
    return Effect(key=label, label=label, estimate=effect, p=p, test=DRIFT_T, threshold=threshold)


def _correlation(study: StudyScores) -> Effect:
    """Spearman correlation of drift with mean forgetting over runs x seeds."""
    label = f"Spearman correlation of drift ({DRIFT_NAME}) with mean forgetting, over runs and seeds"
    found = correlation(predictor_rows(study), DRIFT, kind="Spearman", min_runs=MIN_POINTS)
    lacks = found.value.note if found.value.value is None else None
    return Effect(key=label, label=label, estimate=found.value, p=found.p, test=CORRELATION, lacks=lacks)


def _heldout(study: StudyScores) -> list[Effect]:
    """Held-out R^2 of mean forgetting on each set of predictors that enough runs have; one line of why where none is."""
    rows = predictor_rows(study)
    parts: list[Effect] = []
    for name, predictors in SETS.items():
        found = heldout_r2(rows, predictors, by="configuration")
        label = f"held-out R^2 of mean forgetting predicted from {name}, whole configurations held out"
        lacks = found.estimate.note if found.estimate.value is None else None
        if lacks is None or not parts:
            parts.append(Effect(key=label, label=label, estimate=found.estimate, p=found.p, test=HELDOUT, lacks=lacks))
    return parts
