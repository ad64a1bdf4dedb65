"""Claims of a study file: checked before anything runs, dated in plan.json, decided by the same rule as the paper's."""

from dataclasses import replace

import pytest

from stateshape.analysis.compare import compare_scores, write_comparison
from stateshape.analysis.looks import next_level, spent_until
from stateshape.analysis.planned_effects import planned_effect
from stateshape.analysis.reading import load_scores
from stateshape.analysis.resolution import resolvable, resolvable_text
from stateshape.analysis.verdicts import verdicts
from stateshape.core.files import BadInput, read_json, read_jsonl, write_json, write_jsonl
from stateshape.core.records import DriftRecord, EvalRow, LocalityRecord, RunRecord
from stateshape.core.study_records import ClaimChoice, DoseChoice, EffectChoice, Look, PlannedClaim, PlanRecord
from stateshape.study.claim_checks import check_scores
from stateshape.study.plan import make_plan
from stateshape.study.plan_claims import claims_by_task_name, recorded_claims
from stateshape.study.study_file import read_study_file
from stateshape.tasks.load import load_task
from synthetic_study import LABELS, write_synthetic_study

GAP = "reachability_gap_nats"
BIG = {"num_items": 450, "drift_noise": 0.0001}
STUDY = """
study: mine
model: embedded
target: {task: arithmetic, limit: 100}
retention: [{task: facts, limit: 50}]
runs:
  a: {recipe: sft, train: {steps: 2}}
  b: {recipe: sft, train: {steps: 3}}
"""


def study_file(tmp_path, claims="", target=""):
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("limit: 100}", f"limit: 100, {target}}}") + claims)
    return read_study_file(str(path))


def claim(**effect):
    return ClaimChoice(text="mine", effects=[EffectChoice(**effect)])


def with_claims(folder, claims):
    plan = read_json(folder / "plan.json", PlanRecord)
    planned = recorded_claims([], claims, now="2026-11-26T10:00:00+00:00", runs_begun=0)
    write_json(folder / "plan.json", replace(plan, claims=planned))
    return {verdict.claim_id: verdict for verdict in verdicts(folder)}


def test_claims_do_not_change_a_plans_checksum(tmp_path):
    without = make_plan(study_file(tmp_path))
    claims = "claims: {H1: {text: a beats b, effects: [{contrast: [a, b], task: target}]}}\n"
    assert make_plan(study_file(tmp_path, claims)).sha256 == without.sha256


@pytest.mark.parametrize(
    ("effect", "message"),
    [
        ("{contrast: [a, c]}", r"claims.H1.effects\[0\].contrast: got 'c'; expected one of base, a, b"),
        ("{contrast: [a, a]}", r"contrast: got \['a', 'a'\]; expected two different runs"),
        ("{contrast: [a]}", r"contrast: got \['a'\]; expected two different runs"),
        ("{contrast: [a, b], above: 0, below: 1}", "got above 0 and below 1; expected one of the two"),
        ("{contrast: [a, b], minus: [a, b]}", "expected two different runs, another pair than the contrast"),
        ("{contrast: [a, b], minus: [base, c]}", r"minus: got 'c'; expected one of base, a, b"),
        ("{contrast: [a], minus: [base, b], measure: drift.energy}", "got one with a dose or a measure"),
        ("{contrast: [a, b], task: mmlu}", "task: got 'mmlu'; expected target, retention or one of arithmetic, facts"),
        ("{contrast: [a, b], equivalence: 0}", "equivalence: got 0; expected a number above 0"),
        ("{contrast: [a], measure: mmd2}", "measure: got 'mmd2'; expected what this study measures: drift.NAME"),
        ("{contrast: [a], measure: drift.mmd2}", r"did you mean drift.mmd2_\w+\?"),
        ("{contrast: [a], measure: drift.encoder_energy}", "expected what this study measures"),
        ("{contrast: [a], measure: locality.c2st}", "did you mean locality.c2st_auc"),
        ("{contrast: [a], measure: locality.before.update_frobenius}", "did you mean locality.update_frobenius"),
        ("{contrast: [a], measure: run.steps_taken}", "did you mean run.steps"),
        ("{contrast: [base], measure: drift.energy}", "got base with a measure; expected trained runs"),
        (
            "{contrast: [a], measure: along.peak}",
            r"in a study without along; expected scores along the runs; add along",
        ),
        ("{contrast: [a, b], dose: {}}", r"effects\[0\].dose: got one in a study without along; expected scores along"),
        ("{contrast: [a, b], measure: drift.mmd2_unbiased, dose: {}}", "got a measure with dose or equivalence"),
        ("{contrast: [a, b], measure: drift.mmd2_unbiased, score: x}", "expected one for along.NAME only"),
        ("{contrast: [a, b], dose: {measure: kl}}", "dose.measure: got 'kl'; expected one of forward_kl_new_task_nats"),
        ("{contrast: [a, b], dose: {at: 0}}", "dose.at: got 0; expected a distance above 0"),
        ("{contrast: [a, base], dose: {}}", "got base with a dose; expected two trained runs"),
    ],
)
def test_a_claim_that_does_not_fit_is_refused_with_its_field(tmp_path, effect, message):
    file = study_file(tmp_path, f"claims: {{H1: {{text: mine, effects: [{effect}]}}}}\n")
    with pytest.raises(ValueError, match=message):
        make_plan(file)


