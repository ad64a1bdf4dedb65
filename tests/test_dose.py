"""Runs at equal distance from the base: by hand, against a slow loop, and through a study's folder."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stateshape.analysis.compare import compare_scores
from stateshape.analysis.dose import common_dose, interpolation_error, matched, reach, scores_at_dose
from stateshape.analysis.dose_report import dose_report, write_dose_report
from stateshape.analysis.effects import Claim, dose_effect, item_effect, secondary_study
from stateshape.analysis.estimates import contrast, equivalence_p
from stateshape.analysis.planned_claims import planned_claims
from stateshape.analysis.planned_effects import planned_effect
from stateshape.analysis.reading import load_scores
from stateshape.analysis.rule import state_of
from stateshape.analysis.sampled import attempts, sampled_scores
from stateshape.analysis.scores import DosePoint, StudyScores
from stateshape.core import layout
from stateshape.core.dose_records import DoseReport
from stateshape.core.files import BadInput, read_json, read_jsonl, write_json, write_jsonl
from stateshape.core.records import DoseRecord, EvalRow, SampledRow
from stateshape.core.study_records import ClaimChoice, DoseChoice, EffectChoice, PlannedRun, PlanRecord, TaskRecord
from stateshape.report.parts.dose import dose_tables, finer, root_ticks
from stateshape.report.parts.tables import table2
from stateshape.report.study_files import read_study_folder
from stateshape.report.write import write_report
from stateshape.study.plan_claims import recorded_claims
from synthetic_study import RATES, write_synthetic_study

KL, NORM = "forward_kl_new_task_nats", "update_frobenius"
FEW = {run: RATES[run] for run in ("base", "sft_mild", "opd_mild")}


def point(step: int, dose: float, target: list[float], kept: list[float], **more: float) -> DosePoint:
    return DosePoint(step=step, doses={KL: dose, **more}, scores={"t": np.array(target), "r": np.array(kept)})


def by_hand(along: dict[str, dict[int, list[DosePoint]]], items: dict[str, np.ndarray] | None = None) -> StudyScores:
    """Two items a task; a run's own scores are those of its last point. The base was evaluated once."""
    tasks = [TaskRecord(name=name, label=name, metric="m", chance=0.0, num_items=2) for name in ("t", "r")]
    runs = [
        PlannedRun(name=name, label=name.upper(), method=None, teacher=None, settings={}) for name in ("base", *along)
    ]
    plan = PlanRecord(
        study="s", model="m", seeds=[0, 1], target=tasks[0], retention=tasks[1:], runs=runs, plan_sha256="", provenance={}
    )  # fmt: skip
    scores = {
        run: {t: {s: p[-1].scores[t] for s, p in seeds.items()} for t in ("t", "r")} for run, seeds in along.items()
    }
    base = {"t": {0: np.array([0.0, 1.0])}, "r": {0: np.array([1.0, 1.0])}}
    return StudyScores(
        plan=plan, scores={"base": base, **scores}, drift={}, missing=[], along=along, along_items=items or {}
    )  # fmt: skip


# By hand


def test_scores_between_two_points_are_on_the_line_between_them():
    study = by_hand({"a": {0: [point(1, 0.2, [1, 1], [1, 0]), point(2, 0.6, [1, 0], [0, 0])]}})
    found = scores_at_dose(study, "a", KL, 0.3)  # a quarter of the way from the first point to the second
    np.testing.assert_allclose(found["t"][0], [1, 0.75])
    np.testing.assert_allclose(found["r"][0], [0.75, 0])
    np.testing.assert_allclose(scores_at_dose(study, "a", KL, 0.2)["r"][0], [1, 0])
    np.testing.assert_allclose(scores_at_dose(study, "a", KL, 0.6)["t"][0], [1, 0])


def test_between_the_base_and_the_first_point_the_base_is_at_dose_zero():
    study = by_hand({"a": {0: [point(1, 0.2, [1, 1], [1, 0])]}})
    np.testing.assert_allclose(scores_at_dose(study, "a", KL, 0.05)["t"][0], [0.25, 1])
    np.testing.assert_allclose(scores_at_dose(study, "a", KL, 0.0)["t"][0], [0, 1])


