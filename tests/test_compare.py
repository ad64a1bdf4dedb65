"""Comparisons of made-up studies: hand-worked values, pairing by item, missing runs, errors for unpairable rows."""

import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest

from stateshape.analysis.compare import compare, write_comparison
from stateshape.analysis.estimates import contrast
from stateshape.analysis.reading import load_scores, secondary_scores
from stateshape.analysis.statistics import exact_mcnemar, wilson
from stateshape.core.files import BadInput, read_json, read_jsonl, write_json, write_jsonl
from stateshape.core.records import EvalRow
from stateshape.core.study_records import Comparison, PlanRecord, Verdict
from synthetic_study import RATES, TASKS, write_synthetic_study

TWO = {run: RATES[run] for run in ("base", "sft_stress")}


def rows_of(comparison):
    return {row.run: row for row in comparison.rows}


def set_scores(folder, run, seed, task, outcomes):
    """Overwrites a task's rows with the given 0/1 outcomes."""
    path = folder / "runs" / run / f"seed{seed}" / "evals" / f"{task.name}.jsonl"
    rows = [
        EvalRow(
            item_id=f"i{index}",
            prompt_sha256=f"s{index}",
            prediction=None,
            gold="",
            is_correct=bool(value),
            scores={task.metric: float(value)},
        )
        for index, value in enumerate(outcomes)
    ]
    write_jsonl(path, rows)


def means(outcome_of_share, n=20):
    """n outcomes of which the given share are 1."""
    return [1] * round(outcome_of_share * n) + [0] * (n - round(outcome_of_share * n))


def test_one_seed_by_hand(tmp_path):
    folder = write_synthetic_study(tmp_path, seeds=(5,), num_items=20, rates=TWO)
    for task, base, post in zip(TASKS, (0.5, 0.6, 0.8), (0.25, 0.4, 0.6)):
        set_scores(folder, "base", 5, task, means(base))
        set_scores(folder, "sft_stress", 5, task, means(post))
    row = rows_of(compare(folder))["sft_stress"]
    score = row.scores["gsm8k"]
    assert (score.value, score.lo, score.hi) == (0.25, *wilson(5, 20))
    assert (score.n_items, score.n_seeds, score.per_seed) == (20, 1, {"5": 0.25})
    against = row.versus_base["gsm8k"]
    assert against.difference.value == pytest.approx(-0.25)
    # 5 discordant items, all for the base: p = 2 / 32
    assert (against.p, against.test, against.versus) == (pytest.approx(2 / 32), "exact McNemar", "base")
    assert row.mean_forgetting.value == pytest.approx((0.2 + 0.2) / 2)
    assert row.mean_retention.value == pytest.approx((0.4 / 0.6 + 0.6 / 0.8) / 2)
    corrected = ((0.4 - 0.2225) / (0.6 - 0.2225) + (0.6 - 0.25) / (0.8 - 0.25)) / 2
    assert row.mean_chance_corrected_retention.value == pytest.approx(corrected)
    for estimate in (row.mean_forgetting, row.mean_retention, row.mean_chance_corrected_retention):
        assert estimate.lo < estimate.value < estimate.hi
        assert estimate.n_items == 40


def test_rows_pair_by_item_and_not_by_line(tmp_path):
    folder = write_synthetic_study(tmp_path, seeds=(0,), num_items=60, rates=TWO)
    before = compare(folder)
    path = folder / "runs" / "sft_stress" / "seed0" / "evals" / "mmlu.jsonl"
    write_jsonl(path, list(reversed(read_jsonl(path, EvalRow))))
    assert compare(folder) == before
    outcomes = {
        run: np.array([r.is_correct for r in read_jsonl(folder / "runs" / run / "seed0/evals/gsm8k.jsonl", EvalRow)])
        for run in TWO
    }
    expected = exact_mcnemar(outcomes["sft_stress"], outcomes["base"])
    assert rows_of(before)["sft_stress"].versus_base["gsm8k"].p == pytest.approx(expected)