def check_named_scores(file, message):
    """message: of the refusal; None: there is none."""
    make_plan(file)
    tasks = [load_task(choice.task, limit=3, reading=choice.read) for choice in (file.target, *file.retention)]
    tasks[0] = replace(tasks[0], metric=file.target.metric or tasks[0].metric)
    if message is None:
        check_scores(file, tasks[0], tasks[1:])
    else:
        with pytest.raises(BadInput, match=message):
            check_scores(file, tasks[0], tasks[1:])


SCORES = [
    ("{contrast: [a, b], task: target, score: pass_at_2}", "samples: {n: 2}", None),
    ("{contrast: [a, b], task: target, score: flexible_t0.7}", "samples: {n: 2, temperature: 0.7}", None),
    ("{contrast: [a, b], task: retention, score: gold_mass}", "", None),
    ("{contrast: [a, b], task: target, score: strict}", "metric: flexible", None),
    ("{contrast: [a, b], task: target, score: pass_at_2}", "", "expected one of flexible, which rows of arithmetic"),
    ("{contrast: [a, b], task: target, score: flexible}", "metric: flexible", "expected one of strict, which rows"),
    ("{contrast: [a, b], task: facts, score: flexible}", "", "expected one of gold_logp_nats, gold_mass"),
]


T1 = "{contrast: [a, b], task: target, score: strict_t1"
AT_END = "'strict_t1' on the way of runs, which take samples at their end only; .* add samples: true to along"
ON_THE_WAY = [
    (f"{T1}, dose: {{}}}}", "along: {points: 4, samples: true}", None),
    ("{contrast: [a], measure: along.peak, score: strict_t1}", "along: {points: 4, samples: true}", None),
    ("{contrast: [a, b], task: target, score: flexible, dose: {}}", "along: {points: 4}", None),
    (f"{T1}}}", "along: {points: 4}", None),
    (f"{T1}, dose: {{}}}}", "along: {points: 4}", AT_END),
    ("{contrast: [a], measure: along.peak, score: strict_t1}", "along: {points: 4}", AT_END),
    ("{contrast: [a], measure: along.peak, score: gold_mass}", "along: {points: 4}", "expected one of flexible"),
]


@pytest.mark.parametrize(("effect", "along", "message"), ON_THE_WAY)
def test_a_score_of_samples_at_a_distance_needs_samples_there(tmp_path, effect, along, message):
    claims = f"{along}\nclaims: {{H1: {{text: mine, effects: [{effect}]}}}}\n"
    file = study_file(tmp_path, claims, target="samples: {n: 2}")
    check_named_scores(file, message)