def test_a_run_that_goes_back_counts_where_it_first_came_so_far():
    way = [point(1, 0.4, [1, 1], [1, 0]), point(2, 0.1, [0, 0], [0, 0]), point(3, 0.8, [0, 1], [0, 1])]
    study = by_hand({"a": {0: way}})
    np.testing.assert_allclose(scores_at_dose(study, "a", KL, 0.2)["t"][0], [0.5, 1])  # before the first point
    np.testing.assert_allclose(scores_at_dose(study, "a", KL, 0.45)["t"][0], [0, 0.5])  # half-way from 0.1 to 0.8


def test_seeds_that_never_come_so_far_are_absent():
    study = by_hand({"a": {0: [point(1, 0.2, [1, 1], [1, 0])], 1: [point(1, 0.5, [1, 1], [1, 0])]}})
    assert set(scores_at_dose(study, "a", KL, 0.2)["t"]) == {0, 1}
    assert set(scores_at_dose(study, "a", KL, 0.3)["t"]) == {1}
    assert scores_at_dose(study, "a", KL, 0.6) == {}


def test_the_common_dose_is_as_far_as_every_seed_of_every_run_comes():
    study = by_hand(
        {
            "a": {
                0: [point(1, 0.2, [1, 1], [1, 0])],
                1: [point(1, 0.7, [1, 1], [1, 0]), point(2, 0.5, [1, 1], [1, 0])],
            },
            "b": {0: [point(1, 0.6, [1, 1], [1, 0])], 1: [point(1, 0.9, [1, 1], [1, 0])]},
        }
    )
    assert common_dose(study, ["a", "b"], KL) == 0.2
    assert common_dose(study, ["b"], KL) == 0.6
    assert reach(study, "a", KL) == 0.2
    assert common_dose(study, ["base", "a"], KL) is None  # the base goes nowhere


def test_points_without_a_measure_are_passed_over():
    way = [point(1, 0.2, [1, 1], [1, 0]), point(2, 0.6, [0, 0], [0, 0], **{NORM: 4.0})]
    study = by_hand({"a": {0: way}})
    np.testing.assert_allclose(scores_at_dose(study, "a", NORM, 1.0)["t"][0], [0, 0.75])
    assert common_dose(study, ["a"], NORM) == 4.0


def test_contrasts_of_a_matched_study_are_those_at_the_dose():
    along = {
        "a": {0: [point(1, 0.4, [1, 1], [1, 0])], 1: [point(1, 0.4, [1, 1], [1, 0])]},
        "b": {0: [point(1, 0.8, [1, 1], [0, 0])], 1: [point(1, 0.8, [1, 1], [0, 0])]},
    }
    study = matched(by_hand(along), ["a", "b"], KL, 0.4)
    np.testing.assert_allclose(study.scores["b"]["r"][0], [0.5, 0.5])
    assert contrast(study, {"a": 1.0, "b": -1.0}, ["r"]).difference.value == pytest.approx(0.0)
    assert contrast(by_hand(along), {"a": 1.0, "b": -1.0}, ["r"]).difference.value == pytest.approx(0.5)


def test_a_matched_study_leaves_out_what_is_known_only_at_the_end():
    along = {name: {0: [point(1, 0.4, [1, 1], [1, 0])]} for name in ("a", "b")}
    beside = {run: {"t": {"flexible": {0: np.ones(2)}}} for run in ("a", "b")}
    study = matched(replace(by_hand(along), secondary=beside), ["a"], KL, 0.4)
    assert study.secondary == {"a": {}, "b": beside["b"]}
    assert study.along["a"] == {}


def test_every_run_is_cut_to_the_items_that_were_measured_on_the_way():
    one = DosePoint(step=1, doses={KL: 0.4}, scores={"t": np.array([1.0]), "r": np.array([0.0, 1.0])})
    last = DosePoint(step=2, doses={KL: 0.8}, scores={"t": np.array([0.0]), "r": np.array([0.0, 1.0])})
    study = by_hand({"a": {0: [one, last]}}, items={"t": np.array([1])})
    study.scores["a"]["t"][0] = np.array([0.25, 0.0])  # of both items
    np.testing.assert_allclose(scores_at_dose(study, "a", KL, 0.2)["t"][0], [1.0])  # the base's second item is 1
    cut = matched(study, ["a"], KL, 0.4)
    assert {run: {task: held[0].shape for task, held in tasks.items()} for run, tasks in cut.scores.items()} == {
        run: {"t": (1,), "r": (2,)} for run in ("base", "a")
    }


