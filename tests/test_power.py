"""Power against published values, simulation of the tests themselves, and the noncentral t; what plans can resolve."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import nct
from scipy.stats import t as student_t

from stateshape.analysis.power import (
    Design,
    SeedSd,
    conservative,
    items_factor,
    measured,
    minimal_difference,
    minimal_effect,
    minimal_n,
    pooled_seed_sd,
    power_of,
    power_paired,
    power_unpaired,
    rate_design,
    seeds_needed,
)
from stateshape.analysis.resolution import resolvable, resolvable_text
from stateshape.analysis.statistics import crossed_spread, exact_mcnemar, t_test
from stateshape.cli import power as power_command
from stateshape.cli.parser import run
from stateshape.core.files import BadInput
from stateshape.core.study_records import PlannedRun, PlanRecord, TaskRecord


@pytest.mark.parametrize(("n", "mde"), [(200, 0.098), (500, 0.062), (817, 0.049), (1319, 0.038), (14_042, 0.012)])
def test_minimal_difference_at_a_base_rate_of_45_percent(n, mde):
    assert minimal_difference(0.45, n, 0.5) == pytest.approx(mde, abs=6e-4)
    # the general search finds the closed form
    assert minimal_effect(rate_design(0.45, 0.45, n, 0.5)) == pytest.approx(minimal_difference(0.45, n, 0.5))


def test_power_of_one_greedy_pass_of_gsm8k():
    assert power_unpaired(0.448, 0.466, 1319) == pytest.approx(0.15, abs=0.005)
    assert power_paired(0.448, 0.466, 1319, 0.5) == pytest.approx(0.24, abs=0.005)
    assert power_paired(0.448, 0.466, 1319, 0.7) == pytest.approx(0.37, abs=0.005)


def test_power_agrees_with_itself_and_with_known_numbers():
    # textbook: two rates of .5 and .6, 80% power, no continuity correction: 385 a side (variance under the alternative)
    assert math.ceil(100 * items_factor(rate_design(0.5, 0.6, 100, 0.0), 0.1)) == 385
    n = minimal_n(0.45, 0.50, 0.5)
    assert power_paired(0.45, 0.50, n, 0.5) >= 0.8 > power_paired(0.45, 0.50, n - 1, 0.5)
    # the exact test needs more items than the normal one, by about 2 / |p1 - p0|
    normal = 100 * items_factor(rate_design(0.45, 0.50, 100, 0.5), 0.05)
    assert normal + 1 / 0.05 < n < normal + 3 / 0.05
    with pytest.raises(ValueError, match="impossible"):
        power_paired(0.1, 0.9, 100, 0.9)
    with pytest.raises(ValueError, match="different rates"):
        minimal_n(0.4, 0.4, 0.5)


@pytest.mark.parametrize(
    ("n", "rho", "p0", "p1"), [(300, 0.5, 0.45, 0.55), (200, 0.5, 0.45, 0.55), (60, 0.7, 0.3, 0.4), (40, 0.2, 0.5, 0.2)]
)
def test_power_by_simulation_of_mcnemar(n, rho, p0, p1):
    rng = np.random.default_rng(4)
    num = 20_000
    shared = p0 * p1 + rho * math.sqrt(p0 * (1 - p0) * p1 * (1 - p1))  # P(both right)
    _, only_0, only_1, _ = rng.multinomial(n, [shared, p0 - shared, p1 - shared, 1 - p0 - p1 + shared], size=num).T
    pairs, counts = np.unique(np.stack([only_0, only_1], axis=1), axis=0, return_counts=True)
    right_side = [(b > a) == (p1 > p0) and a != b for a, b in pairs]
    kinds = [np.repeat([True, False], pair) for pair in pairs]
    rejects = [side and exact_mcnemar(kind, ~kind) < 0.05 for side, kind in zip(right_side, kinds)]
    hits = (np.array(rejects) * counts).sum() / num
    assert hits == pytest.approx(power_paired(p0, p1, n, rho), abs=0.014)  # four standard errors


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_seeds_alone_are_the_t_test(num_seeds):
    """Endless items: the one-sample t test's power, from the noncentral t distribution."""
    design = Design(item_variance=0.0, seed_variance=0.02**2, num_seeds=num_seeds)
    shift = 0.05 / 0.02 * math.sqrt(num_seeds)
    bound = student_t.ppf(0.975, num_seeds - 1)
    assert power_of(design, 0.05) == pytest.approx(nct.sf(bound, num_seeds - 1, shift), abs=3e-3)