def test_samples_along_runs_need_a_task_that_takes_some(tmp_path):
    with pytest.raises(
        BadInput, match=r"along.samples: got true in a study whose tasks take none; .* add samples: {n: 4}"
    ):
        make_plan(study_file(tmp_path, "along: {points: 4, samples: true}\n"))


@pytest.mark.parametrize(("effect", "target", "message"), SCORES)
def test_a_claim_names_a_score_that_the_tasks_rows_will_have(tmp_path, effect, target, message):
    file = study_file(tmp_path, f"claims: {{H1: {{text: mine, effects: [{effect}]}}}}\n", target=target)
    check_named_scores(file, message)


def test_a_claim_names_a_task_of_ones_own_as_the_study_file_does(tmp_path):
    effect = EffectChoice(contrast=["a", "b"], task="rows/data.jsonl")
    file = study_file(tmp_path)
    file = replace(file, target=replace(file.target, task="rows/data.jsonl"), claims={"H": claim(contrast=["a", "b"])})
    file = replace(file, claims={"H": ClaimChoice(text="mine", effects=[effect], premises=[effect])})
    make_plan(file)
    named = claims_by_task_name(file, ["data", "facts"])["H"]
    assert [one.task for one in (*named.effects, *named.premises)] == ["data", "data"]
    assert claims_by_task_name(study_file(tmp_path), ["arithmetic", "facts"]) == {}


def test_a_score_in_nats_has_no_margin_of_accuracy_and_no_power_before_the_study(tmp_path):
    write_synthetic_study(tmp_path / "s", seeds=[0, 1, 2], num_items=60)
    score = EffectChoice(contrast=["sft_mild", "sft_stress"], score="gold_logp_nats")
    study = load_scores(tmp_path / "s")
    assert planned_effect(study, score).margin is None
    assert planned_effect(study, replace(score, score=None)).margin is not None
    assert planned_effect(study, replace(score, equivalence=0.1)).margin == 0.1
    planned = recorded_claims([], {"H": ClaimChoice(text="", effects=[score])}, now="", runs_begun=0)
    kept = [replace(task, num_items=60) for task in study.plan.retention]
    rows = resolvable(replace(study.plan, claims=planned, retention=kept))
    (row,) = (row for row in rows if row.claim_id == "H")
    assert (row.power, row.minimal_effect) == (None, None)
    assert "in nats" in row.lacks


@pytest.mark.parametrize("name", ["P1", "a b", "../x"])
def test_a_claims_name_is_its_own(tmp_path, name):
    file = study_file(tmp_path, f"claims: {{'{name}': {{text: mine, effects: [{{contrast: [a, b]}}]}}}}\n")
    with pytest.raises(ValueError, match="expected letters, digits"):
        make_plan(file)


def test_a_claim_keeps_the_date_at_which_it_was_written():
    old = recorded_claims([], {"H": claim(contrast=["a", "b"])}, now="2026-01-01", runs_begun=0)
    again = recorded_claims(old, {"H": claim(contrast=["a", "b"], label="other words")}, now="2026-02-02", runs_begun=9)
    assert [(one.written, one.runs_begun, one.withdrawn) for one in again] == [("2026-01-01", 0, None)]


def test_a_claim_that_was_changed_is_a_new_one_and_the_old_one_stays_on_record():
    old = recorded_claims([], {"H": claim(contrast=["a", "b"])}, now="2026-01-01", runs_begun=0)
    now = recorded_claims(old, {"H": claim(contrast=["a", "b"], above=0.1)}, now="2026-02-02", runs_begun=4)
    assert [(one.written, one.runs_begun, one.withdrawn) for one in now] == [
        ("2026-02-02", 4, None),
        ("2026-01-01", 0, "2026-02-02"),
    ]