@pytest.mark.parametrize(
    ("measure", "dose", "wanted"),
    [
        ("kl", 0.1, f"measure: got 'kl'; expected one that the runs' along.jsonl hold: {KL}"),
        (KL, -0.1, "dose: got -0.1; expected a number from 0"),
        (KL, math.nan, "dose: got nan; expected a number from 0"),
    ],
)
def test_questions_that_make_no_sense_are_refused(measure: str, dose: float, wanted: str):
    with pytest.raises(BadInput, match=wanted.replace(".", "[.]")):
        scores_at_dose(by_hand({"a": {0: [point(1, 0.2, [1, 1], [1, 0])]}}), "a", measure, dose)


def test_a_run_that_was_not_measured_on_its_way_cannot_be_matched():
    study = by_hand({"a": {0: [point(1, 0.2, [1, 1], [1, 0])]}})
    with pytest.raises(BadInput, match="run: got 'base'; expected one that was measured on its way: a"):
        matched(study, ["base"], KL, 0.1)


def test_interpolation_against_a_loop_over_items_and_points():
    rng = np.random.default_rng(5)
    doses = np.cumsum(rng.normal(0.1, 0.2, size=7))  # goes back now and then
    way = [
        DosePoint(step=i + 1, doses={KL: max(0.0, float(d))}, scores={t: rng.random(2) for t in ("t", "r")})
        for i, d in enumerate(doses)
    ]
    study = by_hand({"a": {0: way}})
    base = {task: study.scores["base"][task][0] for task in ("t", "r")}
    points = [(0.0, base), *((p.doses[KL], p.scores) for p in way)]
    for dose in np.linspace(0, max(d for d, _ in points), 40):
        found = scores_at_dose(study, "a", KL, float(dose))
        for i in range(len(points)):
            if points[i][0] >= dose:
                break
        for task in ("t", "r"):
            for item in range(2):
                end = points[i][1][task][item]
                if i > 0:
                    start, width = points[i - 1][1][task][item], points[i][0] - points[i - 1][0]
                    end = start + (end - start) * (dose - points[i - 1][0]) / width
                assert found[task][0][item] == pytest.approx(end)


# How far interpolation may be off


def fall(seed: int, *, num_items: int = 400, at: tuple[float, ...] = (0.1, 0.5)) -> list[DosePoint]:
    """The target stays at .9 to the first point, and is at .1 from the second on; what is retained stays."""
    rng = np.random.default_rng(seed)
    kept = (rng.random(num_items) < 0.5).astype(float)
    shares = (0.9,) + (0.1,) * (len(at) - 1)
    return [
        DosePoint(step=i + 1, doses={KL: dose}, scores={"t": (rng.random(num_items) < share).astype(float), "r": kept})
        for i, (dose, share) in enumerate(zip(at, shares))
    ]


def falling(ways: dict[str, tuple[float, ...]], num_items: int = 400) -> StudyScores:
    along = {
        run: {seed: fall(10 * seed + i, num_items=num_items, at=at) for seed in range(5)}
        for i, (run, at) in enumerate(ways.items())
    }
    study = by_hand(along)
    tasks = [replace(task, num_items=num_items) for task in (study.plan.target, *study.plan.retention)]
    base = {task: {0: np.ones(num_items)} for task in ("t", "r")}
    plan = replace(study.plan, seeds=list(range(5)), num_along=2, target=tasks[0], retention=tasks[1:])
    return replace(study, plan=plan, scores=study.scores | {"base": base})