def test_several_seeds(tmp_path):
    folder = write_synthetic_study(tmp_path, num_items=300)
    comparison = compare(folder)
    rows = rows_of(comparison)
    assert list(rows) == list(RATES)
    assert comparison.missing == []
    base, stress, student = rows["base"], rows["sft_stress"], rows["opd_stress"]
    assert (base.versus_base, base.mean_forgetting, base.drift) == ({}, None, {})
    assert base.scores["mmlu"].n_seeds == 1
    score = stress.scores["gsm8k"]
    assert (score.n_seeds, set(score.per_seed)) == (3, {"0", "1", "2"})
    assert score.value == pytest.approx(np.mean(list(score.per_seed.values())))
    against = stress.versus_base["mmlu"]
    assert against.test.startswith("t over seeds and items")
    assert against.bootstrap[0] < against.difference.value < against.bootstrap[1]
    assert against.difference.value == pytest.approx(stress.scores["mmlu"].value - base.scores["mmlu"].value)
    assert against.difference.hi < 0
    assert against.p < 0.01
    assert stress.versus_teacher == {}
    assert student.versus_teacher["gsm8k"].versus == "sft_stress"
    surpasses = student.versus_teacher["gsm8k"].difference
    assert surpasses.value == pytest.approx(student.scores["gsm8k"].value - score.value)
    drift = stress.drift_per_seed["mmd2_biased"]
    assert stress.drift["mmd2_biased"].value == pytest.approx(np.mean(list(drift.values())))
    assert stress.drift["mmd2_biased"].base_vs_base == pytest.approx(0.0105)


def test_the_same_folder_gives_the_same_numbers_and_one_run_does_not_move_another(tmp_path):
    whole = compare(write_synthetic_study(tmp_path, num_items=50))
    assert compare(tmp_path) == whole
    plan = json.loads((tmp_path / "plan.json").read_text())
    plan["runs"] = [run for run in plan["runs"] if run["name"] in TWO]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert rows_of(compare(tmp_path))["sft_stress"] == rows_of(whole)["sft_stress"]


def test_a_base_per_seed_pairs_seed_by_seed(tmp_path):
    folder = write_synthetic_study(tmp_path, seeds=(0, 1), num_items=20, rates=TWO, base_once=False)
    for seed, base in ((0, 0.5), (1, 0.7)):
        set_scores(folder, "base", seed, TASKS[0], means(base))
        set_scores(folder, "sft_stress", seed, TASKS[0], means(0.2))
    difference = rows_of(compare(folder))["sft_stress"].versus_base["gsm8k"].difference
    assert difference.per_seed == {"0": pytest.approx(-0.3), "1": pytest.approx(-0.5)}


def test_missing_runs_stay_in_the_table_as_none(tmp_path):
    folder = write_synthetic_study(tmp_path, num_items=30, missing=["rl"], incomplete=["sft_mild"])
    (folder / "runs/opd_stress/seed1/evals/mmlu.jsonl").unlink()
    (folder / "runs/sft_stress/seed2/drift.json").unlink()
    comparison = compare(folder)
    rows = rows_of(comparison)
    for run in ("rl", "sft_mild"):
        assert rows[run].scores["gsm8k"].value is None
        assert rows[run].versus_base["gsm8k"].difference.value is None
        assert rows[run].versus_base["gsm8k"].p is None
        assert rows[run].mean_forgetting is None
        assert rows[run].mean_retention is None
    assert rows["opd_mild"].versus_teacher["gsm8k"].p is None  # its teacher did not finish
    assert rows["opd_stress"].scores["mmlu"].n_seeds == 2
    assert rows["opd_stress"].mean_forgetting.n_seeds == 2
    assert rows["opd_stress"].scores["gsm8k"].n_seeds == 3
    assert sorted(comparison.missing) == [
        "opd_stress, seed 1: no rows for mmlu (mmlu.jsonl)",
        "rl: no run for any seed",
        "sft_mild, seed 0: did not finish; trained 12 steps, evaluation is incomplete",
        "sft_mild, seed 1: did not finish; trained 12 steps, evaluation is incomplete",
        "sft_mild, seed 2: did not finish; trained 12 steps, evaluation is incomplete",
        "sft_stress, seed 2: no drift.json",
    ]


def test_a_base_at_chance_has_nothing_to_retain(tmp_path):
    folder = write_synthetic_study(tmp_path, seeds=(0,), num_items=20, rates=TWO)
    for task, base in zip(TASKS, (0.5, 0.2, 0.8)):  # TruthfulQA below its chance of .2225
        set_scores(folder, "base", 0, task, means(base))
        set_scores(folder, "sft_stress", 0, task, means(0.15))
    row = rows_of(compare(folder))["sft_stress"]
    assert row.mean_chance_corrected_retention is None
    assert row.mean_retention.value == pytest.approx((0.15 / 0.2 + 0.15 / 0.8) / 2)
    set_scores(folder, "base", 0, TASKS[1], means(0.25))  # just above chance: the ratio has no bound
    row = rows_of(compare(folder))["sft_stress"]
    assert row.mean_chance_corrected_retention.value is not None
    assert (row.mean_chance_corrected_retention.lo, row.mean_chance_corrected_retention.hi) == (None, None)