def test_a_changed_claim_does_not_pass_for_the_one_that_was_written_first(tmp_path):
    folder = write_synthetic_study(tmp_path, **BIG)
    first = {name: claim(contrast=["sft_mild", "base"], task="target") for name in ("H", "I")}
    changed = {"H": claim(contrast=["sft_mild", "base"], task="target", above=0.01)}
    old = recorded_claims([], first, now="2026-01-01T10:00:00+00:00", runs_begun=0)
    now = recorded_claims(old, changed, now="2026-02-02T10:00:00+00:00", runs_begun=4)
    write_json(folder / "plan.json", replace(read_json(folder / "plan.json", PlanRecord), claims=now))
    found = {verdict.claim_id: verdict for verdict in verdicts(folder)}
    assert found["H"].written == (
        "written 2026-02-02, after 4 runs had begun; replaces one written 2026-01-01, before the first run"
    )
    assert "I" not in found
    withdrawn = "claim I, written 2026-01-01, before the first run, was withdrawn on 2026-02-02"
    assert compare_scores(load_scores(folder)).warnings == [withdrawn]


def test_a_planned_claim_is_decided_by_its_effects(tmp_path):
    folder = write_synthetic_study(tmp_path, **BIG)
    found = with_claims(
        folder,
        {
            "yes": claim(contrast=["sft_mild", "base"], task="target"),
            "no": claim(contrast=["base", "sft_mild"], task="target"),
            "turned": claim(contrast=["sft_stress", "base"], task="retention", below=-0.05),
            "drift": claim(contrast=["opd_one_step", "sft_mild"], measure="drift.mmd2_unbiased", above=0.0005),
            "gap": claim(contrast=["sft_mild"], measure="locality.reachability_gap_nats", above=0.1),
        },
    )
    outcomes = {name: found[name].outcome for name in ("yes", "no", "turned", "drift", "gap")}
    assert outcomes == {
        "yes": "supported",
        "no": "not supported",
        "turned": "supported",
        "drift": "supported",
        "gap": "cannot tell",
    }
    assert found["yes"].written == "written 2026-11-26, before the first run"
    assert found["turned"].evidence[0].effect.value > 0.05 == found["turned"].evidence[0].threshold
    assert "locality.reachability_gap_nats was not measured" in found["gap"].sentence
    labels = {name: found[name].evidence[0].label for name in ("drift", "gap")}
    assert labels["drift"].startswith("drift (unbiased MMD²): ")
    assert labels["gap"].startswith("Reachability gap, nats: ")
    assert found["P1"].written == "by the package, the same for every study"


def test_each_family_has_its_own_number_of_tests_and_each_dose_is_one(tmp_path):
    plan = read_json(write_synthetic_study(tmp_path, **BIG) / "plan.json", PlanRecord)
    plan = replace(plan, num_along=6, target=replace(plan.target, num_items=450))
    pair = {"contrast": ["sft_mild", "sft_stress"], "task": "target"}
    doses = [None, DoseChoice(at=0.04), DoseChoice(at=0.1), DoseChoice(), DoseChoice(measure="update_frobenius")]
    primary = ClaimChoice(text="mine", family="primary", effects=[EffectChoice(**pair, dose=dose) for dose in doses])
    other = ClaimChoice(text="mine", family="other", effects=[EffectChoice(**pair)])
    claims = recorded_claims([], {"H": primary, "I": other}, now="2026-11-26T10:00:00+00:00", runs_begun=0)
    rows = resolvable(replace(plan, claims=claims))
    tests = {row.claim_id: row.num_tests for row in rows}
    assert (tests["H"], tests["I"]) == (5, 1) and len([row for row in rows if row.claim_id == "H"]) == 5
    assert len({row.label for row in rows if row.claim_id == "H"}) == 5
    assert "5 tests of the family primary and 1 test of the family other and " in resolvable_text(rows)