def test_the_error_of_interpolation_is_half_the_change_half_way_and_none_at_a_point():
    a = {0: [point(1, 0.2, [1, 1], [1, 0]), point(2, 0.6, [1, 0], [0, 0])]}  # means 1 then .5; .5 then 0
    study = by_hand({"a": a})
    for dose, wanted in ((0.2, 0.0), (0.3, 2 * 0.25 * 0.75 * 0.5), (0.4, 0.25), (0.6, 0.0)):
        assert interpolation_error(study, "a", KL, dose, ["t"]) == pytest.approx(wanted)
        assert interpolation_error(study, "a", KL, dose, ["t", "r"]) == pytest.approx(wanted)
    assert interpolation_error(study, "a", KL, 0.1, ["t"]) == pytest.approx(0.25)  # from the base's .5 to 1
    assert interpolation_error(study, "base", KL, 0.1, ["t"]) == 0.0
    assert interpolation_error(study, "a", KL, 0.7, ["t"]) == 0.0  # it never comes so far


def test_changes_of_two_seeds_in_opposite_directions_cancel():
    study = by_hand(
        {"a": {s: [point(1, 0.2, [1, 0], [1, 0]), point(2, 0.6, [s, s], [1, 0])] for s in (0, 1)}}  # .5 to 0, .5 to 1
    )
    assert interpolation_error(study, "a", KL, 0.4, ["t"]) == pytest.approx(0.0)


@pytest.mark.parametrize("off_by", [0.0, 0.03, 0.2])
def test_an_effect_that_may_be_off_is_tested_against_the_nearest_value_it_could_have(off_by: float):
    study = falling({"a": (0.1, 0.5), "b": (0.1, 0.5)})
    weights, tasks = {"a": 1.0, "base": -1.0}, ["r"]
    plain = item_effect(study, "e", weights, tasks, threshold=-0.4, margin=0.6)
    loose = item_effect(study, "e", weights, tasks, threshold=-0.4, margin=0.6, off_by=off_by)
    value = plain.estimate.value
    assert value is not None
    assert value == loose.estimate.value
    assert (loose.estimate.lo, loose.estimate.hi) == pytest.approx(
        ((plain.estimate.lo or 0) - off_by, (plain.estimate.hi or 0) + off_by)
    )
    nearest = min(-0.4, max(value, -0.4 - off_by))  # the base's mean is 1, a's near .5: the effect is near -.5
    assert loose.p == (1.0 if nearest == value else contrast(study, weights, tasks, null=nearest).p)
    assert loose.p_equivalent == equivalence_p(study, weights, tasks, 0.6 - off_by)


def test_a_dose_that_one_seed_does_not_reach_is_shown_of_the_others_and_decides_nothing():
    study = falling({"a": (0.1, 0.5), "b": (0.1, 0.5, 0.9)})
    short = study.along["a"] | {4: study.along["a"][4][:1]}
    stopped = replace(study, along=study.along | {"a": short})
    effect = EffectChoice(contrast=["b", "a"], task="t", label="gain", dose=DoseChoice(measure=KL, at=0.5))
    claims = recorded_claims([], {"H": ClaimChoice(text="mine", effects=[effect])}, now="2026-11-28", runs_begun=0)

    def claim_on(some: StudyScores) -> Claim:
        return planned_claims(replace(some, plan=replace(some.plan, claims=claims)))[0]

    claim = claim_on(stopped)
    assert claim.effects[0].lacks is not None
    (shown,) = claim.shown
    assert shown.label == "4 of 5 seeds reach it: gain (at 0.5)"
    four = {run: {seed: points for seed, points in study.along[run].items() if seed < 4} for run in ("a", "b")}
    alone = dose_effect(
        replace(study, along=four), "gain", ("b", "a"), ["t"], measure=KL, dose=0.5, with_bootstrap=False
    )
    assert shown.estimate == alone.estimate
    assert shown.estimate.n_seeds == 4
    assert claim_on(study).shown == []
    nobody = {seed: points[:1] for seed, points in study.along["a"].items()}
    assert claim_on(replace(study, along=study.along | {"a": nobody})).shown == []