def test_trap_fragile_forgetting_claims_rows_that_cannot_be_paired(tmp_path):
    folder = write_synthetic_study(tmp_path, seeds=(0,), num_items=20, rates=TWO)
    path = folder / "runs/sft_stress/seed0/evals/mmlu.jsonl"
    good = read_jsonl(path, EvalRow)
    for bad, says in (
        (good[:-1], "1 items are in one only, e.g. 'mmlu-19'"),
        ([*good, good[0]], "item 'mmlu-0' appears twice"),
        ([], "no rows"),
    ):
        write_jsonl(path, bad)
        with pytest.raises(BadInput, match=says):
            compare(folder)
    text = path.parent.parent.parent.parent / "base/seed0/evals/mmlu.jsonl"
    path.write_text(text.read_text().replace(good[3].prompt_sha256, "f" * 64))
    with pytest.raises(BadInput, match="'mmlu-3' has different prompts") as error:
        compare(folder)
    assert str(path) in str(error.value)
    assert str(text) in str(error.value)
    path.write_text(text.read_text().replace('"accuracy"', '"acc"'))
    with pytest.raises(BadInput, match="no score 'accuracy', only"):
        compare(folder)


def test_scores_that_are_not_0_or_1(tmp_path):
    folder = write_synthetic_study(tmp_path, seeds=(0,), num_items=40, rates=TWO)
    rng = np.random.default_rng(0)
    first = rng.random(40)
    set_scores(folder, "base", 0, TASKS[0], first)
    set_scores(folder, "sft_stress", 0, TASKS[0], first - 0.2 + 0.05 * rng.standard_normal(40))
    against = rows_of(compare(folder))["sft_stress"].versus_base["gsm8k"]
    assert against.test == "paired bootstrap over items"
    assert against.difference.hi - against.difference.lo < 0.05  # pairing takes the items' spread out
    assert against.p < 0.001


def test_forgetting_resamples_items_within_a_task_and_seeds_across_tasks(tmp_path):
    folder = write_synthetic_study(tmp_path, num_items=200, rates=TWO)
    study = load_scores(folder)
    estimate = contrast(study, {"base": 1, "sft_stress": -1}, ["truthfulqa", "mmlu"]).difference
    per_task = [contrast(study, {"base": 1, "sft_stress": -1}, [task]).difference for task in ("truthfulqa", "mmlu")]
    assert estimate.value == pytest.approx(np.mean([part.value for part in per_task]))
    # two independent tasks: the half-width of the mean is near the root mean square over root 2
    widths = [part.hi - part.lo for part in per_task]
    assert estimate.hi - estimate.lo == pytest.approx(np.hypot(*widths) / 2, rel=0.15)


# Scores beside accuracy


def test_secondary_scores_by_hand():
    row = EvalRow(
        item_id="i", prompt_sha256="s", prediction="b", gold="b", is_correct=True, scores={"acc": 1.0},
        options=[" a", " b", " c"], option_logps=[math.log(0.2), math.log(0.1), math.log(0.1)],
    )  # fmt: skip
    found = secondary_scores(row)
    assert found == {"gold_logp_nats": pytest.approx(math.log(0.1)), "gold_mass": pytest.approx(0.25)}
    several = secondary_scores(replace(row, gold="b | c"))
    assert several == {"gold_logp_nats": pytest.approx(math.log(0.2)), "gold_mass": pytest.approx(0.5)}
    assert secondary_scores(replace(row, scores={"mc1": 1.0, "mc2": 0.7}))["gold_mass"] == 0.7
    # no options, another option's text: nothing, not zero
    assert secondary_scores(replace(row, options=None)) == secondary_scores(replace(row, gold="bb")) == {}


def test_secondary_differences_are_paired(tmp_path):
    folder = write_synthetic_study(tmp_path, num_items=80, rates=TWO)
    row = rows_of(compare(folder))["sft_stress"]
    assert row.versus_base["gsm8k"].secondary == {}  # free text has no options
    beside = row.versus_base["mmlu"].secondary
    assert set(beside) == {"gold_logp_nats", "gold_mass", "retention_above_chance"}
    # the made-up rows give a right answer -1 nat and a wrong one -3: the difference is twice that of the accuracy
    accuracy = row.versus_base["mmlu"].difference
    assert beside["gold_logp_nats"].value == pytest.approx(2 * accuracy.value)
    assert beside["gold_logp_nats"].hi == pytest.approx(2 * accuracy.hi)
    study = load_scores(folder)
    base, post = (np.mean(study.matrix(run, "mmlu", [0, 1, 2])) for run in ("base", "sft_stress"))
    assert beside["retention_above_chance"].value == pytest.approx((post - 0.25) / (base - 0.25))


