"""Every claim can come out every way, and only by its numbers; what is too little is said to be too little."""

import json
import shutil

import pytest

from stateshape.analysis.verdicts import verdicts
from synthetic_study import DRIFT, RATES, write_synthetic_study

# flat drift noise and many items: the outcomes below then follow from the true rates
CLAIMS = ("P1", "P2", "P3", "P4", "C1", "C2", "C3")
BIG = {"num_items": 450, "drift_noise": 0.0001}
FIVE = BIG | {"seeds": (0, 1, 2, 3, 4)}  # three know little of their own spread


def outcomes(folder):
    return {v.claim_id: v.outcome for v in verdicts(folder)}


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A study with the paper's pattern, to be read; a test that changes one changes a copy."""
    return write_synthetic_study(tmp_path_factory.mktemp("big"), **BIG)


@pytest.fixture(scope="module")
def found_in_big(big):
    return {v.claim_id: v for v in verdicts(big)}


@pytest.fixture
def changed(big, tmp_path):
    """A copy of the study, to be changed."""
    return shutil.copytree(big, tmp_path / "changed")


def test_the_papers_pattern_with_power_supports_it(tmp_path):
    rates = RATES | {"sft_mild": (0.65, 0.53, 0.58), "rl": (0.60, 0.53, 0.58), "opd_stress": (0.60, 0.45, 0.52)}
    found = verdicts(write_synthetic_study(tmp_path, rates=rates, **FIVE))
    # P2 needs scores along the runs, which this study does not plan
    assert {v.claim_id: v.outcome for v in found} == dict.fromkeys(CLAIMS, "supported") | {"P2": "not asked"}
    p1 = found[0]
    assert p1.sentence.startswith("Supported: mean forgetting of SFT, stress +0.")
    assert "900 items, 5 seeds" in p1.sentence
    assert all(e.p_holm >= e.p and e.effect.lo > 0 for e in p1.evidence)


def test_the_opposite_pattern_is_not_supported(tmp_path):
    rates = {
        "base": (0.50, 0.40, 0.45),
        "sft_mild": (0.35, 0.40, 0.45),  # the target falls
        "sft_stress": (0.60, 0.55, 0.60),  # stress gains retention
        "opd_stress": (0.40, 0.40, 0.45),
        "opd_one_step": (0.44, 0.40, 0.45),  # below the base, far above half of it
        "rl": (0.60, 0.25, 0.30),  # improves the target and forgets
    }
    found = outcomes(write_synthetic_study(tmp_path, rates=rates, **BIG))
    assert found == dict.fromkeys(CLAIMS, "not supported") | {
        "P2": "not asked",
        "P3": "premise not met",  # the teacher is better than the base
        "P4": "supported",  # all drift alike, and RL forgets
    }


def test_equal_scores_leave_everything_open(tmp_path):
    found = outcomes(write_synthetic_study(tmp_path, rates=dict.fromkeys(RATES, (0.45, 0.5, 0.55)), **BIG))
    # a run at the base's score has not collapsed: that one is known
    assert (found.pop("C3"), found.pop("P2"), found.pop("P3")) == ("not supported", "not asked", "premise not met")
    assert set(found.values()) == {"cannot tell"}