def test_what_the_states_were_before_training_is_not_what_they_became(tmp_path):
    """A teacher's prefixes are far from the learner at first, and no longer once it has learned them."""
    folder = write_synthetic_study(tmp_path, **BIG, has_locality=True)
    for path in folder.glob("runs/sft_mild/seed*/locality.jsonl"):
        write_jsonl(path, [LocalityRecord(step=step, values={GAP: 2.0 / (1 + step)}) for step in (0, 9, 19)])
    gap = {"contrast": ["sft_mild"], "above": 1.0}
    found = with_claims(
        folder,
        {
            "before": claim(measure="locality.before.reachability_gap_nats", **gap),
            "over": claim(measure="locality.reachability_gap_nats", **gap),
            "none": claim(measure="locality.before.c2st_auc", **gap),
        },
    )
    effects = {name: found[name].evidence[0].effect for name in ("before", "over", "none")}
    assert (effects["before"].value, effects["over"].value) == (2.0, pytest.approx(0.15))
    assert effects["none"].value is None


def test_a_premise_with_one_value_for_every_seed_is_not_refuted(tmp_path):
    """An AUC that is 1 in all runs could not be more above its threshold, and gives no spread to test by."""
    folder = write_synthetic_study(tmp_path, **BIG, has_locality=True)
    for path in folder.glob("runs/sft_mild/seed*/locality.jsonl"):
        write_jsonl(path, [LocalityRecord(step=step, values={"c2st_auc": 1.0}) for step in (0, 9, 19)])
    premise = EffectChoice(contrast=["sft_mild"], measure="locality.c2st_auc", above=0.8)
    effects = [EffectChoice(contrast=["sft_mild", "base"], task="target")]
    found = with_claims(folder, {"H": ClaimChoice(text="mine", effects=effects, premises=[premise])})["H"]
    assert found.outcome == "cannot tell"
    assert "the same value, 1, for every seed" in found.sentence


@pytest.mark.parametrize(("prompts", "outcome"), [(21, "cannot tell"), (22, "supported"), (None, "supported")])
def test_a_classifier_of_few_prompts_is_no_premise(tmp_path, prompts, outcome):
    """Two probes of three seeds count together, those of the untrained learner do not; older records do not say."""
    folder = write_synthetic_study(tmp_path, **BIG, has_locality=True)
    for number, path in enumerate(sorted(folder.glob("runs/sft_mild/seed*/locality.jsonl"))):
        aucs = [(step, {"c2st_auc": 0.95 + 0.01 * number}) for step in (0, 9, 19)]
        write_jsonl(path, [LocalityRecord(step=step, values=values, num_prompts=prompts) for step, values in aucs])
    premise = EffectChoice(contrast=["sft_mild"], measure="locality.c2st_auc", above=0.8)
    effects = [EffectChoice(contrast=["sft_mild", "base"], task="target")]
    found = with_claims(folder, {"H": ClaimChoice(text="mine", effects=effects, premises=[premise])})["H"]
    assert found.outcome == outcome
    assert ("states of 126 prompts classified, fewer than 128" in found.sentence) == (prompts == 21)


def test_a_drift_of_few_states_is_no_premise(tmp_path):
    folder = write_synthetic_study(tmp_path, **BIG)
    for path in folder.glob("runs/sft_mild/seed*/drift.json"):
        write_json(path, replace(read_json(path, DriftRecord), num_states=49))
    premise = EffectChoice(contrast=["sft_mild"], measure="drift.mmd2_unbiased", above=-1.0)
    effects = [EffectChoice(contrast=["sft_mild", "base"], task="target")]
    found = with_claims(folder, {"H": ClaimChoice(text="mine", effects=effects, premises=[premise])})["H"]
    assert found.outcome == "cannot tell"
    assert "49 states per side, fewer than 50" in found.sentence


def test_a_premise_that_is_not_shown_keeps_a_claim_from_being_decided(tmp_path):
    folder = write_synthetic_study(tmp_path, **BIG)
    premise = EffectChoice(contrast=["base", "sft_mild"], task="target", above=0.05)  # mild SFT is better than the base
    effects = [EffectChoice(contrast=["sft_mild", "base"], task="target")]
    found = with_claims(folder, {"H": ClaimChoice(text="mine", effects=effects, premises=[premise])})["H"]
    assert (found.outcome, found.evidence[0].state, found.premises[0].state) == ("premise not met", "holds", "fails")


