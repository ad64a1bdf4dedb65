"""No claim is supported by construction: the whole machinery of verdicts on simulated studies whose truth is known."""

import json
import sys
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs" / "tools"))

from calibration import COUNTS, OUTCOMES, PAGE, SETS, largest_errors, read_counts, table, with_blocks, write_counts
from calibration_paper import CLAIMS, PAPER_SET
from calibration_planned import DESIGN, PLANNED_SET
from simulated_studies import Arm, Scenario, ScenarioSet, Tally, calibrate

STUDIES = {"paper": 30, "planned": 20}
MOST_WRONG = {"paper": 5, "planned": 4}  # at a true rate of .05, more have probability .003
BY_NAME = {scenario.name: (one, scenario) for one in SETS.values() for scenario in one.scenarios}


@cache
def tally(name: str) -> Tally:
    one, scenario = BY_NAME[name]
    return calibrate(scenario, one.claims, STUDIES[one.name])


# more of the same kind as another scenario
LONGER = {"null, 3 noisy seeds", "sound teacher", "distance only", "sources alike", "sound tutor"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONGER else []) for name in BY_NAME]
)
def test_outcomes_are_wrong_no_more_often_than_stated(name):
    (one, scenario), found = BY_NAME[name], tally(name)
    most_wrong = MOST_WRONG[one.name]
    for claim in one.claims:
        counts = found.counts[claim]
        assert sum(counts[outcome] for outcome in OUTCOMES) == STUDIES[one.name], f"{claim} was asked in every study"
        if claim in scenario.true:
            assert counts["not supported"] <= most_wrong, claim
        else:
            assert counts["supported"] <= most_wrong, claim
        if claim in scenario.unasked:
            assert counts["premise not met"] >= STUDIES[one.name] - most_wrong, claim


def test_what_is_true_is_found():
    found = tally("planted")
    assert all(found.counts[claim]["supported"] >= STUDIES["paper"] // 3 for claim in CLAIMS)


def test_runs_that_were_never_trained_support_nothing_about_on_policy_training():
    found = tally("idle")
    assert [found.counts[claim]["supported"] for claim in ("P2", "P3", "P4", "C2", "C3")] == [0] * 5


def test_the_opposite_is_found_too():
    assert tally("opposite").counts["P2"]["not supported"] >= STUDIES["paper"] // 2


def test_two_seeds_decide_nothing():
    found = tally("2 seeds")
    assert all(found.counts[claim] == {"cannot tell": STUDIES["paper"]} for claim in CLAIMS)


# Claims of a study file


def test_the_scenarios_judge_every_claim_of_the_preset():
    assert [planned.claim_id for planned in DESIGN.claims] == list(PLANNED_SET.claims)


def test_true_claims_of_a_study_file_are_found():
    found = tally("sources apart")
    assert all(found.counts[claim]["supported"] >= STUDIES["planned"] // 2 for claim in PLANNED_SET.claims)


def test_untrained_students_support_no_claim_of_a_study_file():
    found = tally("idle students")
    assert [found.counts[claim]["supported"] for claim in PLANNED_SET.claims] == [0] * len(PLANNED_SET.claims)


def test_a_claim_that_untrained_students_satisfy_is_seen():
    surpasses = DESIGN.claims[0]
    only_teacher = replace(surpasses, claim=replace(surpasses.claim, effects=surpasses.claim.effects[:1]))
    scenario = replace(BY_NAME["idle students"][1], design=replace(DESIGN, claims=(only_teacher,)))
    assert calibrate(scenario, ["H1"], 5).counts["H1"]["supported"] == 5


# The page


def test_the_table_has_a_row_per_scenario_and_claim():
    for one in SETS.values():
        lines = table(one, {scenario.name: _all_not_asked(one) for scenario in one.scenarios}).splitlines()
        assert len(lines) == 2 + len(one.scenarios) * len(one.claims)
    assert "| sound tutor | H1 | not asked | 0 | 0 | 0 | 1 | 0 |" in lines


def _all_not_asked(one: ScenarioSet) -> Tally:
    return Tally(2, {claim: Counter({"premise not met": 2}) for claim in one.claims})


def test_the_largest_errors_are_those_of_the_kind_in_question():
    two = ScenarioSet(
        name="two",
        claims=("A", "B"),
        scenarios=(
            Scenario(name="one", text="", arms={"run": Arm(kl=0.1)}, true=("A",)),
            Scenario(name="other", text="", arms={"run": Arm(kl=0.1)}, true=("A",), unasked=("B",)),
        ),
    )
    counts = {
        "one": Tally(4, {"A": Counter({"supported": 4}), "B": Counter({"supported": 1, "not supported": 3})}),
        "other": Tally(4, {"A": Counter({"not supported": 2}), "B": Counter({"premise not met": 3, "supported": 1})}),
    }
    assert largest_errors(two, counts) == (
        '4 studies per scenario. Largest rate of "supported" where a claim is false: .250 (B, one); of "not supported" where '
        'it is true: .500 (A, other). Smallest rate of "premise not met" where it is not asked: .750 (B, other).'
    )


def test_the_page_has_the_counts_that_are_kept():
    page = PAGE.read_text(encoding="utf-8")
    assert with_blocks(page, read_counts(COUNTS)) == page


def test_the_counts_that_are_kept_are_of_the_claims_as_they_are():
    kept = json.loads(COUNTS.read_text(encoding="utf-8"))
    assert {name: kept[name]["claims_sha256"] for name in kept} == {name: SETS[name].claims_sha256 for name in SETS}
    assert kept["planned"]["claims_sha256"].keys() == set(PLANNED_SET.claims)


def test_counts_are_read_as_they_were_written(tmp_path):
    found = read_counts(COUNTS)
    write_counts(tmp_path / "verdicts.json", found)
    assert read_counts(tmp_path / "verdicts.json") == found
    assert found["paper"].keys() == {scenario.name for scenario in PAPER_SET.scenarios}