@pytest.mark.parametrize(("seed_sd", "item_sd"), [(0.02, 0.01), (0.01, 0.02), (0.02, 0.02)])
def test_power_over_seeds_and_items_by_simulation(seed_sd, item_sd):
    rng = np.random.default_rng(5)
    num_items, num_seeds, effect, hits = 100, 3, 0.06, 0
    for _ in range(1500):
        item = rng.normal(0, item_sd * math.sqrt(num_items), size=(1, num_items))
        scores = effect + item + rng.normal(0, seed_sd, size=(num_seeds, 1)) + np.zeros((num_seeds, num_items))
        hits += t_test(crossed_spread([scores])) < 0.05
    design = Design(item_variance=item_sd**2, seed_variance=seed_sd**2, num_seeds=num_seeds)
    assert hits / 1500 == pytest.approx(power_of(design, effect), abs=0.04)


def test_power_where_items_differ_by_seed_by_simulation():
    rng = np.random.default_rng(6)
    num_items, num_seeds, effect, hits = 100, 3, 0.06, 0
    for _ in range(1500):
        scores = effect + rng.normal(0, 0.02, size=(num_seeds, 1)) + rng.normal(0, 0.1, size=(1, num_items))
        hits += t_test(crossed_spread([scores + rng.normal(0, 0.15, size=(num_seeds, num_items))])) < 0.05
    by_seed = 0.15**2 / num_items / num_seeds
    design = Design(0.1**2 / num_items + by_seed, seed_variance=0.02**2, num_seeds=3, interaction_variance=by_seed)
    assert hits / 1500 == pytest.approx(power_of(design, effect), abs=0.04)
    assert power_of(design._replace(interaction_variance=0.0), effect) > power_of(design, effect)


def drawn_designs(true, num, seed):
    """What `num` studies measure of one design: the mean squares as they fall, and the seeds' means."""
    rng = np.random.default_rng(seed)
    for _ in range(num):
        values = rng.normal(0, math.sqrt(true.seed_means_variance * true.num_seeds), true.num_seeds)
        shown = values.var(ddof=1) / true.num_seeds
        variance = max(shown + true.item_variance - true.interaction_variance, shown, true.item_variance)
        own = max(0.0, variance - true.item_variance) * true.num_seeds
        yield measured(stderr=math.sqrt(variance), seed_sd=math.sqrt(own), values_S=values)


@pytest.mark.parametrize(("num_seeds", "effect"), [(3, 0.05), (5, 0.03)])
def test_printed_power_is_seldom_above_the_true_one(num_seeds, effect):
    """As printed from three seeds' own variance it is above in 64 of 100 studies, by up to .7."""
    true = Design(0.007**2, 0.01**2, num_seeds, 0.005**2)
    power, smallest = power_of(true, effect, alpha=0.05 / 15), minimal_effect(true, alpha=0.05 / 15)
    found = list(drawn_designs(true, 200, 7))
    printed = [power_of(conservative(design), effect, alpha=0.05 / 15) for design in found]
    assert np.median(printed) <= power
    assert np.mean(np.array(printed) > power) == pytest.approx(0.2, abs=0.1)
    assert np.mean([minimal_effect(conservative(design), alpha=0.05 / 15) < smallest for design in found]) <= 0.3
    assert np.mean([power_of(design, effect, alpha=0.05 / 15) > power for design in found]) > 0.5
    rng, sd = np.random.default_rng(8), math.sqrt(true.seed_means_variance * num_seeds)
    pooled = [pooled_seed_sd(rng.normal(0, sd, (7, num_seeds))) for _ in found]
    nearer = [power_of(conservative(d, seeds), effect, alpha=0.05 / 15) for d, seeds in zip(found, pooled)]
    assert np.median(printed) < np.median(nearer) <= power