def test_nothing_is_decided_at_a_dose_in_the_middle_of_a_fall():
    """At .3, b was measured (.9), and a is half-way down a line from .9 to .1: it may be at either end."""
    study = falling({"a": (0.1, 0.5), "b": (0.3, 0.9)})
    seen = dose_effect(study, "e", ("b", "a"), ["t"], measure=KL, dose=0.3, margin=0.02)
    assert state_of(seen, seen.p, seen.p_equivalent) == "open"
    assert seen.estimate.value == pytest.approx(0.4, abs=0.05)
    assert re.search(r"give or take 0[.](39|4|41) between measured points", seen.label)
    measured = falling({"a": (0.1, 0.3, 0.5), "b": (0.3, 0.9)})  # a was measured there, and has fallen
    known = dose_effect(measured, "e", ("b", "a"), ["t"], measure=KL, dose=0.3, margin=0.02)
    assert state_of(known, known.p, known.p_equivalent) == "holds"
    assert "give or take" not in known.label


# Other scores


def by_samples(study: StudyScores, values: dict[str, list[float]], base: list[float]) -> StudyScores:
    """The study with strict_t1 scores of its target, by run, at every point; the base's apart."""
    along = {
        run: {
            seed: [replace(one, secondary={"t": {"strict_t1": np.array(values[run])}}) for one in points]
            for seed, points in seeds.items()
        }
        for run, seeds in study.along.items()
    }
    held = {
        run: {"t": {"strict_t1": {seed: np.array(values[run]) for seed in seeds}}} for run, seeds in along.items()
    } | {"base": {"t": {"strict_t1": {0: np.array(base)}}}}
    return replace(study, along=along, secondary=held)


def test_another_score_is_interpolated_along_the_same_way():
    study = by_hand({"a": {0: [point(1, 0.2, [1, 1], [1, 0]), point(2, 0.6, [1, 0], [0, 0])]}})
    found = scores_at_dose(secondary_study(by_samples(study, {"a": [0.5, 1.0]}, [0.0, 0.5]), "strict_t1"), "a", KL, 0.1)
    assert set(found) == {"t"}
    np.testing.assert_allclose(found["t"][0], [0.25, 0.75])  # half-way from the base, by its samples too


def test_a_claim_at_a_dose_in_another_score_is_another_effect():
    study = falling({"a": (0.1, 0.5), "b": (0.1, 0.5)})
    size = len(study.along["a"][0][0].scores["t"])
    values = {"a": [0.25] * size, "b": [0.75] * size}
    sampled = by_samples(study, values, [0.5] * size)
    at = {"contrast": ["b", "a"], "task": "target", "dose": DoseChoice(at=0.3)}
    greedy = planned_effect(sampled, EffectChoice(**at))
    by_score = planned_effect(sampled, EffectChoice(**at, score="strict_t1"))
    assert abs(greedy.estimate.value) < 0.1 and by_score.estimate.value == pytest.approx(0.5)
    assert by_score.key == greedy.key.replace(" at ", " in strict_t1 at ")
    assert "(strict, temperature 1)" in by_score.label
    bare = planned_effect(study, EffectChoice(**at, score="strict_t1"))
    assert bare.estimate.value is None and bare.estimate.note == bare.lacks is not None


def test_the_peak_of_another_score():
    study = by_samples(falling({"a": (0.1, 0.5)}), {"a": [0.25] * 100}, [0.5] * 100)
    choice = EffectChoice(contrast=["a"], measure="along.peak", score="strict_t1")
    assert planned_effect(study, choice).estimate.value == pytest.approx(0.25)
    assert "(strict, temperature 1)" in planned_effect(study, choice).label


# Several samples per item


def test_the_scores_of_several_samples_by_hand():
    row = SampledRow(
        item_id="x", prompt_sha256="", gold="1", temperature=1.0, strict=[True, False, False, False],
        flexible=[True, True, False, False], completions=[""] * 4, finishes=["eos"] * 4,
    )  # fmt: skip
    assert sampled_scores(row, "strict") == {"strict_t1": 0.25, "flexible_t1": 0.5, "pass_at_2": 0.5, "pass_at_4": 1.0}
    none_right = replace(row, strict=[False] * 4, temperature=0.7)
    shares = {"strict_t0.7": 0.0, "flexible_t0.7": 0.5}
    assert sampled_scores(none_right, "strict") == {**shares, "pass_at_2": 0.0, "pass_at_4": 0.0}
    assert sampled_scores(none_right, "flexible")["pass_at_2"] == pytest.approx(5 / 6)  # of 6 pairs one has none right


