"""How often each claim is said to be supported, and not supported, in simulated studies whose truth is known.

    python docs/tools/calibration.py --studies 400

writes the table in docs/verdicts.md and results/calibration/verdicts.json. The whole machinery of verdicts runs on every
study: premises, dose matching, Holm's correction, the rule. A test runs the same at a smaller size (tests/test_calibration.py).

A study: items have a shared difficulty; a run's answers begin as the base's and become its own along the run, at a rate that
its arm states. Training seeds move a run's rates by `seed_sd`. Knows no real run.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.special import ndtr

from stateshape.analysis.claims import DRIFT_NAME, FORWARD_KL, UPDATE_LENGTH
from stateshape.analysis.scores import DosePoint, StudyScores
from stateshape.analysis.verdicts import verdicts
from stateshape.core.records import DriftRecord, DriftValue, MethodRecord
from stateshape.core.study_records import BASE, PlannedRun, PlanRecord, TaskRecord

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = ("P1", "P2", "P3", "P4", "C1", "C2", "C3")
OUTCOMES = ("supported", "not supported", "equivalent", "premise not met", "cannot tell")
TARGET = TaskRecord(name="target", label="target", metric="exact_match", chance=0.0, num_items=400)
KEPT = [TaskRecord(name=name, label=name, metric="accuracy", chance=0.25, num_items=400) for name in ("facts", "exam")]
RATES = {"target": 0.45, "facts": 0.65, "exam": 0.65}  # of the base
SHARED = 0.6  # of a latent score's variance that items share over runs
POINTS = (0.1, 0.25, 0.5, 0.75, 1.0)  # shares of a run's distance at which it is evaluated


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What training does to a run: distance from the base at its end (nats), and score changes at that distance."""

    kl: float
    gain: float = 0.0
    loss: float = 0.0
    drift: float = 0.0
    is_on_policy: bool = False
    signal: str = "gold tokens"
    teacher: str | None = None


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


TEACHER = {"is_on_policy": True, "signal": "teacher continuation", "teacher": "sft_stress"}
PAPER = {
    "sft_mild": Arm(kl=0.10, gain=0.10, loss=0.00, drift=0.002),
    "sft_stress": Arm(kl=0.40, gain=-0.12, loss=0.16, drift=0.003),
    "opd_stress": Arm(kl=0.12, gain=0.08, loss=0.005, drift=0.003, **TEACHER),
    "opd_one_step": Arm(kl=0.30, gain=-0.36, loss=0.02, drift=0.004, **TEACHER),
    "rl": Arm(kl=0.10, gain=0.10, loss=0.00, drift=0.003, is_on_policy=True, signal="exact-answer reward"),
}
IDLE = {"kl": 0.0, "gain": 0.0, "loss": 0.0, "drift": 0.0}
DOSE_ONLY = {
    name: replace(arm, loss=0.3 * arm.kl, drift=0.01 * arm.kl) for name, arm in PAPER.items()
}  # what is forgotten, and how far texts drift, follows from the distance alone
NULL = {name: replace(arm, gain=0.0, loss=0.0, drift=0.003) for name, arm in PAPER.items()}
OFF_POLICY = {name: replace(arm, is_on_policy=False, signal="gold tokens") for name, arm in PAPER.items()}

SCENARIOS = (
    Scenario(name="planted", text="the paper's pattern is true", arms=PAPER, true=CLAIMS),
    Scenario(
        name="idle",
        text="OPD, one-step OPD and RL were never trained",
        arms=PAPER | {name: replace(PAPER[name], **IDLE) for name in ("opd_stress", "opd_one_step", "rl")},
        true=("P1", "C1"),
    ),
    Scenario(name="null", text="trained runs score as the base does", arms=NULL, unasked=("P3",)),
    Scenario(
        name="null, 3 noisy seeds",
        text="the same; seeds are nearly all of the noise, so that they often agree by luck",
        arms=NULL,
        unasked=("P3",),
        num_seeds=3,
        seed_sd=0.03,
    ),
    Scenario(
        name="off-policy",
        text="off-policy runs in the on-policy roles, with the paper's scores",
        arms=OFF_POLICY,
        true=("P1", "P4", "C1"),
        unasked=("P2", "P3", "C2", "C3"),
    ),
    Scenario(
        name="distance only",
        text="forgetting and drift follow from the distance to the base alone; on-policy runs stay nearer",
        arms=DOSE_ONLY,
        true=("P1", "P3", "C1", "C2", "C3"),
    ),
    Scenario(
        name="opposite",
        text="at equal distance, on-policy runs forget more",
        arms=PAPER
        | {
            "sft_stress": replace(PAPER["sft_stress"], loss=0.0),
            "opd_stress": replace(PAPER["opd_stress"], loss=0.12),
            "rl": replace(PAPER["rl"], loss=0.12),
        },
        true=("P3", "P4", "C1", "C3"),
    ),
    Scenario(
        name="sound teacher",
        text="the stress teacher is as good as the base on the target",
        arms=PAPER | {"sft_stress": replace(PAPER["sft_stress"], gain=0.0)},
        true=("P1", "P2", "P4", "C1", "C2", "C3"),
        unasked=("P3",),
    ),
    Scenario(name="2 seeds", text="the paper's pattern is true, with two seeds", arms=PAPER, true=CLAIMS, num_seeds=2),
)


@dataclass
class Tally:
    """Counts of outcomes by claim."""

    num_studies: int
    counts: dict[str, Counter[str]] = field(default_factory=lambda: {claim: Counter() for claim in CLAIMS})

    def rate(self, claim: str, outcome: str) -> float:
        return self.counts[claim][outcome] / self.num_studies


