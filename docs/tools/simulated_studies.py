"""Simulated studies whose truth is known, and how often each claim has which outcome on them. Torch-free.

A study: items have a shared difficulty; a run's answers begin as the base's and become its own along the run, at a rate that
its arm states. Training seeds move a run's rates by `seed_sd`. Knows no claim (calibration_paper.py, calibration_planned.py)
and no real run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from stateshape.analysis.claims import DRIFT_NAME, FORWARD_KL, UPDATE_LENGTH
from stateshape.analysis.scores import DosePoint, SeedScores, StudyScores
from stateshape.analysis.verdicts import verdicts
from stateshape.core.records import DriftRecord, DriftValue, LocalityRecord, MethodRecord
from stateshape.core.study_records import BASE, PlannedClaim, PlannedRun, PlanRecord, TaskRecord

TARGET = TaskRecord(name="target", label="target", metric="exact_match", chance=0.0, num_items=400)
KEPT = [TaskRecord(name=name, label=name, metric="accuracy", chance=0.25, num_items=400) for name in ("facts", "exam")]
RATES = {"target": 0.45, "facts": 0.65, "exam": 0.65}  # of the base
SHARED = 0.6  # of a latent score's variance that items share over runs
RESAMPLED = 0.5  # of the rest, what an answer at temperature 1 draws anew
SAMPLED = "strict_t1"

# sd of a probe of the untrained base against itself: a quarter of the central 95% in docs/locality.md, with 16 rows and 6
# fresh rollouts; before the first step there is one probe, and a run's record is the mean of eight
GAP_SD, AUC_SD = 0.0125, 0.055
GAP_SD_BEFORE, AUC_SD_BEFORE = 0.045, 0.155


@dataclass(frozen=True, kw_only=True)
class States:
    """How far the states a run trains on are from the learner's own."""

    gap_nats: float
    c2st_auc: float


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What training does to a run: distance from the base at its end (nats), and score changes at that distance."""

    kl: float
    gain: float = 0.0
    loss: float = 0.0
    drift: float | None = None  # None: not measured
    is_on_policy: bool = False
    signal: str = "gold tokens"
    teacher: str | None = None
    states: States | None = None  # None: there are no locality records


@dataclass(frozen=True, kw_only=True)
class Design:
    """What a study plans. points: shares of a run's KL at which it is evaluated. claims: of the study file.

    curve: power of the share of the KL with which scores change; 0.5: as the root of the KL does.
    """

    points: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 1.0)
    curve: float = 1.0
    num_samples: int = 0  # answers to each target item at temperature 1
    claims: tuple[PlannedClaim, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """true: the claims that hold. unasked: those whose premise does not hold. The others are false."""

    name: str
    text: str
    arms: dict[str, Arm]
    true: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()
    num_seeds: int = 5
    seed_sd: float = 0.01
    design: Design = Design()

    def truth(self, claim: str) -> str:
        return "yes" if claim in self.true else "not asked" if claim in self.unasked else "no"


@dataclass(frozen=True, kw_only=True)
class ScenarioSet:
    """Scenarios about the same claims."""

    name: str
    claims: tuple[str, ...]
    scenarios: tuple[Scenario, ...]

    @property
    def claims_sha256(self) -> dict[str, str]:
        """By claim of a study file, the hash of its meaning, as plan.json keeps it."""
        return {one.claim_id: one.sha256 for scenario in self.scenarios for one in scenario.design.claims}


@dataclass
class Tally:
    """Counts of outcomes by claim."""

    num_studies: int
    counts: dict[str, Counter[str]] = field(default_factory=dict)

    def rate(self, claim: str, outcome: str) -> float:
        return self.counts[claim][outcome] / self.num_studies


def calibrate(scenario: Scenario, claims: Sequence[str], num_studies: int, *, seed: int = 0) -> Tally:
    tally = Tally(num_studies, {claim: Counter() for claim in claims})
    for index in range(num_studies):
        study = simulated(scenario, np.random.default_rng([seed, index]))
        for verdict in verdicts(study, with_bootstrap=False):
            if verdict.claim_id in tally.counts:
                tally.counts[verdict.claim_id][verdict.outcome] += 1
    return tally


# One study


class Way(NamedTuple):
    """A run's points, and at its end the share of right answers among its samples of each target item (None: no samples)."""

    points: list[DosePoint]
    sampled: np.ndarray | None