@pytest.mark.parametrize(("n", "expected"), [(1, [1]), (2, [2]), (3, [2, 3]), (8, [2, 4, 8]), (10, [2, 4, 8, 10])])
def test_chances_are_given_for_powers_of_two_and_all_samples(n, expected):
    assert attempts(n) == expected


# A study's folder


def write_along(study: Path, *, num_items: int, limit: int | None = None) -> Path:
    """A made-up way for every trained run: at half of its steps it has the base's rows, and half of its final dose."""
    for folder in layout.run_folders(study):
        run, seed = folder.parent.name, int(folder.name.removeprefix("seed"))
        if run == "base":
            continue
        end = {"sft_mild": 0.2, "opd_mild": 0.1}[run] + 0.01 * seed
        write_jsonl(
            folder / layout.ALONG,
            [DoseRecord(step=step, doses={KL: end * step / 12, NORM: 3.0 * step}, num_states=100) for step in (6, 12)],
        )
        for path in (study / "runs" / "base" / "seed0" / "evals").glob("*.jsonl"):
            rows = read_jsonl(path, EvalRow)
            write_jsonl(layout.along_rows(folder, 6, path.stem), rows[: limit or num_items])
    return study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_synthetic_study(tmp_path_factory.mktemp("dose"), seeds=(0, 1, 2), num_items=40, rates=FEW)
    return write_along(made, num_items=40)


def test_a_study_is_read_with_its_way(folder: Path):
    study = load_scores(folder)
    assert study.along["base"] == {}
    (half, end) = study.along["sft_mild"][1]
    assert (half.step, end.step) == (6, 12)
    np.testing.assert_array_equal(half.scores["gsm8k"], study.scores["base"]["gsm8k"][0])
    np.testing.assert_array_equal(end.scores["mmlu"], study.scores["sft_mild"]["mmlu"][1])
    assert study.along_items == {}


def test_fewer_items_on_the_way_are_lined_up_with_those_of_the_whole_study(tmp_path: Path):
    made = write_synthetic_study(tmp_path, seeds=(0,), num_items=40, rates=FEW)
    study = load_scores(write_along(made, num_items=40, limit=15))
    assert {task: list(items) for task, items in study.along_items.items()} == {
        task: list(range(15)) for task in ("gsm8k", "truthfulqa", "mmlu")
    }
    end = study.along["opd_mild"][0][-1]
    np.testing.assert_array_equal(end.scores["gsm8k"], study.scores["opd_mild"]["gsm8k"][0][:15])
    report = dose_report(study)
    assert report is not None
    assert report.num_items == {"gsm8k": 15, "truthfulqa": 15, "mmlu": 15}


def test_other_items_on_the_way_are_refused_with_both_files(tmp_path: Path):
    made = write_along(write_synthetic_study(tmp_path, seeds=(0,), num_items=10, rates=FEW), num_items=10)
    odd = layout.along_rows(layout.run_folder(made, "sft_mild", 0), 6, "mmlu")
    write_jsonl(odd, read_jsonl(odd, EvalRow)[:4])
    with pytest.raises(BadInput, match="is in one only; expected the same items along every run"):
        load_scores(made)
    rows = read_jsonl(layout.evaluation(layout.run_folder(made, "base", 0), "mmlu"), EvalRow)
    write_jsonl(odd, [replace(rows[0], prompt_sha256="0" * 64), *rows[1:]])
    with pytest.raises(BadInput, match="has different prompts in the two"):
        load_scores(made)


def test_comparison_and_verdicts_do_not_depend_on_the_way(folder: Path, tmp_path: Path):
    bare = write_synthetic_study(tmp_path, seeds=(0, 1, 2), num_items=40, rates=FEW)
    assert compare_scores(load_scores(folder)) == compare_scores(load_scores(bare))
    assert write_dose_report(bare) is None
    assert not (bare / layout.DOSES).exists()