def test_measured_and_pooled_by_hand():
    # V_seed .0012 / 3, own part .0009 / 3 of it: the items that differ by seed make the rest
    values = [0.0, math.sqrt(0.0012), -math.sqrt(0.0012)]
    design = measured(stderr=0.03, seed_sd=0.03, values_S=values)
    assert design.item_variance == pytest.approx(0.0009 - 0.0003)
    assert design.interaction_variance == pytest.approx(0.0001)
    assert design.variance == pytest.approx(0.0009)
    assert pooled_seed_sd([[0.0, 2.0], [1.0, 1.0, 1.0, 5.0], [7.0]]) == SeedSd(pytest.approx(math.sqrt(14 / 4)), 4)
    # two degrees of freedom: the 20% point of chi2 is -2 log .8
    bound = conservative(design).seed_variance / 3 + design.interaction_variance
    assert bound == pytest.approx(0.0004 * 2 / (-2 * math.log(0.8)))
    assert conservative(Design(1e-4, 0.0, 1)) == Design(1e-4, 0.0, 1)
    with pytest.raises(ValueError, match="two seeds"):
        pooled_seed_sd([[0.1]])


def test_more_is_never_less():
    design = Design(item_variance=0.01**2, seed_variance=0.01**2, num_seeds=3)
    by_items = [power_of(design._replace(item_variance=1e-4 / factor), 0.03) for factor in (1, 2, 4, 100)]
    by_seeds = [power_of(design._replace(num_seeds=count), 0.03) for count in (3, 4, 6, 10)]
    assert by_items == sorted(by_items)
    assert by_seeds == sorted(by_seeds)


def test_what_would_decide_it():
    design = Design(item_variance=0.01**2, seed_variance=0.01**2, num_seeds=3)
    effect = minimal_effect(design)
    assert power_of(design, effect) == pytest.approx(0.8, abs=1e-4)
    count = seeds_needed(design, 0.035)
    assert power_of(design._replace(num_seeds=count), 0.035) >= 0.8
    assert count > 3 and power_of(design._replace(num_seeds=count - 1), 0.035) < 0.8
    # three seeds bound what items can do; items bound what seeds can do
    assert items_factor(design, 0.01) is None
    assert seeds_needed(design, 0.02) is None
    assert items_factor(design, 0.0) is None


def test_the_command(capsys):
    run(["power", "--p0", ".448", "--p1", ".466"])
    table = capsys.readouterr().out
    assert "0.151" in table and "0.241" in table and "One training seed" in table
    run(["power", "--p0", ".448", "--p1", ".498", "--seeds", "3", "--seed-sd", ".02", "--json"])
    unpaired, paired = json.loads(capsys.readouterr().out)
    assert paired["power"] > unpaired["power"]
    assert paired["items_needed"] is None  # three seeds with this sd never see .05 with 80%
    assert paired["seeds_needed"] == 5
    for wrong, says in (
        (["--p0", "1.4", "--p1", ".5"], "rates inside"),
        (["--p0", ".4", "--p1", ".5", "--seeds", "3"], "seed-sd"),
        (["--p0", ".4", "--p1", ".5", "--alpha", "5"], "alpha"),
    ):
        with pytest.raises(BadInput, match=says):
            run(["power", *wrong])


def test_equal_rates_have_no_power_to_speak_of(capsys):
    rows = power_command.power_rows(0.4, 0.4, 500, 0.5)
    assert [(row.power, row.items_needed) for row in rows] == [(None, None)] * 2
    assert rows[1].minimal_effect == pytest.approx(minimal_difference(0.4, 500, 0.5))


# Plans


def plan(*runs, seeds=(0, 1, 2), items=(1000, 500, 500), roles=None):
    names = ("gsm8k", "truthfulqa", "mmlu")
    tasks = [TaskRecord(name=n, label=n, metric="m", chance=0.0, num_items=k) for n, k in zip(names, items)]
    planned = [PlannedRun(name=run, label=run, method=None, teacher=None, settings={}) for run in ("base", *runs)]
    return PlanRecord(
        study="s", model="m", seeds=list(seeds), target=tasks[0], retention=tasks[1:], runs=planned, plan_sha256="",
        provenance={}, roles=roles or {},
    )  # fmt: skip


