"""What predicts forgetting: planted answers, a slow nested reference on scikit-learn, and the reading of a study's folder."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.preprocessing import StandardScaler

from stateshape.analysis.predictors import (
    DRIFT,
    FORWARD_KL,
    LOCALITY,
    PENALTIES,
    SETS,
    PredictorRow,
    correlation,
    forgetting_by_seed,
    heldout_r2,
    offered_sets,
    predictor_report,
    predictor_rows,
    r2_gain,
    reliability,
    ridge_heldout,
)
from stateshape.analysis.probe_values import before_training, over_probes
from stateshape.analysis.reading import load_scores
from stateshape.core.files import read_json, write_json, write_jsonl
from stateshape.core.records import DriftRecord, DriftValue, LocalityRecord
from stateshape.core.study_records import PredictorReport
from stateshape.report.parts.predictors import correlation_table, score_table
from stateshape.study.plan import make_plan
from stateshape.study.study_file import read_study_file
from synthetic_study import write_synthetic_study

NAMES = (DRIFT, FORWARD_KL, *LOCALITY)


def made_rows(forget, *, configurations=10, seeds=3, rng_seed=0):
    """Rows whose predictors are drawn per configuration, with a little spread between seeds; forget(values, noise)."""
    rng = np.random.default_rng(rng_seed)
    rows = []
    for index in range(configurations):
        centre = rng.normal(size=len(NAMES))
        for seed in range(seeds):
            values = dict(zip(NAMES, centre + 0.05 * rng.normal(size=len(NAMES))))
            rows.append(
                PredictorRow(run=f"c{index}", seed=seed, forgetting=forget(values, rng.normal()), values=values)
            )
    return rows


def nested_reference(X, y, groups):
    """The same by scikit-learn and refitting: penalty from leaving training groups out, standardised once a fold."""
    predicted = np.empty_like(y)
    for train, test in LeaveOneGroupOut().split(X, y, groups):
        scaler = StandardScaler().fit(X[train])
        Z, target = scaler.transform(X[train]), y[train]
        losses = []
        for penalty in PENALTIES:
            loss = 0.0
            for inner, left_out in LeaveOneGroupOut().split(Z, target, groups[train]):
                # the penalty is per training row of the outer fold
                fit = Ridge(alpha=penalty * len(train)).fit(Z[inner], target[inner])
                loss += float(((fit.predict(Z[left_out]) - target[left_out]) ** 2).sum())
            losses.append(loss)
        best = PENALTIES[int(np.argmin(losses))]
        predicted[test] = Ridge(alpha=best * len(train)).fit(Z, target).predict(scaler.transform(X[test]))
    return predicted


@pytest.mark.parametrize("per_group", [1, 3])
def test_ridge_heldout_is_the_refitted_nested_ridge(per_group):
    rng = np.random.default_rng(1)
    X, noise = rng.normal(size=(9, 3)), rng.normal(size=(9, 2))
    Y = X @ np.array([[1.0, 0.0], [0.5, 0.0], [0.0, 0.0]]) + noise * np.array([0.3, 1.0])
    groups = np.arange(9) // per_group
    predicted, means = ridge_heldout(X, Y, groups)
    for column in range(2):
        assert predicted[:, column] == pytest.approx(nested_reference(X, Y[:, column], groups))
    assert means[0, 0] == pytest.approx(Y[groups != 0, 0].mean())


def test_a_planted_law_is_found_and_noise_is_not():
    law = made_rows(lambda v, e: 0.05 + 0.02 * v[DRIFT] + 0.002 * e)
    found = heldout_r2(law, SETS["drift"], by="configuration")
    assert found.estimate.value > 0.9
    assert found.estimate.lo < found.estimate.value < found.estimate.hi
    assert found.p < 0.01
    noise = heldout_r2(made_rows(lambda v, e: 0.02 * e), SETS["drift"], by="configuration")
    assert noise.estimate.value < 0.2
    assert noise.p > 0.05


def test_what_a_second_set_adds():
    rows = made_rows(lambda v, e: 0.02 * v["locality.c2st_auc"] - 0.03 * v["locality.locality_ratio"] + 0.002 * e)
    gain = r2_gain(rows, SETS["drift and locality"], SETS["drift"], by="configuration")
    parts = [
        heldout_r2(rows, SETS[name], by="configuration").estimate.value for name in ("drift and locality", "drift")
    ]
    assert gain.value == pytest.approx(parts[0] - parts[1])
    assert gain.lo > 0
    none = made_rows(lambda v, e: 0.02 * v[DRIFT] + 0.002 * e)
    assert r2_gain(none, SETS["drift and locality"], SETS["drift"], by="configuration").value < 0.05


def test_seeds_of_a_configuration_know_each_other():
    """Forgetting belongs to the configuration and to no predictor: five predictors tell configurations apart, so leaving out
    one run at a time looks like prediction, and leaving out configurations does not."""
    rows = made_rows(lambda v, e: 0.0, configurations=8, rng_seed=3)
    own = dict(zip((f"c{i}" for i in range(8)), np.random.default_rng(4).normal(size=8)))
    rows = [PredictorRow(run=r.run, seed=r.seed, forgetting=own[r.run], values=r.values) for r in rows]
    by_run = heldout_r2(rows, NAMES, by="run").estimate.value
    by_configuration = heldout_r2(rows, NAMES, by="configuration").estimate.value
    assert by_run > 0.5 > by_configuration


def test_missing_predictors_are_counted_and_few_runs_say_so():
    rows = made_rows(lambda v, e: v[DRIFT] + e)
    lacking = [
        PredictorRow(run=r.run, seed=r.seed, forgetting=r.forgetting, values={DRIFT: 1.0 * r.seed}) for r in rows[:6]
    ]
    found = heldout_r2([*lacking, *rows[6:]], NAMES, by="run")
    assert (found.num_left_out, found.estimate.n_items) == (6, 24)
    few = heldout_r2([*lacking, *rows[6:20]], NAMES, by="run")
    assert few.estimate.value is None and few.p is None
    assert few.estimate.note == (
        "14 runs of 5 configurations (6 more have a missing predictor); expected at least 20 runs of 8 configurations"
    )
    five = made_rows(lambda v, e: v[DRIFT] + e, configurations=5, seeds=4)
    assert heldout_r2(five, SETS["drift"], by="run").estimate.value is None
    correlated = correlation(five, DRIFT, kind="Pearson").value
    assert correlated.value is not None and correlated.lo is None
    assert correlated.note == "5 configurations, fewer than 6: no interval"


def test_correlations_are_scipys():
    rows = made_rows(lambda v, e: np.exp(v[DRIFT]) + 0.3 * e)
    x, y = [r.values[DRIFT] for r in rows], [r.forgetting for r in rows]
    for kind, peer in (("Pearson", pearsonr), ("Spearman", spearmanr)):
        found = correlation(rows, DRIFT, kind=kind)
        assert found.value.value == pytest.approx(peer(x, y).statistic)
        assert found.value.lo < found.value.value < found.value.hi
        assert found.p < 0.01
    flat = [PredictorRow(run=r.run, seed=r.seed, forgetting=0.1, values=r.values) for r in rows]
    assert correlation(flat, DRIFT, kind="Pearson").value.note == "the predictor or forgetting has no variance"
    report = predictor_report("s", flat)
    assert "c0: forgetting is the same for every seed" in report.notes


def test_p_is_calibrated_over_configurations():
    """Seeds are near-copies: dealing single runs anew would reject far too often, whole configurations do not."""
    small = sum(
        correlation(
            made_rows(lambda v, e: 0.0 * e + v["locality.c2st_auc"], configurations=8, rng_seed=trial),
            DRIFT,
            kind="Pearson",
        ).p
        < 0.1
        for trial in range(100)
    )
    assert small <= 20  # 10 expected; three standard errors are 9


def test_reading_a_study(tmp_path):
    folder = write_synthetic_study(tmp_path, num_items=60)
    for seed in (0, 1, 2):
        last = {"reachability_gap_nats": 0.5 + seed, "c2st_auc": 0.7, "locality_ratio": None}
        write_jsonl(
            folder / f"runs/rl/seed{seed}/locality.jsonl",
            [LocalityRecord(step=0, values={"c2st_auc": 0.5}), LocalityRecord(step=12, values=last)],
        )
        drift = read_json(folder / f"runs/rl/seed{seed}/drift.json", DriftRecord)
        drift.distances["c2st_auc"] = DriftValue(value=0.9, base_vs_base=0.5)
        write_json(folder / f"runs/rl/seed{seed}/drift.json", drift)
    study = load_scores(folder)
    rows = {(row.run, row.seed): row for row in predictor_rows(study)}
    assert len(rows) == 18
    row = rows["rl", 1]
    assert (row.values["drift.c2st_auc"], row.values["locality.c2st_auc"]) == (0.9, 0.7)  # two numbers, two names
    assert row.values["locality.reachability_gap_nats"] == 1.5
    assert "locality.locality_ratio" not in row.values
    assert row.values[DRIFT] == study.drift["rl"][1].distances["mmd2_unbiased"].value
    base, post = (
        [study.scores[run][task][seed].mean() for task in ("truthfulqa", "mmlu")]
        for run, seed in (("base", 0), ("rl", 1))
    )
    assert row.forgetting == pytest.approx(np.mean(base) - np.mean(post))
    assert forgetting_by_seed(study, "rl")[1] == row.forgetting
    report = predictor_report(study.plan.study, predictor_rows(study))
    assert all(score.r2.value is None and "expected at least 20" in score.r2.note for score in report.scores)


def test_records_with_the_names_of_older_versions_are_still_shown():
    report = read_json(Path(__file__).parent / "records/predictors_of_2026_11_21.json", PredictorReport)
    assert ["c2st_auc", "Pearson"] in [[cell.text for cell in row[:2]] for row in correlation_table(report).rows]
    assert len(score_table(report).rows) == len(report.scores)


def test_the_preset_plans_enough_runs():
    file = read_study_file("predictors")
    plan = make_plan(file)
    assert len(plan.runs) >= 8
    assert len(plan.runs) * len(file.seeds) >= 24
    assert set(file.roles.values()) <= {run.name for run in plan.runs}


# Reliability


def test_reliability_by_hand():
    rows = [
        PredictorRow(run=run, seed=seed, forgetting=0.0, values={"x": value})
        for run, values in {"a": (1.0, 3.0), "b": (4.0, 6.0), "c": (7.0, 9.0), "d": (10.0, 12.0), "e": (0.0,)}.items()
        for seed, value in enumerate(values)
    ]
    # means 2, 5, 8, 11: MSB = 2 x 45 / 3 = 30; within each pair 2 / 1: MSW = 2
    assert reliability(rows, "x") == pytest.approx((30 - 2) / (30 + 2))
    assert reliability(rows[:6], "x") is None
    assert reliability(rows, "y") is None


def test_predictors_that_are_noise_over_seeds_are_in_no_set():
    rng = np.random.default_rng(3)
    rows = made_rows(lambda v, e: v[DRIFT] + 0.1 * e)
    noise, kept = LOCALITY[0], LOCALITY[1:]
    noisy = [
        PredictorRow(run=row.run, seed=row.seed, forgetting=row.forgetting, values={**row.values, noise: rng.normal()})
        for row in rows
    ]
    assert offered_sets(rows).sets.keys() == SETS.keys()
    assert offered_sets(rows).notes == []
    found = offered_sets(noisy)
    assert found.sets["drift and locality"] == (DRIFT, *kept)
    assert (
        "drift and locality: left out for a reliability over seeds that is not above 0.8: locality.reachability_gap_nats"
        in found.notes[0]
    )
    report = predictor_report("s", noisy)
    assert "Reliability over seeds (ICC): drift.mmd2_unbiased 1.00" in report.notes[0]
    assert all(noise not in score.predictors for score in report.scores)
    assert found.notes[0] in report.notes
    for name in kept:
        for row in noisy:
            row.values[name] = rng.normal()
    alone = predictor_report("s", noisy)
    assert {score.name for score in alone.scores} == SETS.keys() - {"drift and locality"}
    assert [gain.name for gain in alone.gains] == ["forward KL on the new task"] * 2
    assert any("nothing of its own is left" in note for note in alone.notes)


def test_what_few_rows_say_of_one_seed_predicts_nothing():
    once = [row for row in made_rows(lambda v, e: v[DRIFT] + 0.1 * e) if row.seed == 0]
    found = offered_sets(once)
    assert all(name not in predictors for predictors in found.sets.values() for name in LOCALITY)
    assert {"drift", "forward KL on the new task"} <= found.sets.keys()
    assert "locality.c2st_auc (unknown: too few runs have several seeds)" in found.notes[0]


def test_one_step_of_six_rows_was_noise_in_the_first_predictors_study():
    """In the file the names have no prefix, and c2st_auc is locality's."""
    rows = read_json(Path(__file__).parent / "records/predictors_of_2026_11_21.json", PredictorReport).rows
    for name in ("reachability_gap_nats", "c2st_auc", "locality_ratio", "neutral_ratio"):
        assert reliability(rows, name) < 0.5
    for name in ("mmd2_unbiased", "forward_kl_new_task_nats", "forward_kl_retention_nats", "update_frobenius"):
        assert reliability(rows, name) > 0.8


def test_a_run_is_the_mean_of_its_probes_and_the_end_of_its_policy():
    probes = [
        LocalityRecord(step=9, values={"c2st_auc": 0.8, "locality_ratio": None, "update_frobenius": 3.0}),
        LocalityRecord(step=0, values={"c2st_auc": 0.1, "locality_ratio": 7.0, "update_frobenius": 0.0}),
        LocalityRecord(step=4, values={"c2st_auc": 0.4, "locality_ratio": 2.0, "update_frobenius": 1.0}),
    ]
    run = over_probes(probes)
    assert run.step == 9
    assert run.values == {"c2st_auc": pytest.approx(0.6), "locality_ratio": 2.0, "update_frobenius": 3.0}
    assert over_probes(probes[1:2]) == probes[1]
    assert before_training(probes) is probes[1] and before_training(probes[::2]) is None
    with pytest.raises(ValueError, match="at least one"):
        over_probes([])