def test_identical_rows_are_no_loss_and_no_gain(tmp_path):
    folder = write_synthetic_study(tmp_path, rates=dict.fromkeys(("base", "sft_mild"), RATES["base"]), **BIG)
    for seed in (0, 1, 2):
        for task in ("gsm8k", "truthfulqa", "mmlu"):
            source = folder / f"runs/base/seed0/evals/{task}.jsonl"
            (folder / f"runs/sft_mild/seed{seed}/evals/{task}.jsonl").write_text(source.read_text())
    c1 = next(v for v in verdicts(folder) if v.claim_id == "C1")
    assert c1.outcome == "equivalent"  # no gain above the margin, and no loss
    gain, kept = c1.evidence
    # 450 items all alike: the true difference may still be up to 2 (1 - .025^(1/450))
    assert (gain.effect.value, gain.effect.hi, gain.p) == (0, pytest.approx(2 * (1 - 0.025 ** (1 / 450))), 1)
    assert gain.effect.note == "no item differs: 450 items exclude only changes beyond 0.016"
    # a twentieth of the base's score; two one-sided tests, of which both have this p
    assert gain.margin == pytest.approx(0.05 * gain_base(folder))
    assert gain.p_equivalent == pytest.approx((1 - gain.margin / 2) ** 450)
    assert (gain.state, kept.state) == ("equivalent", "holds")
    assert f"within {gain.margin:.3f} of zero, adjusted p" in c1.sentence


def gain_base(folder):
    rows = (folder / "runs/base/seed0/evals/gsm8k.jsonl").read_text().splitlines()
    return sum(json.loads(row)["is_correct"] for row in rows) / len(rows)


def test_drift_that_explains_forgetting_gives_no_pair_and_no_refutation(tmp_path):
    drift = dict.fromkeys(RATES, 0.005) | {"sft_stress": 0.030}
    rates = dict.fromkeys(RATES, (0.45, 0.5, 0.55)) | {"sft_stress": RATES["sft_stress"]}
    found = {v.claim_id: v for v in verdicts(write_synthetic_study(tmp_path, rates=rates, drift=drift, **BIG))}
    assert found["P4"].outcome == "cannot tell"
    assert "15 pairs of runs were compared" in found["P4"].sentence
    correlation, heldout = found["P4"].evidence[-2:]
    assert correlation.label.startswith("Spearman")
    assert (correlation.effect.n_items, correlation.state, correlation.p_holm) == (18, "shown", None)
    assert "18 runs of 6 configurations; expected at least 20 runs of 8 configurations" in heldout.effect.note


def test_less_forgetting_with_more_drift_supports_p4(tmp_path):
    drift = DRIFT | {"opd_stress": 0.0300}
    assert outcomes(write_synthetic_study(tmp_path, drift=drift, **FIVE))["P4"] == "supported"


def test_drift_on_its_floor_supports_nothing(tmp_path):
    # equal drifts mean nothing where the measure does not see stress SFT drift at all
    drift = dict.fromkeys(RATES, 0.0)
    assert outcomes(write_synthetic_study(tmp_path, drift=drift, **BIG))["P4"] == "cannot tell"


def test_few_points_give_no_correlation(tmp_path):
    rates = {run: RATES[run] for run in ("base", "sft_stress", "opd_stress")}
    p4 = next(v for v in verdicts(write_synthetic_study(tmp_path, rates=rates, **BIG)) if v.claim_id == "P4")
    assert p4.evidence[-2].effect.value is None
    assert "6 runs of 2 configurations; expected at least 8 runs of 4 configurations" in p4.sentence
    assert p4.outcome == "supported"  # there is one pair, and it is enough


def test_claims_whose_runs_are_not_planned_are_not_asked(tmp_path):
    rates = {run: RATES[run] for run in ("base", "sft_mild", "sft_stress")}
    found = {v.claim_id: v for v in verdicts(write_synthetic_study(tmp_path, rates=rates, **BIG))}
    assert {claim for claim, v in found.items() if v.outcome == "not asked"} == {"P2", "P3", "C2", "C3"}
    assert found["P2"].sentence == (
        "Not asked: the study does not plan the run opd_stress; the study does not plan the run rl; the study does not plan "
        "scores along the runs (`along:` in the study file)."
    )
    assert found["P2"].evidence == []
    tested = [e for claim in ("P1", "C1") for e in found[claim].evidence]
    assert all(e.p_holm <= len(tested) * e.p for e in tested)  # nothing is paid for what is not asked


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_trap_fragile_forgetting_claims_too_few_seeds_decide_nothing(tmp_path, seeds):
    found = verdicts(write_synthetic_study(tmp_path, seeds=seeds, **BIG))
    assert {v.outcome for v in found if v.claim_id != "P2"} == {"cannot tell"}
    p1 = found[0]
    assert f"{len(seeds)} training seed" in p1.sentence
    assert "not enough data to decide" in p1.sentence
    assert p1.evidence[0].effect.value > 0.1  # the numbers are there all the same