def simulated(scenario: Scenario, rng: np.random.Generator) -> StudyScores:
    """One study of the scenario, as it would be read from a folder."""
    sizes = {task.name: task.num_items or 0 for task in (TARGET, *KEPT)}
    shared = {name: np.sqrt(SHARED) * rng.standard_normal(size) for name, size in sizes.items()}
    own = {name: rng.standard_normal(size) for name, size in sizes.items()}
    base = {name: _answers(shared[name], own[name], RATES[name]) for name in sizes}
    study = StudyScores(
        plan=_plan(scenario), scores={BASE: {name: {0: base[name]} for name in sizes}}, drift={BASE: {}}, missing=[]
    )
    for run, arm in scenario.arms.items():
        study.scores[run] = {name: {} for name in sizes}
        study.along[run], study.drift[run] = {}, {}
        study.locality[run], study.locality_before[run] = {}, {}
        sampled: SeedScores = {}
        for number in range(scenario.num_seeds):
            way = _way(arm, shared, own, scenario, rng)
            study.along[run][number] = way.points
            for name in sizes:
                study.scores[run][name][number] = way.points[-1].scores[name]
            if arm.drift is not None:
                study.drift[run][number] = _drift(arm.drift + 0.0002 * float(rng.standard_normal()))
            if way.sampled is not None:
                sampled[number] = way.sampled
            if arm.states is not None:
                study.locality_before[run][number] = _locality(arm.states, GAP_SD_BEFORE, AUC_SD_BEFORE, rng)
                study.locality[run][number] = _locality(arm.states, GAP_SD, AUC_SD, rng)
        study.secondary[run] = {TARGET.name: {SAMPLED: sampled}} if sampled else {}
    return study


def _way(
    arm: Arm, shared: dict[str, np.ndarray], own: dict[str, np.ndarray], scenario: Scenario, rng: np.random.Generator
) -> Way:
    """A run's answers at the design's shares of its distance; an arm of distance 0 answers as the base does."""
    design = scenario.design
    theirs = {name: rng.standard_normal(len(values)) for name, values in own.items()}
    noise = {name: scenario.seed_sd * float(rng.standard_normal()) for name in own}
    length = arm.kl * float(np.exp(0.1 * rng.standard_normal()))
    changes = {name: (arm.gain if name == TARGET.name else -arm.loss) + noise[name] for name in own}

    def state_at(name: str, at: float) -> tuple[np.ndarray, float]:
        """Latent scores of the run's own, and its rate."""
        return np.sqrt(1 - at) * own[name] + np.sqrt(at) * theirs[name], RATES[name] + at**design.curve * changes[name]

    points = []
    for share in design.points:  # the last one is the end
        at = share if arm.kl > 0 else 0.0
        doses = {FORWARD_KL: at * length, UPDATE_LENGTH: 10 * np.sqrt(at * length)}
        answers = {name: _answers(shared[name], *state_at(name, at)) for name in own}
        points.append(DosePoint(step=round(60 * share), doses=doses, scores=answers))
    if design.num_samples == 0:
        return Way(points, None)
    latent, rate = state_at(TARGET.name, at)
    return Way(points, _sampled(shared[TARGET.name], latent, rate, design.num_samples, rng))


def _answers(shared: np.ndarray, own: np.ndarray, rate: float) -> np.ndarray:
    """0/1 answers, right with probability `rate` over items: those whose latent score is below its quantile."""
    latent = shared + np.sqrt(1 - SHARED) * own
    return (ndtr(latent) < np.clip(rate, 0.001, 0.999)).astype(np.float64)


def _sampled(
    shared: np.ndarray, own: np.ndarray, rate: float, num_samples: int, rng: np.random.Generator
) -> np.ndarray:
    """Share of right answers among samples, which share all but RESAMPLED of what is the run's own."""
    kept, fresh = np.sqrt(1 - RESAMPLED) * own, np.sqrt(RESAMPLED)
    samples = [_answers(shared, kept + fresh * rng.standard_normal(len(own)), rate) for _ in range(num_samples)]
    return np.mean(samples, axis=0)


def _locality(states: States, gap_sd: float, auc_sd: float, rng: np.random.Generator) -> LocalityRecord:
    gap, auc = (float(noise) for noise in rng.standard_normal(2))
    values: dict[str, float | None] = {
        "reachability_gap_nats": states.gap_nats + gap_sd * gap,
        "c2st_auc": float(np.clip(states.c2st_auc + auc_sd * auc, 0.0, 1.0)),
    }
    return LocalityRecord(step=60, values=values)


def _drift(value: float) -> DriftRecord:
    p = 0.001 if value > 0.0005 else 0.5
    distance = DriftValue(value=value, base_vs_base=0.0, null_sd=0.0002, p=p, lo=value - 0.0006, hi=value + 0.0006)
    return DriftRecord(
        task="target", features="simulated", num_prompts=200, num_states=400, distances={DRIFT_NAME: distance}
    )


def _plan(scenario: Scenario) -> PlanRecord:
    base = PlannedRun(name=BASE, label="base", method=None, teacher=None, settings={})
    runs = [
        PlannedRun(name=name, label=name, method=_method(arm), teacher=arm.teacher, settings={})
        for name, arm in scenario.arms.items()
    ]
    return PlanRecord(
        study=scenario.name, model="simulated", seeds=list(range(scenario.num_seeds)), target=TARGET, retention=KEPT,
        runs=[base, *runs], plan_sha256="", provenance={}, num_along=len(scenario.design.points),
        claims=list(scenario.design.claims),
    )  # fmt: skip


def _method(arm: Arm) -> MethodRecord:
    return MethodRecord(
        method="simulated", state_source="", signal=arm.signal, density="", loss="", is_on_policy=arm.is_on_policy,
        source="", summary="",
    )  # fmt: skip
