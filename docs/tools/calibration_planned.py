"""Scenarios for claims of a study file: those of the preset matched_sources, each with what is true in it. Torch-free.

The claims are the preset's own, read as a study reads them, measured premises (reachability gap, C2ST) included. Of the
preset's runs only those that its claims name are simulated. Simulates nothing itself.

"At equal KL" asks for a distance at which every run was measured on its way. A run that was never trained has none: such a
claim counts as false there, since nothing may support it.
"""

from __future__ import annotations

from dataclasses import replace

from simulated_studies import KEPT, TARGET, Arm, Design, Scenario, ScenarioSet, States

from stateshape.study.plan_claims import claims_by_task_name, recorded_claims
from stateshape.study.study_file import read_study_file

CLAIMS = ("H1", "H2", "H3", "H4", "S1", "S2", "S3", "S4")
OF_SOURCES = ("H2", "H3", "S1", "S2", "S3", "S4")  # compare learner with other prefixes, if these differ
NUM_POINTS = 8  # spaced as the preset's: at equal steps of the root of the KL; none of them right at a KL of its claims

PRESET = read_study_file("matched_sources")
DESIGN = Design(
    points=tuple((k / NUM_POINTS) ** 2 for k in range(1, NUM_POINTS + 1)),
    curve=0.5,
    num_samples=2,
    claims=tuple(
        recorded_claims(
            [],
            claims_by_task_name(PRESET, [TARGET.name, *(task.name for task in KEPT)]),
            now="2000-01-01",
            runs_begun=0,
        )
    ),
)

OWN = States(gap_nats=0.0, c2st_auc=0.5)
APART = States(gap_nats=0.6, c2st_auc=0.95)
ALIKE = States(gap_nats=0.02, c2st_auc=0.55)
TAUGHT = {"signal": "teacher continuation", "teacher": "tutor"}

TUTOR = Arm(kl=0.40, gain=-0.20, loss=0.18, states=APART)
LEARNER = Arm(kl=0.15, gain=0.07, loss=0.0, is_on_policy=True, states=OWN, **TAUGHT)
ON_TEACHER = Arm(kl=0.15, gain=-0.04, loss=0.08, states=APART, **TAUGHT)
ON_DATASET = replace(ON_TEACHER)
EFFECTS = {"tutor": TUTOR, "learner": LEARNER, "teacher": ON_TEACHER, "dataset": ON_DATASET}
IDLE = {"kl": 0.0, "gain": 0.0, "loss": 0.0}


def on_one_curve(arm: Arm, kl: float) -> Arm:
    """The arm at another distance, with the score changes that follow from the distance alone."""
    ratio = (kl / arm.kl) ** DESIGN.curve
    return replace(arm, kl=kl, gain=ratio * arm.gain, loss=ratio * arm.loss)


# students below the base and above their teacher; all forget what their distance says
SAME_LEARNER = replace(LEARNER, gain=-0.10, loss=0.10)
SAME_TUTOR = replace(on_one_curve(SAME_LEARNER, TUTOR.kl), gain=-0.30, is_on_policy=False, states=APART)
SAME_ON_TEACHER = replace(SAME_LEARNER, is_on_policy=False, states=APART)
NO_EFFECT = {
    "tutor": SAME_TUTOR,
    "learner": SAME_LEARNER,
    "teacher": SAME_ON_TEACHER,
    "dataset": replace(SAME_ON_TEACHER),
}

SCENARIOS = (
    Scenario(
        name="sources apart",
        text="the others' prefixes are far from the learner's, and learner prefixes teach and retain more; the student is above "
        "base and teacher",
        arms=EFFECTS,
        true=CLAIMS,
        design=DESIGN,
    ),
    Scenario(
        name="sources apart, no effect",
        text="the same at every distance from all prefixes; the student is above its teacher and below the base",
        arms=NO_EFFECT,
        design=DESIGN,
    ),
    Scenario(
        name="sources apart, distance only",
        text="the same, but runs on teacher prefixes go three times as far",
        arms=NO_EFFECT | {"teacher": on_one_curve(SAME_ON_TEACHER, 3 * SAME_ON_TEACHER.kl)},
        true=("S1",),  # it compares the ends
        design=DESIGN,
    ),
    Scenario(
        name="sources alike",
        text="scores as in the first, but the others' prefixes hardly differ from the learner's",
        arms=EFFECTS | {name: replace(EFFECTS[name], states=ALIKE) for name in ("teacher", "dataset")},
        true=("H1", "H4"),
        unasked=OF_SOURCES,
        design=DESIGN,
    ),
    Scenario(
        name="idle students",
        text="as the first, but no student was ever trained",
        arms=EFFECTS | {name: replace(EFFECTS[name], **IDLE) for name in ("learner", "teacher", "dataset")},
        design=DESIGN,
    ),
    Scenario(
        name="sound tutor",
        text="as the first, but the teacher scores as the base does on every task",
        arms=EFFECTS | {"tutor": replace(TUTOR, gain=0.0, loss=0.0)},
        true=OF_SOURCES,
        unasked=("H1", "H4"),
        design=DESIGN,
    ),
)

PLANNED_SET = ScenarioSet(name="planned", claims=CLAIMS, scenarios=SCENARIOS)