def test_resolvable_by_hand():
    rows = resolvable(plan("sft_mild"), rate=0.5, rho=0.5, seed_sd=0.02)
    gain, kept = (row for row in rows if row.claim_id == "C1")
    # two tests; base untrained: one run's seeds. Two rates of .5 correlated by .5 have variance .25 an item
    design = Design(item_variance=0.25 / 1000, seed_variance=0.02**2, num_seeds=3)
    assert gain.power == pytest.approx(power_of(design, 0.03, alpha=0.05 / 2))
    assert gain.minimal_effect_alone == pytest.approx(minimal_effect(design))
    # run minus .9 of base: .25 (.5 (1 + .81) + .5 (1 - .9)^2) an item
    pair = Design(item_variance=2 * (0.2275 / 500) / 4, seed_variance=0.02**2, num_seeds=3)
    assert kept.minimal_effect == pytest.approx(minimal_effect(pair, alpha=0.05 / 2))
    assert (kept.num_items, kept.num_seeds) == (1000, 3)
    assert len(rows) == 2  # the other claims rest on runs that this plan has not
    told = resolvable_text(rows)
    assert "over 2 tests / as" in told
    assert gain.minimal_effect is not None
    assert f"effects of {gain.minimal_effect:.2f}, counted from their thresholds" in told


def test_effects_at_equal_distance_rest_on_the_items_along_runs():
    planned = plan("sft_stress", "opd_stress", "rl")
    measured_at_ends = resolvable(replace(planned, num_along=6))
    fewer = resolvable(replace(planned, num_along=6, along_limit=200))
    by_label = {row.label: row for row in measured_at_ends}
    (kept,) = [row for row in fewer if row.is_at_dose and "opd_stress" in row.label]
    assert (by_label[kept.label].num_items, kept.num_items) == (1000, 400)  # two tasks of 500, or of 200
    design = Design(item_variance=2 * (0.25 / 200) / 4, seed_variance=2 * 0.01**2, num_seeds=3)
    assert kept.minimal_effect_alone == pytest.approx(minimal_effect(design))
    at_the_end = [row for row in fewer if not row.is_at_dose]
    assert at_the_end == [by_label[row.label] for row in at_the_end]
    assert "what interpolation between measured points may be off" in resolvable_text(fewer)
    assert "interpolation" not in resolvable_text(at_the_end)


def test_two_trained_runs_have_two_runs_seeds():
    rows = resolvable(plan("sft_mild", "sft_stress"), seed_sd=0.02)
    (kept,) = [row for row in rows if row.claim_id == "P1" and "minus" in row.label and "base" not in row.label]
    design = Design(item_variance=2 * (0.25 / 500) / 4, seed_variance=2 * 0.02**2, num_seeds=3)
    assert kept.minimal_effect_alone == pytest.approx(minimal_effect(design))


def test_the_number_of_tests_is_the_one_that_was_reckoned_with_and_explained():
    rows = resolvable(plan("sft_mild", "sft_stress", "opd_stress", "opd_mild", "opd_one_step", "rl"), seed_sd=0.02)
    shared = [row for row in rows if row.label == "mean retained score, sft_mild minus 90% of base, above chance"]
    assert [row.claim_id for row in shared] == ["P1", "C1"]
    (gain,) = (row for row in rows if row.label == "gsm8k, rl minus base")
    design = Design(item_variance=0.25 / 1000, seed_variance=0.02**2, num_seeds=3)
    assert gain.minimal_effect == pytest.approx(minimal_effect(design, alpha=0.05 / gain.num_tests))
    told = resolvable_text(rows)
    assert f"over {gain.num_tests} tests (the {len(rows)} rows are {len(rows) - 1} different effects" in told


def test_plans_that_decide_nothing_say_so():
    assert {r.lacks for r in resolvable(plan("sft_mild", seeds=(0,))) if r.claim_id == "C1"} == {
        "1 seed, fewer than 3: cannot decide"
    }
    assert "20 items, fewer than 50" in next(
        r.lacks for r in resolvable(plan("sft_mild", items=(20, 500, 500))) if r.claim_id == "C1"
    )
    with pytest.raises(BadInput, match=r"roles.rl: got 'nobody'; expected a run of the study: base, sft_mild"):
        resolvable(plan("sft_mild", roles={"rl": "nobody"}))