def test_too_few_items_decide_nothing(tmp_path):
    found = verdicts(write_synthetic_study(tmp_path, num_items=20))
    assert {v.outcome for v in found if v.claim_id != "P2"} == {"cannot tell"}
    assert "20 items, fewer than 50" in next(v for v in found if v.claim_id == "C3").sentence


def test_a_missing_run_is_named(tmp_path):
    found = {v.claim_id: v for v in verdicts(write_synthetic_study(tmp_path, missing=["sft_stress"], **BIG))}
    assert {found[claim].outcome for claim in ("P1", "P3")} == {"cannot tell"}
    assert "no finished rows for base and sft_stress with the same seed" in found["P1"].sentence
    assert found["P1"].evidence[0].effect.value is None
    assert found["C3"].outcome == "supported"


def test_roles_may_be_played_by_other_names(changed, found_in_big):
    folder = changed
    before = {claim: verdict.outcome for claim, verdict in found_in_big.items()}
    (folder / "runs/sft_stress").rename(folder / "runs/hot")
    plan = json.loads((folder / "plan.json").read_text())
    for run in plan["runs"]:
        run["name"] = "hot" if run["name"] == "sft_stress" else run["name"]
        run["teacher"] = "hot" if run["teacher"] == "sft_stress" else run["teacher"]
    (folder / "plan.json").write_text(json.dumps(plan))
    assert outcomes(folder)["P1"] == "not asked"
    assert {v.claim_id: v.outcome for v in verdicts(folder, roles={"sft_stress": "hot"})} == before
    with pytest.raises(ValueError, match="unknown stress; expected some of base, sft_mild"):
        verdicts(folder, roles={"stress": "hot"})


def test_shared_effects_are_one_test_in_the_family(found_in_big):
    """P1 and C1 both rest on mild SFT losing nothing: same number, same adjusted p."""
    assert found_in_big["P1"].evidence[2] == found_in_big["C1"].evidence[1]


def test_the_plans_roles_are_read(changed, found_in_big):
    folder = changed
    before = {claim: verdict.outcome for claim, verdict in found_in_big.items()}
    (folder / "runs/sft_stress").rename(folder / "runs/hot")
    plan = json.loads((folder / "plan.json").read_text().replace('"sft_stress"', '"hot"'))
    (folder / "plan.json").write_text(json.dumps(plan | {"roles": {"sft_stress": "hot"}}))
    assert outcomes(folder) == before
    (folder / "plan.json").write_text(json.dumps(plan | {"roles": {"sft_stress": "cold"}}))
    with pytest.raises(ValueError, match=r"roles\.sft_stress: got 'cold'; expected a run of the study: base"):
        verdicts(folder)


def test_an_open_effect_says_what_would_decide_it(tmp_path):
    rates = RATES | {"rl": (0.43, 0.50, 0.55)}
    c2 = next(v for v in verdicts(write_synthetic_study(tmp_path, rates=rates, **BIG)) if v.claim_id == "C2")
    assert c2.outcome == "cannot tell"
    gain = c2.evidence[0]
    assert gain.state == "open"
    assert 0 < gain.power < 1 and gain.power_effect == 0.03
    assert gain.minimal_effect > abs(gain.effect.value)  # else it would have been likely to be seen
    assert "items" in gain.needs or "seeds" in gain.needs
    assert f"To decide: {gain.label} needs {gain.needs}" in c2.sentence
    assert gain.bootstrap[0] < gain.effect.value < gain.bootstrap[1]


