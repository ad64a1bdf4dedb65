"""Scenarios for the paper's claims P1-P4 and C1-C3, each with what is true in it. Torch-free; simulates nothing itself."""

from __future__ import annotations

from dataclasses import replace

from simulated_studies import Arm, Scenario, ScenarioSet

CLAIMS = ("P1", "P2", "P3", "P4", "C1", "C2", "C3")

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

PAPER_SET = ScenarioSet(name="paper", claims=CLAIMS, scenarios=SCENARIOS)