# What cannot be compared, and what is odd


def rewrite(path, **changes):
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | changes))


def test_trap_fragile_forgetting_claims_other_models_tokenizers_and_drift_are_refused(tmp_path):
    folder = write_synthetic_study(tmp_path, seeds=(0,), num_items=20, rates=TWO)
    base, post = (folder / f"runs/{run}/seed0" for run in TWO)
    good = (post / "run.json").read_text()
    rewrite(post / "run.json", model="another-base")
    with pytest.raises(BadInput, match="model: got 'another-base' and 'synthetic-base'") as error:
        compare(folder)
    assert str(base / "run.json") in str(error.value) and str(post / "run.json") in str(error.value)
    (post / "run.json").write_text(good)
    rewrite(base / "run.json", provenance={"tokenizer_sha256": "a"})
    rewrite(post / "run.json", provenance={"tokenizer_sha256": "b"})
    with pytest.raises(BadInput, match="tokenizer: got 'b' and 'a'"):
        compare(folder)
    rewrite(post / "run.json", provenance={})  # an older record does not say
    compare(folder)
    folder = write_synthetic_study(tmp_path / "two", num_items=20, rates=TWO)
    rewrite(folder / "runs/sft_stress/seed1/drift.json", num_prompts=7)
    with pytest.raises(BadInput, match="num_prompts: got 7 and 5; cannot compare drift"):
        compare(folder)


def test_dead_runs_and_runs_that_learned_nothing_are_named(tmp_path):
    folder = write_synthetic_study(tmp_path, seeds=(0,), num_items=20, missing=["opd_mild"], incomplete=["sft_mild"])
    rewrite(folder / "runs/sft_mild/seed0/run.json", num_steps=0)
    assert compare(folder).warnings == []
    rewrite(folder / "runs/rl/seed0/run.json", warnings=["learned nothing: ..."])
    found = compare(folder)
    assert "sft_mild, seed 0: did not finish; it stopped after 12 steps" in found.missing
    assert found.warnings == ["rl, seed 0: learned nothing: ..."]


def test_too_few_items_give_no_interval(tmp_path):
    row = rows_of(compare(write_synthetic_study(tmp_path, num_items=8, rates=TWO)))["sft_stress"]
    difference = row.versus_base["gsm8k"]
    assert difference.difference.value is not None
    assert (difference.difference.lo, difference.p) == (None, None)
    assert difference.difference.note == "8 items, fewer than 10: no interval"
    assert row.mean_retention is None or row.mean_retention.lo is None


def test_one_seed_says_that_its_interval_is_over_items(tmp_path):
    row = rows_of(compare(write_synthetic_study(tmp_path, seeds=(0,), num_items=80, rates=TWO)))["sft_stress"]
    assert "one training seed" in row.versus_base["gsm8k"].difference.note
    assert row.versus_base["gsm8k"].difference.seed_sd is None


def test_write_comparison_round_trips(tmp_path):
    folder = write_synthetic_study(tmp_path, seeds=(0,), num_items=20, missing=["rl"])
    (folder / "predictors.json").write_text("of an earlier reading, with more runs")
    comparison = write_comparison(folder)
    assert not (folder / "predictors.json").exists()
    assert read_json(folder / "comparison.json", Comparison) == comparison
    assert [v.claim_id for v in read_json(folder / "verdicts.json", list[Verdict])] == [
        *("P1", "P2", "P3", "P4"),
        *("C1", "C2", "C3"),
    ]


@pytest.mark.slow
def test_a_full_size_study_is_fast(tmp_path):
    """Beside the time to write its files on the same processor: 1.2 of it was seen."""
    start = time.process_time()
    folder = write_synthetic_study(tmp_path, num_items=2000)
    written = time.process_time()
    compare(folder)
    assert time.process_time() - written < 5 * (written - start)


def test_a_study_without_retention_tasks_is_compared_on_its_target(tmp_path):
    folder = write_synthetic_study(tmp_path)
    plan = read_json(folder / "plan.json", PlanRecord)
    write_json(folder / "plan.json", replace(plan, retention=[]))
    row = rows_of(compare(folder))["sft_mild"]
    assert row.versus_base["gsm8k"].difference.value is not None
    assert (row.mean_forgetting, row.mean_retention) == (None, None)