def test_the_report_of_doses_is_what_the_library_says(folder: Path):
    study, report = load_scores(folder), dose_report(load_scores(folder))
    assert report is not None
    assert [measure.measure for measure in report.measures] == [KL, NORM]
    by_kl = report.measures[0]
    assert by_kl.common == pytest.approx(0.1)
    assert by_kl.limited_by == "OPD from the mild teacher"
    assert [row.run for row in by_kl.rows] == ["base", "sft_mild", "opd_mild"]
    at_dose = matched(study, ["sft_mild", "opd_mild"], KL, by_kl.common or 0.0)
    expected = contrast(at_dose, {"sft_mild": 1.0, "base": -1.0}, ["gsm8k"]).difference
    assert by_kl.rows[1].gain == expected
    assert by_kl.rows[0].gain is None
    arm = by_kl.arms[0]
    assert (arm.run, arm.reach) == ("sft_mild", pytest.approx(0.2))
    assert arm.means[0].target == pytest.approx(report.base_target)
    last = [float(scores_at_dose(study, "sft_mild", KL, arm.reach)["gsm8k"][seed].mean()) for seed in (0, 1, 2)]
    assert arm.means[-1].target == pytest.approx(np.mean(last))
    half = 4.302653 * np.std(last, ddof=1) / math.sqrt(3)
    assert arm.means[-1].target_hi == pytest.approx(np.mean(last) + half, rel=1e-5)
    assert report.band == "t interval over seeds"


def test_two_seeds_have_a_range_and_one_has_no_band(tmp_path: Path):
    for seeds, band in (((0, 1), "range over seeds"), ((0,), "none: one seed")):
        made = write_synthetic_study(tmp_path / band, seeds=seeds, num_items=10, rates=FEW)
        report = dose_report(load_scores(write_along(made, num_items=10)))
        assert report is not None
        assert report.band == band
        mean = report.measures[0].arms[0].means[-1]
        assert (mean.target_lo is None) == (len(seeds) == 1)
        assert mean.target_lo is None or mean.target_lo <= mean.target <= (mean.target_hi or 0)


def test_an_earlier_report_of_doses_is_gone_where_there_are_none(folder: Path, tmp_path: Path):
    made = write_synthetic_study(tmp_path, seeds=(0,), num_items=10, rates=FEW)
    write_along(made, num_items=10)
    assert write_dose_report(made) == read_json(made / layout.DOSES, DoseReport)
    for run in layout.run_folders(made):
        (run / layout.ALONG).unlink(missing_ok=True)
    assert write_dose_report(made) is None
    assert not (made / layout.DOSES).exists()


def test_scores_at_temperature_and_by_flexible_extraction_are_secondary(tmp_path: Path):
    made = write_synthetic_study(tmp_path, seeds=(0,), num_items=12, rates=FEW)
    plan = read_json(made / layout.PLAN, PlanRecord)
    write_json(made / layout.PLAN, replace(plan, target=replace(plan.target, metric="strict")))
    for run in layout.run_folders(made):
        path = layout.evaluation(run, "gsm8k")
        rows = [
            replace(row, scores={"strict": row.scores["exact_match"], "flexible": 1.0})
            for row in read_jsonl(path, EvalRow)
        ]
        write_jsonl(path, rows)
        right = run.parent.name == "sft_mild"
        sampled = [
            SampledRow(
                item_id=row.item_id, prompt_sha256=row.prompt_sha256, gold=row.gold, temperature=1.0, strict=[right, False],
                flexible=[True, right], completions=["", ""], finishes=["eos", "eos"],
            )
            for row in rows
        ]  # fmt: skip
        write_jsonl(layout.evaluation(run, "gsm8k", layout.SAMPLED), reversed(sampled))
    study = load_scores(made)
    assert set(study.secondary["sft_mild"]["gsm8k"]) == {"flexible", "strict_t1", "flexible_t1", "pass_at_2"}
    row = next(row for row in compare_scores(study).rows if row.run == "sft_mild")
    secondary = row.versus_base["gsm8k"].secondary
    assert {name: secondary[name].value for name in secondary} == pytest.approx(
        {"flexible": 0.0, "strict_t1": 0.5, "flexible_t1": 0.5, "pass_at_2": 1.0}
    )
    assert {name: one.value for name, one in row.extractions.items()} == pytest.approx(
        {"flexible": 1.0, "strict_t1": 0.5, "flexible_t1": 1.0, "pass_at_2": 1.0}
    )
    table = table2(study.plan, compare_scores(study))
    at = [column.key for column in table.columns].index("gsm8k_flexible")
    assert table.columns[at].heading == f"{study.plan.target.label}, flexible"
    assert [line[at].value for line in table.rows] == [1.0] * len(table.rows)  # the base's too
    headings = [column.heading.removeprefix(f"{study.plan.target.label}, ") for column in table.columns]
    assert headings[at : at + 4] == ["flexible", "strict, temperature 1", "flexible, temperature 1", "pass@2"]
    assert any("at a temperature, and pass@k, are of several samples" in note for note in table.notes)