def test_a_difference_of_differences_is_the_difference_of_two_effects(tmp_path):
    folder = write_synthetic_study(tmp_path, **BIG)
    study = load_scores(folder)
    first, second = ["sft_stress", "sft_mild"], ["opd_stress", "opd_mild"]

    def effect(**choice):
        return planned_effect(study, EffectChoice(task="target", **choice), with_bootstrap=False)

    both = effect(contrast=first, minus=second)
    alone = [effect(contrast=pair).estimate.value for pair in (first, second)]
    assert both.estimate.value == pytest.approx(alone[0] - alone[1])
    assert both.label.endswith(
        "(SFT, stress minus SFT, mild) minus (OPD from the stress teacher minus OPD from the mild teacher)"
    )
    turned = effect(contrast=first, minus=second, below=0.02)
    assert turned.estimate.value == pytest.approx(-both.estimate.value) and turned.threshold == -0.02
    # a run in both pairs: (a - b) - (c - b) = a - c
    shared = effect(contrast=["sft_stress", "base"], minus=["sft_mild", "base"])
    direct = effect(contrast=["sft_stress", "sft_mild"])
    assert shared.estimate.value == pytest.approx(direct.estimate.value)
    assert shared.estimate.lo == pytest.approx(direct.estimate.lo)


def matched_in(measure, margin):
    """Premises: the two runs differ by less than the margin, either way."""
    pair = ["sft_mild", "sft_stress"]
    return [
        EffectChoice(contrast=pair, measure=measure, above=-margin),
        EffectChoice(contrast=pair, measure=measure, below=margin),
    ]


@pytest.mark.parametrize(
    ("extra", "outcome", "states"),
    [
        (0, "supported", ["holds", "holds"]),
        (99, "supported", ["holds", "holds"]),
        (101, "premise not met", ["fails", "holds"]),  # one seed is enough: what is counted has no noise
    ],
)
def test_runs_are_matched_in_what_they_took_or_the_claim_is_not_asked(tmp_path, extra, outcome, states):
    folder = write_synthetic_study(tmp_path, **BIG)
    path = folder / "runs/sft_stress/seed1/run.json"
    record = read_json(path, RunRecord)
    write_json(path, replace(record, num_supervised_tokens=record.num_supervised_tokens + extra))
    effects = [EffectChoice(contrast=["sft_mild", "base"], task="target")]
    premises = matched_in("run.supervised_tokens", 100)
    found = with_claims(folder, {"H": ClaimChoice(text="mine", effects=effects, premises=premises)})["H"]
    assert (found.outcome, [premise.state for premise in found.premises]) == (outcome, states)
    told = "0" if extra == 0 else f"-{extra} to 0"
    assert found.premises[0].label == (
        f"Supervised tokens: {LABELS['sft_mild']} minus {LABELS['sft_stress']}: {told}, above -100"
    )


def test_families_are_corrected_on_their_own(tmp_path):
    folder = write_synthetic_study(tmp_path, **BIG)
    one = claim(contrast=["sft_mild", "base"], task="target")
    many = {f"H{i}": claim(contrast=["sft_mild", "base"], task="target", above=i / 1000) for i in range(5)}
    found = with_claims(folder, {"alone": ClaimChoice(text="", effects=one.effects, family="primary"), **many})
    assert found["alone"].evidence[0].p_holm == found["alone"].evidence[0].p
    assert found["H4"].evidence[0].p_holm >= found["H4"].evidence[0].p


def test_secondary_scores_can_be_claimed(tmp_path):
    folder = write_synthetic_study(tmp_path, **BIG)
    choice = claim(contrast=["base", "sft_stress"], task="mmlu", score="gold_logp_nats")
    assert with_claims(folder, {"H": choice})["H"].outcome == "supported"