def calibrate(scenario: Scenario, num_studies: int, *, seed: int = 0) -> Tally:
    tally = Tally(num_studies)
    for index in range(num_studies):
        study = simulated(scenario, np.random.default_rng([seed, index]))
        for verdict in verdicts(study, with_bootstrap=False):
            tally.counts[verdict.claim_id][verdict.outcome] += 1
    return tally


def simulated(scenario: Scenario, rng: np.random.Generator) -> StudyScores:
    """One study of the scenario, as it would be read from a folder."""
    tasks = [TARGET, *KEPT]
    sizes = {task.name: task.num_items or 0 for task in tasks}
    shared = {name: np.sqrt(SHARED) * rng.standard_normal(size) for name, size in sizes.items()}
    own = {name: rng.standard_normal(size) for name, size in sizes.items()}
    base = {name: _answers(shared[name], own[name], RATES[name]) for name in sizes}
    scores: dict[str, dict[str, dict[int, np.ndarray]]] = {BASE: {name: {0: base[name]} for name in sizes}}
    along: dict[str, dict[int, list[DosePoint]]] = {}
    drift: dict[str, dict[int, DriftRecord]] = {BASE: {}}
    for run, arm in scenario.arms.items():
        scores[run] = {name: {} for name in sizes}
        along[run], drift[run] = {}, {}
        for number in range(scenario.num_seeds):
            points = _path(arm, shared, own, scenario.seed_sd, rng)
            along[run][number] = points
            for name in sizes:
                scores[run][name][number] = points[-1].scores[name]
            drift[run][number] = _drift(arm.drift + 0.0002 * float(rng.standard_normal()))
    return StudyScores(plan=_plan(scenario), scores=scores, drift=drift, missing=[], along=along)


def _path(
    arm: Arm, shared: dict[str, np.ndarray], own: dict[str, np.ndarray], seed_sd: float, rng: np.random.Generator
) -> list[DosePoint]:
    """A run's answers at the shares of POINTS of its distance; an arm of distance 0 answers as the base does."""
    theirs = {name: rng.standard_normal(len(values)) for name, values in own.items()}
    noise = {name: seed_sd * float(rng.standard_normal()) for name in own}
    length = arm.kl * float(np.exp(0.1 * rng.standard_normal()))
    points = []
    for share in POINTS:
        at = share if arm.kl > 0 else 0.0
        answers = {}
        for name in own:
            change = arm.gain if name == "target" else -arm.loss
            latent = np.sqrt(1 - at) * own[name] + np.sqrt(at) * theirs[name]
            answers[name] = _answers(shared[name], latent, RATES[name] + at * (change + noise[name]))
        doses = {FORWARD_KL: at * length, UPDATE_LENGTH: 10 * np.sqrt(at * length)}
        points.append(DosePoint(step=round(60 * share), doses=doses, scores=answers))
    return points


def _answers(shared: np.ndarray, own: np.ndarray, rate: float) -> np.ndarray:
    """0/1 answers, right with probability `rate` over items: those whose latent score is below its quantile."""
    latent = shared + np.sqrt(1 - SHARED) * own
    return (ndtr(latent) < np.clip(rate, 0.001, 0.999)).astype(np.float64)


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
        runs=[base, *runs], plan_sha256="", provenance={}, num_along=len(POINTS),
    )  # fmt: skip


def _method(arm: Arm) -> MethodRecord:
    return MethodRecord(
        method="simulated", state_source="", signal=arm.signal, density="", loss="", is_on_policy=arm.is_on_policy,
        source="", summary="",
    )  # fmt: skip


# The table


def table(tallies: dict[str, Tally]) -> str:
    """One row per scenario and claim: what is true, and the share of studies with each outcome."""
    lines = [
        f"| scenario | claim | true | {' | '.join(OUTCOMES)} |",
        f"|---|---|---|{'---|' * len(OUTCOMES)}",
    ]
    for scenario in SCENARIOS:
        tally = tallies[scenario.name]
        for claim in CLAIMS:
            truth = "yes" if claim in scenario.true else "not asked" if claim in scenario.unasked else "no"
            rates = " | ".join(_rate(tally.rate(claim, outcome)) for outcome in OUTCOMES)
            lines.append(f"| {scenario.name} | {claim} | {truth} | {rates} |")
    return "\n".join(lines)


def _rate(rate: float) -> str:
    return "0" if rate == 0 else "1" if rate == 1 else f"{rate:.3f}".lstrip("0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400, help="simulated studies per scenario")
    parser.add_argument("--only", default="", help="one scenario, printed and not written")
    chosen = parser.parse_args()
    scenarios = [one for one in SCENARIOS if chosen.only in ("", one.name)]
    tallies = {}
    for scenario in scenarios:
        tallies[scenario.name] = tally = calibrate(scenario, chosen.studies)
        print(scenario.name, {claim: dict(tally.counts[claim]) for claim in CLAIMS}, flush=True)
    if chosen.only:
        return
    page = ROOT / "docs" / "verdicts.md"
    begin, end = "<!-- calibration: begin -->", "<!-- calibration: end -->"
    head, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(f"{head}{begin}\n{table(tallies)}\n{end}{rest.split(end)[1]}", encoding="utf-8")
    raw = {name: {claim: dict(tally.counts[claim]) for claim in CLAIMS} for name, tally in tallies.items()}
    out = ROOT / "results" / "calibration"
    out.mkdir(parents=True, exist_ok=True)
    (out / "verdicts.json").write_text(json.dumps({"studies": chosen.studies, "outcomes": raw}, indent=1) + "\n")


if __name__ == "__main__":
    main()
