"""No claim is supported by construction: the whole machinery of verdicts on simulated studies whose truth is known."""

import sys
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs" / "tools"))

import calibration
from calibration import CLAIMS, SCENARIOS, Tally, calibrate

STUDIES = 30
MOST_WRONG = 5  # of 30: at a true rate of .05, six or more have probability .003
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@cache
def tally(name: str) -> Tally:
    return calibrate(BY_NAME[name], STUDIES)


# more of the same kind as another scenario
LONGER = {"null, 3 noisy seeds", "sound teacher", "distance only"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONGER else []) for name in BY_NAME]
)
def test_outcomes_are_wrong_no_more_often_than_stated(name):
    scenario, found = BY_NAME[name], tally(name)
    for claim in CLAIMS:
        counts = found.counts[claim]
        if claim in scenario.true:
            assert counts["not supported"] <= MOST_WRONG, claim
        else:
            assert counts["supported"] <= MOST_WRONG, claim
        if claim in scenario.unasked:
            assert counts["premise not met"] >= STUDIES - MOST_WRONG, claim


def test_what_is_true_is_found():
    found = tally("planted")
    assert all(found.counts[claim]["supported"] >= STUDIES // 3 for claim in CLAIMS)


def test_runs_that_were_never_trained_support_nothing_about_on_policy_training():
    found = tally("idle")
    assert [found.counts[claim]["supported"] for claim in ("P2", "P3", "P4", "C2", "C3")] == [0] * 5


def test_the_opposite_is_found_too():
    assert tally("opposite").counts["P2"]["not supported"] >= STUDIES // 2


def test_two_seeds_decide_nothing():
    found = tally("2 seeds")
    assert all(found.counts[claim] == {"cannot tell": STUDIES} for claim in CLAIMS)


def test_the_table_has_a_row_per_scenario_and_claim():
    lines = calibration.table({name: calibrate(BY_NAME[name], 1) for name in BY_NAME}).splitlines()
    assert len(lines) == 2 + len(SCENARIOS) * len(CLAIMS)
    assert "| off-policy | P2 | not asked | 0 | 0 | 0 | 1 | 0 |" in lines