def test_a_decided_effect_needs_nothing(found_in_big):
    c3 = found_in_big["C3"]
    assert [(e.state, e.needs) for e in c3.evidence] == [("holds", None)]
    # by hand: the items' noise and the seeds' make up the standard error
    effect = c3.evidence[0].effect
    assert effect.seed_sd**2 / 3 <= effect.stderr**2


def test_one_seed_needs_three(tmp_path):
    p1 = verdicts(write_synthetic_study(tmp_path, seeds=(0,), **BIG))[0]
    assert p1.evidence[0].needs == "at least 3 seeds"
    assert p1.evidence[0].power is None


def test_too_few_states_decide_nothing_about_drift(tmp_path):
    folder = write_synthetic_study(tmp_path, **FIVE)
    assert outcomes(folder)["P4"] == "supported"
    for path in folder.glob("runs/*/seed*/drift.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"num_states": 20}))
    p4 = next(v for v in verdicts(folder) if v.claim_id == "P4")
    assert p4.outcome == "cannot tell"
    assert "20 states per side, fewer than 50" in p4.sentence


def test_a_role_played_by_another_kind_of_run_is_a_premise_not_met(big):
    """The claims about on-policy runs are not supported by off-policy runs with the same scores."""
    roles = {"opd_stress": "sft_mild", "rl": "sft_mild", "opd_one_step": "sft_mild"}
    found = {v.claim_id: v for v in verdicts(big, roles=roles)}
    assert {found[claim].outcome for claim in ("P3", "C2", "C3")} == {"premise not met"}
    premise = found["C2"].premises[0]
    assert (premise.label, premise.state) == ("SFT, mild is trained on-policy by a reward", "fails")
    assert found["C2"].sentence.startswith(
        "Premise not met: the plan contradicts the premise that SFT, mild is trained on-"
    )


def test_a_teacher_that_is_not_degraded_is_a_premise_not_met(tmp_path):
    rates = RATES | {"sft_stress": (0.45, 0.30, 0.35)}
    p3 = {v.claim_id: v for v in verdicts(write_synthetic_study(tmp_path, rates=rates, **BIG))}["P3"]
    assert p3.outcome == "premise not met"
    assert "premise not shown: GSM8K, 95% of base minus teacher SFT, stress, above chance" in p3.sentence


def test_a_task_where_the_teacher_is_sound_is_not_asked_and_still_counted(tmp_path):
    rates = RATES | {"sft_stress": (0.30, 0.50, 0.35), "opd_stress": (0.60, 0.20, 0.52)}
    p3 = {v.claim_id: v for v in verdicts(write_synthetic_study(tmp_path, rates=rates, **BIG))}["P3"]
    assert p3.outcome == "supported"  # though the student is far below on TruthfulQA
    assert [e.label.split(",")[0] for e in p3.evidence if e.state != "shown"] == ["GSM8K", "GSM8K", "MMLU"]
    assert any("not asked: that teacher is not degraded there" in e.label for e in p3.evidence if e.state == "shown")


def test_no_loss_is_relative_to_what_the_base_knows_above_chance(big, found_in_big):
    """By hand, over two tasks: run - .9 base - .1 chance."""
    kept = found_in_big["C2"].evidence[1]
    means = {}
    for run in ("base", "rl"):
        for task in ("truthfulqa", "mmlu"):
            seeds = sorted((big / "runs" / run).glob("seed*"))
            rows = [
                json.loads(row) for seed in seeds for row in (seed / f"evals/{task}.jsonl").read_text().splitlines()
            ]
            means[run, task] = sum(row["is_correct"] for row in rows) / len(rows)
    by_hand = [
        means["rl", task] - chance - 0.9 * (means["base", task] - chance)
        for task, chance in (("truthfulqa", 0.2225), ("mmlu", 0.25))
    ]
    assert kept.effect.value == pytest.approx(sum(by_hand) / 2)
    assert kept.threshold == 0