def test_an_effect_on_the_target_has_the_other_scores_beside_it(tmp_path):
    """Each is shown once, and decides nothing: here every answer of the run is right by the last number in its text."""
    folder = write_synthetic_study(tmp_path, **BIG)
    for path in folder.glob("runs/*/seed*/evals/gsm8k.jsonl"):
        rows = read_jsonl(path, EvalRow)
        for row in rows:
            row.scores["flexible"] = 1.0 if "sft_stress" in path.parts else row.scores["exact_match"]
        write_jsonl(path, rows)
    pair = {"contrast": ["sft_stress", "base"], "task": "target"}
    asked = EffectChoice(**pair, score="flexible")
    found = with_claims(
        folder,
        {
            "own": claim(**pair),
            "named": claim(**pair, label="gain"),
            "asked": ClaimChoice(text="mine", effects=[EffectChoice(**pair), asked]),
            "kept": claim(**{**pair, "task": "retention"}),
        },
    )
    told = {
        name: [(one.label, one.state) for one in found[name].evidence] for name in ("own", "named", "asked", "kept")
    }
    assert [state for _, state in told["own"]] == ["fails", "shown"]
    assert [label for label, _ in told["named"]] == ["gain", "gain (flexible)"]
    assert [state for _, state in told["asked"]] == ["fails", "holds"]
    assert len(told["kept"]) == 1
    shown = found["own"].evidence[1]
    assert shown.effect == found["asked"].evidence[1].effect
    assert found["own"].outcome == "not supported"
    assert shown.effect.value > 0.3


# Looks


def test_the_error_rate_is_spent_as_obrien_and_fleming_do():
    assert spent_until(5, 5) == pytest.approx(0.05)
    # by hand at 3 of 5: 2 - 2 Phi(1.959964 / sqrt(.6)) = 2 - 2 Phi(2.530302)
    assert spent_until(3, 5) == pytest.approx(0.011397, abs=1e-6)


def look(num, planned, level):
    return Look(date="2026-01-01", num_seeds=num, planned_seeds=planned, level=level)


def test_looks_within_a_plan_spend_no_more_than_the_level():
    first = next_level(3, 5, [])
    second = next_level(5, 5, [look(3, 5, first)])
    assert first + second == pytest.approx(0.05)
    assert next_level(3, 5, [look(3, 5, first)]) == first  # reading again what was read spends nothing


def test_seeds_beyond_the_plan_get_half_of_what_the_look_before_had():
    assert next_level(5, 5, [look(3, 3, 0.05)]) == 0.025
    assert next_level(7, 7, [look(3, 3, 0.05), look(5, 5, 0.025)]) == 0.0125


@pytest.mark.slow
def test_a_study_keeps_its_looks(tmp_path):
    folder = write_synthetic_study(tmp_path, seeds=(0, 1, 2), **BIG)
    assert [(one.num_seeds, one.level) for one in write_comparison(folder).looks] == [(3, pytest.approx(0.05))]
    assert len(write_comparison(folder).looks) == 1
    more = write_synthetic_study(tmp_path / "again", seeds=(0, 1, 2, 3, 4), **BIG)
    (more / "looks.json").write_text((folder / "looks.json").read_text())
    assert [(one.num_seeds, one.level) for one in write_comparison(more).looks] == [
        (3, pytest.approx(0.05)),
        (5, pytest.approx(0.025)),
    ]


def test_too_few_seeds_are_no_look(tmp_path):
    folder = write_synthetic_study(tmp_path, seeds=(0, 1), **BIG)
    assert write_comparison(folder).looks == []


def test_the_record_reads_back(tmp_path):
    planned = recorded_claims([], {"H": claim(contrast=["a", "b"])}, now="2026-01-01", runs_begun=0)
    write_json(tmp_path / "claims.json", planned)
    assert read_json(tmp_path / "claims.json", list[PlannedClaim]) == planned