# The picture


def test_the_picture_and_its_table_are_in_the_report(folder: Path):
    write_dose_report(folder)
    write_report(folder)
    page = (folder / layout.REPORT).read_text(encoding="utf-8")
    assert "At equal distance from the base" in page
    assert "95% t interval over training seeds" in page
    for measure in (KL, NORM):
        for suffix in ("svg", "png"):
            assert (folder / "plots" / f"dose_{measure}.{suffix}").stat().st_size > 0
        assert (folder / "tables" / f"dose_{measure}.csv").read_text().startswith("label,gsm8k,gsm8k_lo,gsm8k_hi")
    drawn = (folder / "plots" / f"dose_{KL}.svg").read_text()
    assert "KL(base || run)" in drawn
    assert "OPD from the mild teacher" in drawn


def test_the_table_names_the_run_that_comes_least_far(folder: Path):
    write_dose_report(folder)
    files = read_study_folder(folder)
    assert files.dose is not None
    (by_kl, _) = dose_tables(files.dose, files.plan)
    assert [row[0].text for row in by_kl.rows] == ["Base", "SFT, mild", "OPD from the mild teacher"]
    assert "OPD from the mild teacher comes least far" in by_kl.notes[0]
    assert by_kl.rows[0][-1].value is None


def test_the_table_names_runs_that_were_first_measured_beyond_the_common_dose():
    along = {
        "near": {0: [point(1, 0.1, [1, 1], [1, 0]), point(2, 0.4, [1, 1], [1, 0])]},
        "far": {0: [point(1, 0.5, [1, 1], [1, 0]), point(2, 0.9, [1, 1], [1, 0])]},
    }
    study = by_hand(along)
    report = dose_report(study)
    assert report is not None
    assert [(row.run, row.first) for row in report.measures[0].rows] == [("base", 0.0), ("near", 0.1), ("far", 0.5)]
    (table,) = dose_tables(report, study.plan)
    assert "before the first measured point of FAR (0.500):" in table.notes[1]


def test_what_is_straight_in_the_dose_is_drawn_straight_in_it():
    xs, ys = finer([0.0, 0.4, 0.2], [1.0, 0.0, 1.0])
    np.testing.assert_allclose(ys[:13], 1 - np.array(xs[:13]) / 0.4)
    assert (xs[12], ys[12], xs[-1], ys[-1]) == (0.4, 0.0, 0.2, 1.0)


def test_a_study_that_was_not_measured_on_its_way_has_no_such_section(tmp_path: Path):
    made = write_synthetic_study(tmp_path, seeds=(0,), num_items=10, rates=FEW)
    write_report(made)
    assert "At equal distance from the base" not in (made / layout.REPORT).read_text(encoding="utf-8")


def test_ticks_of_an_axis_of_roots_have_room():
    assert root_ticks(1.0) == [0.0, 0.05, 0.2, 0.5, 1.0]
    assert root_ticks(0.27) == [0.0, 0.02, 0.05, 0.1, 0.2]  # 0.005 would touch 0.02
    for farthest in (3e-4, 0.07, 0.9, 12.0, 480.0):
        ticks = root_ticks(farthest)
        places = [math.sqrt(tick / farthest) for tick in ticks]
        assert len(ticks) >= 4
        assert all(after - before >= 0.14 - 1e-9 for before, after in itertools.pairwise(places))
        assert ticks[-1] <= farthest
