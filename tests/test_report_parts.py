"""The report's later parts: verdict cards, forest, drift beside its null, supervision, state map, locality, predictors."""

from __future__ import annotations

import csv
import dataclasses
import math
from itertools import pairwise, product
from pathlib import Path
from xml.etree import ElementTree

import pytest

from html_page import Page, parsed
from stateshape.core.files import read_json, write_json, write_jsonl
from stateshape.core.measure_words import distance_name, measure_name, score_name
from stateshape.core.records import DriftRecord, LocalityRecord, Span, SupervisionCell, SupervisionMap
from stateshape.core.study_records import Estimate, Evidence, MapPoint, PairedDifference, RunContrast, StateMap, Verdict
from stateshape.report.drawing.figure import Plot, told_apart, wrapped
from stateshape.report.drawing.labels import Labelled, end_labels, spaced
from stateshape.report.drawing.outliers import range_without_spikes
from stateshape.report.drawing.palette import Look
from stateshape.report.drawing.svg import new_figure, plot_style
from stateshape.report.parts.curves import Curve, Series, curve_plot, mean_curve, series_plot
from stateshape.report.parts.forest import forest_plots
from stateshape.report.parts.locality import differ_in_length, last_table, locality_plots, over_steps
from stateshape.report.parts.state_map import MAX_POINTS, MAX_PROMPT, MAX_RESPONSE, cut_spans, map_views
from stateshape.report.parts.supervision import share_table, supervision_shares
from stateshape.report.parts.tables import contrast_table
from stateshape.report.study_files import StudyFiles, read_study_folder
from stateshape.report.write import write_report
from synthetic_study import RATES, state_map, write_synthetic_study

HOSTILE = "</title><script>alert(1)</script> &amp; \u202eevil\u200f"
FEW = {run: RATES[run] for run in ("base", "sft_mild", "opd_mild")}  # drawing is what takes time


def evidence(label: str, value: float, *, test: str = "t over seeds and items", **more: object) -> Evidence:
    effect = Estimate(value=value, lo=value - 0.02, hi=value + 0.02, n_items=400, n_seeds=3)
    return dataclasses.replace(Evidence(label=label, effect=effect, p=0.2, p_holm=0.4, test=test), **more)  # type: ignore[arg-type]


OPEN = evidence(
    "mean retained", -0.01, threshold=-0.03, state="open", power=0.31, power_effect=0.03, minimal_effect=0.061,
    needs="about 7 seeds with 400 items",
)  # fmt: skip
HELD = evidence("gain", 0.2, state="holds", power=0.77, power_effect=0.03)
SHOWN = evidence("correlation", 0.5, test="bootstrap over runs", state="shown")
VERDICTS = [
    Verdict(claim_id="C1", claim="No loss.", outcome="cannot tell", sentence="In words.", evidence=[OPEN, HELD, SHOWN]),
    Verdict(claim_id="C2", claim="Another.", outcome="cannot tell", sentence="No data.", evidence=[]),
]


def full_study(folder: Path) -> Path:
    write_synthetic_study(folder, seeds=(0, 1), num_items=4, rates=FEW, has_locality=True)
    write_json(folder / "verdicts.json", VERDICTS)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = full_study(tmp_path_factory.mktemp("full"))
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(study: Path) -> Page:
    return parsed(study / "report.html")


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8")))


# What is there, and what is not


def test_every_part_has_figures_and_tables_as_files(study: Path) -> None:
    names = {path.stem for path in (study / "plots").glob("*.svg")}
    assert names == {path.stem for path in (study / "plots").glob("*.png")}
    wanted = {
        "verdict_C1", "null_mmd2_unbiased", "supervision_sft_mild", "state_map", "locality_c2st_auc",
        "depth_teacher_recoverability", "predictors", "curves_opd_mild",
    }  # fmt: skip
    assert wanted <= names
    for name in ("evidence", "drift", "locality_last", "locality_depth", "predictors", "cost", "state_map_means"):
        assert {f"{name}.{suffix}" for suffix in ("csv", "md", "tex")} <= {p.name for p in (study / "tables").iterdir()}
    for name in ("supervision", "locality", "state_map"):
        assert (study / "tables" / f"{name}.csv").stat().st_size > 0


def test_an_old_folder_says_what_it_lacks_and_is_not_called_broken(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, seeds=(0,), num_items=4, rates=FEW)
    shown = "".join(parsed(write_report(folder)).text)
    for file in ("supervision.json", "locality.jsonl"):
        assert f"No {file}: SFT, mild; OPD from the mild teacher." in shown
        assert f"{file}: no such file" not in shown
    assert "No state_map.json, or it has no points." in shown
    assert "What predicts forgetting" not in shown, "no section for what takes many more runs"
    assert "No drift.json" not in shown


def test_a_run_killed_early_is_named_where_it_is_missing(tmp_path: Path) -> None:
    folder = full_study(tmp_path)
    for seed in (0, 1):
        (folder / "runs" / "opd_mild" / f"seed{seed}" / "supervision.json").unlink()
    with (folder / "runs" / "sft_mild" / "seed1" / "locality.jsonl").open("a") as file:
        file.write('{"step": 13')
    shown = "".join(parsed(write_report(folder)).text)
    assert "No supervision.json: OPD from the mild teacher." in shown
    assert "runs/sft_mild/seed1/locality.jsonl:4: not valid JSON" in shown
    assert "No locality.jsonl" not in shown  # seed 0 has one


def test_nothing_can_run_or_load(study: Path, page: Page) -> None:
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "img", "form", "object"}
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


# Verdicts


def test_an_open_effect_says_its_power_and_what_would_decide(page: Page) -> None:
    shown = "".join(page.text)
    assert "−0.010 [−0.030, +0.010]undecided · must be above −0.030 · p = 0.400 (Holm) · 400 items · 3 seeds" in shown
    power = "power 0.31 for an effect of 0.030 · smallest detectable effect at 80% power 0.061"
    assert f"{power} · needs about 7 seeds with 400 items" in shown
    assert "power 0.77" not in shown  # decided: the table has it
    assert "? 2 cannot tell" in shown
    assert "✓ 0 supported" in shown


def test_the_forest_draws_every_effect_with_its_interval_and_threshold() -> None:
    plot, *_ = forest_plots(VERDICTS)
    assert (plot.name, plot.title) == ("verdict_C1", "C1: cannot tell")
    root = ElementTree.fromstring(plot.svg)
    described = root.findtext("{http://www.w3.org/2000/svg}desc") or ""
    assert "mean retained: −0.0100 [−0.0300, +0.0100], must be above −0.0300, open" in described
    assert "correlation: +0.5000 [+0.4800, +0.5200], shown" in described
    panels = [e for e in root.iter() if (e.get("id") or "").startswith("axes_")]
    assert len(panels) == 2, "a correlation and an accuracy do not share a scale"
    unknown = Estimate(value=None, lo=None, hi=None, n_items=0, n_seeds=0)
    assert not forest_plots([dataclasses.replace(VERDICTS[0], evidence=[dataclasses.replace(HELD, effect=unknown)])])


def test_evidence_of_all_claims_names_them_and_keeps_its_words_for_the_csv(study: Path) -> None:
    folder = study / "tables"
    (row, *_) = rows_of(folder / "evidence.csv")
    assert (row["claim"], row["outcome"], row["needs"]) == ("C1", "cannot tell", "about 7 seeds with 400 items")
    assert float(row["power"]) == 0.31
    lines = (folder / "evidence.md").read_text(encoding="utf-8").splitlines()
    assert lines[2].startswith("| Claim | Effect | Estimate | Must be above |")
    assert "about 7 seeds" not in "".join(lines)


# Drift


def test_drift_stands_beside_its_null_with_the_records_numbers(study: Path) -> None:
    record = read_json(study / "runs" / "sft_mild" / "seed1" / "drift.json", DriftRecord)
    rows = [r for r in rows_of(study / "tables" / "drift.csv") if (r["label"], r["seed"]) == ("SFT, mild", "1")]
    assert len(rows) == len(record.distances)
    for row, value in zip(rows, record.distances.values()):
        expected = (
            value.value,
            value.lo,
            value.hi,
            value.null_mean,
            value.null_sd,
            value.z,
            value.p,
            value.base_vs_base,
        )
        keys = ("value", "value_lo", "value_hi", "null_mean", "null_sd", "z", "p", "base_vs_base")
        assert tuple(float(row[key]) for key in keys) == expected
    described = (study / "plots" / "null_mmd2_biased.svg").read_text(encoding="utf-8")
    assert f"SFT, mild, seed 1: {record.distances['mmd2_biased'].value:.5f}, null mean 0.01029, p = 0.002" in described


def test_planned_pairs_stand_with_their_labels(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, seeds=(0,), num_items=2, rates=FEW)
    study = read_study_folder(folder)
    difference = PairedDifference(versus="sft_mild", difference=HELD.effect, p=0.02, test="exact McNemar")
    pair = RunContrast(run="opd_mild", versus="sft_mild", differences={"mmlu": difference}, mean_retained=OPEN.effect)
    table = contrast_table(study.plan, dataclasses.replace(study.comparison, contrasts=[pair]))
    assert [c.text for c in table.rows[0][:2]] == ["OPD from the mild teacher", "SFT, mild"]
    values = {column.key: (c.value, c.companion) for column, c in zip(table.columns, table.rows[0])}
    assert (values["mmlu"], values["gsm8k"], values["mean_retained"]) == ((0.2, 0.02), (None, None), (-0.01, None))
    assert table.notes[-1] == "Test: exact McNemar."


# Supervision


def with_maps(folder: Path, maps: list[SupervisionMap]) -> StudyFiles:
    write_synthetic_study(folder, seeds=range(len(maps)), num_items=2, rates={r: FEW[r] for r in ("base", "sft_mild")})
    for seed, found in enumerate(maps):
        write_json(folder / "runs" / "sft_mild" / f"seed{seed}" / "supervision.json", found)
    return read_study_folder(folder)


def cell(depth: int, mass: float) -> SupervisionCell:
    return SupervisionCell(origin="dataset", depth=depth, surprisal=1, num_tokens=1, mass=mass)


def test_shares_are_means_over_seeds_whatever_their_mass(tmp_path: Path) -> None:
    first, second = ([cell(0, 1.0), cell(1, 3.0)], [cell(0, 100.0), cell(1, 100.0)])
    maps = [SupervisionMap(num_depths=2, surprisal_edges_nats=[0.0, 1.0], cells=cells) for cells in (first, second)]
    nothing = SupervisionMap(num_depths=2, surprisal_edges_nats=[0.0, 1.0], cells=[])
    other_grid = SupervisionMap(num_depths=4, surprisal_edges_nats=[0.0, 1.0], cells=[cell(3, 9.0)])
    (run,) = supervision_shares(with_maps(tmp_path, [*maps, nothing, other_grid]))
    assert run.shares == {("dataset", 0, 1): (0.25 + 0.5) / 2, ("dataset", 1, 1): (0.75 + 0.5) / 2}
    table = share_table(run)
    assert [[c.text or c.value for c in row] for row in table.rows] == [
        ["dataset", "0–50%", None, 37.5, 37.5],
        ["dataset", "50–100%", None, 62.5, 62.5],
    ]
    assert [column.heading for column in table.columns] == ["Origin", "Depth", "0–1 nats", "≥ 1 nats", "All"]


def test_signal_apart_is_in_no_share_and_said(tmp_path: Path) -> None:
    own, apart = [cell(0, 1.0), cell(1, 3.0)], [cell(0, 1.0)]
    maps = [
        SupervisionMap(num_depths=2, surprisal_edges_nats=[0.0, 1.0], cells=own, apart=some) for some in (apart, [])
    ]
    (run,) = supervision_shares(with_maps(tmp_path, maps))
    assert run.shares == {("dataset", 0, 1): 0.25, ("dataset", 1, 1): 0.75}
    said = "The term that protects another task is not in it; its mass is 12.5% of this."  # a quarter, and nothing
    assert said in share_table(run).caption


def test_the_supervision_file_has_every_cell(study: Path) -> None:
    rows = [r for r in rows_of(study / "tables" / "supervision.csv") if (r["run"], r["seed"]) == ("opd_mild", "0")]
    assert len(rows) == 7 * 7  # a continuation: seven depths of ten, seven bins
    assert rows[1] == {
        "run": "opd_mild", "seed": "0", "origin": "teacher", "depth": "3.0", "surprisal_from_nats": "0.05",
        "num_tokens": "40.0", "mass": "4.0",
    }  # fmt: skip


# State map


def test_planes_are_bounded_and_shown_by_radio_buttons(page: Page) -> None:
    """One tab stop a plane: a radio group. Every point has a name and points to its text."""
    radios = [a for tag, a in page.tags if tag == "input"]
    assert {a["type"] for a in radios} == {"radio"}
    # 2 seeds x 30 points of each kind: base; learner and training; learner, training and teacher
    assert len(radios) == 60 * (1 + 2 + 3)
    assert {a["name"] for a in radios} == {"map-1", "map-2", "map-3"}
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert all(a["aria-describedby"] in ids for a in radios)
    assert {a["aria-label"] for a in radios if a["name"] == "map-1"} == {"base, seed 0", "base, seed 1"}
    assert "training, seed 1, step 11" in {a["aria-label"] for a in radios}


def test_more_points_than_fit_are_thinned_evenly_and_counted(study: Path) -> None:
    plan = read_study_folder(study).plan
    panel = map_views(state_map(["base", "sft_mild"], [0, 1, 2], num_points=500), plan)[1]
    assert len(panel.points) == 2 * MAX_POINTS
    assert panel.counts == "60 learner, 60 training; 3000 in total"
    assert {p.label.split(", ")[1] for p in panel.points} == {"seed 0", "seed 1", "seed 2"}


def test_places_are_percent_of_the_plane_with_y_upward(study: Path) -> None:
    def point(x: float, y: float) -> MapPoint:
        return MapPoint(run="base", seed=0, kind="base", step=None, x=x, y=y, spans=[])

    (panel,) = map_views(StateMap(points=[point(-1, 5), point(3, 7), point(1, 5.5)]), read_study_folder(study).plan)
    assert [(p.left, p.top) for p in panel.points] == [("4.0", "96.0"), ("96.0", "4.0"), ("50.0", "73.0")]
    (single,) = map_views(StateMap(points=[point(2, 2)]), read_study_folder(study).plan)
    assert [(p.left, p.top) for p in single.points] == [("4.0", "96.0")]


def test_texts_of_points_are_cut_and_say_so() -> None:
    spans = [
        Span(origin="prompt", text="p" * (MAX_PROMPT + 1)),
        Span(origin="prompt", text="more"),
        Span(origin="learner", text="l" * (MAX_RESPONSE - 1)),
        Span(origin="teacher", text="ab", is_supervised=True),
        Span(origin="teacher", text="gone"),
    ]
    assert cut_spans(spans) == [
        Span(origin="prompt", text="p" * MAX_PROMPT + "…"),
        Span(origin="learner", text="l" * (MAX_RESPONSE - 1)),
        Span(origin="teacher", text="a…", is_supervised=True),
    ]
    assert cut_spans(spans[3:4]) == spans[3:4]


def test_hostile_states_and_names_stay_text(tmp_path: Path) -> None:
    folder = full_study(tmp_path)
    said = [Span(origin=HOSTILE, text=HOSTILE + "w" * 500, is_supervised=True)]
    point = MapPoint(run=HOSTILE, seed=0, kind="learner", step=1, x=0, y=0, spans=said)
    write_json(folder / "state_map.json", StateMap(points=[point], features=HOSTILE, projection=HOSTILE))
    record = LocalityRecord(step=1, values={HOSTILE: 1.0}, by_depth={HOSTILE: [0.5, None]})
    write_jsonl(folder / "runs" / "sft_mild" / "seed0" / "locality.jsonl", [record])
    report = write_report(folder)
    found = parsed(report)
    assert "script" not in {tag for tag, _ in found.tags}
    assert r"</title><script>alert(1)</script> &amp; \u202eevil\u200f" + "w" * 360 not in "".join(found.text)
    assert r"</title><script>alert(1)</script> &amp; \u202eevil\u200fwwww" in "".join(found.text)
    assert not set("\u202e\u200f") & set(report.read_text(encoding="utf-8"))
    for path in (folder / "plots").glob("*.svg"):
        assert not [e.tag for e in ElementTree.parse(path).getroot().iter() if e.tag.endswith("script")]


# Locality


def test_last_values_are_means_over_seeds(study: Path) -> None:
    table = last_table(read_study_folder(study))
    row = {column.key: c for column, c in zip(table.columns, table.rows[0])}
    # synthetic_study.locality: 0.2 + 0.01 * 12, plus 0.02 for the second seed
    assert row["reachability_gap_nats"].value == pytest.approx((0.32 + 0.34) / 2)
    assert row["topk_overlap"].value is None  # no teacher
    assert row["step"].value == 12


def test_measures_are_named_by_their_keys() -> None:
    assert measure_name("forward_kl_new_task_nats") == "Forward KL on the new task, nats"
    assert measure_name("topk_overlap") == "Top-k overlap"
    assert measure_name("nats") == "Nats"
    assert [score_name(name) for name in ("strict_t1", "flexible_t0.7", "pass_at_4", "gold_mass", "flexible")] == [
        "strict, temperature 1",
        "flexible, temperature 0.7",
        "pass@4",
        "share of the right options",
        "flexible",
    ]
    assert [distance_name(name) for name in ("mmd2_unbiased", "state_centroid")] == ["unbiased MMD²", "state centroid"]


def test_the_mean_curve_leaves_gaps_where_no_seed_has_a_number() -> None:
    nan = math.nan
    xs, ys = mean_curve([Curve([0, 1, 2], [1.0, nan, nan]), Curve([0, 1, 3], [3.0, 5.0, 7.0])])
    assert xs == [0, 1, 2, 3]
    assert (ys[:2], ys[3], math.isnan(ys[2])) == ([2.0, 5.0], 7.0, True)


def test_the_parts_of_a_summed_reward_have_curves_of_their_own(study: Path) -> None:
    files = next(run for run in read_study_folder(study).runs if run.run.name == "opd_mild")
    parts = {"reward": 0.5, "rewards/short/mean": 0.25}
    seeds = [
        dataclasses.replace(seed, steps=[dataclasses.replace(step, stats=parts) for step in seed.steps])
        for seed in files.seeds
    ]
    plot = curve_plot(dataclasses.replace(files, seeds=seeds), Look("#0072B2", "o"))
    assert plot is not None
    assert "last reward 0.500, 0.500; last reward short 0.250, 0.250" in description(plot)


def test_a_lone_point_far_outside_goes_to_the_edge_with_its_value() -> None:
    look = Look("#0072B2", "o")
    low = Series("low", look, [Curve([0, 1, 2, 3, 4], [0.1, 0.2, 0.15, 0.3, 0.25])])
    spiked = Series("spiked", look, [Curve([0, 1, 2, 3, 4], [0.2, 0.1, 1013.2, 0.3, 0.2])])
    plot = series_plot("p", "P", "How to read it.", [low, spiked], x_label="step")
    assert plot is not None
    shown = "".join(ElementTree.fromstring(plot.svg).itertext())
    assert "↑ 1,013" in shown
    assert "1000" not in shown, "the axis is that of the others"
    assert (
        plot.caption == "How to read it. Hollow, with ↑ or ↓: the point is outside the plot range, at the value shown."
    )
    usual = series_plot("p", "P", "How to read it.", [low], x_label="step")
    assert usual is not None
    assert usual.caption == "How to read it."


def test_of_a_spike_in_several_seeds_the_means_value_is_shown_else_the_farthest_seeds() -> None:
    flat = [0.1, 0.2, 0.15, 0.3, 0.25]
    seeds = [Curve([0, 1, 2, 3, 4], [*flat[:2], top, *flat[3:]]) for top in (0.1, 0.2, 90.0)]
    plot = series_plot("p", "P", "", [Series("mean", Look("#0072B2", "o"), seeds)], x_label="step")
    assert plot is not None
    assert "↑ 30.10" in "".join(ElementTree.fromstring(plot.svg).itertext())
    seeds = [Curve([0, 1, 2, 3, 4], [*flat[:2], top, *flat[3:]]) for top in (-4.0, 5.0, -0.5)]
    plot = series_plot("p", "P", "", [Series("seed", Look("#0072B2", "o"), seeds)], x_label="step")
    assert plot is not None
    assert "↑ 5.00" in "".join(ElementTree.fromstring(plot.svg).itertext())


@pytest.mark.parametrize(
    ("curves", "shown"),
    [
        ([[0.0, 0.1, 9.0, 0.2, 0.1]], (0.0, 0.2)),
        ([[0.0, 0.1, -9.0, 0.2, 0.1]], (0.0, 0.2)),
        ([[0.0, 0.1, 0.3, 0.2, 0.1]], (0.0, 0.3)),  # near
        ([[9.0, 0.1, 0.0, 0.2, 0.1]], (0.0, 9.0)),  # how it begins
        ([[0.1, 0.0, 0.2, 0.1, 9.0]], (0.0, 9.0)),  # how it ends
        ([[0.1, 0.0, 0.2, 0.1], [0.1, 0.0, 0.2, 0.1], [0.0, 8.0, 9.0, 8.0]], (0.0, 9.0)),  # a run apart
        ([[0.1, 0.1, 9.0, 0.1, 0.1]], (0.1, 9.0)),  # no spread to measure by
        ([[0.0, math.nan, 9.0]], (0.0, 9.0)),  # too few
    ],
)
def test_the_axis_shows_all_but_lone_points_far_outside(curves: list[list[float]], shown: tuple[float, float]) -> None:
    assert range_without_spikes(curves) == shown


CELLS = product(("learner", "teacher"), ("forward", "reverse"), ("low", "high"))
NAMES = [f"{who} states, {way} KL, {rate} rate" for who, way, rate in CELLS]


def test_long_names_are_told_apart() -> None:
    assert wrapped(NAMES[0], limit=26) == "learner states, forward\nKL, low rate"
    assert wrapped("word " * 20, limit=12) == "word word\nword word…"
    assert told_apart(["one", "a name that is too long"], limit=10) == ["one", "a name th…"]
    cut = told_apart(NAMES, limit=26)
    assert len(set(cut)) == len(NAMES)
    assert max(map(len, cut)) == 26
    assert cut[0] == "learner …ward KL, low rate"
    assert told_apart(["same", "same"], limit=10) == ["same", "same"]


@pytest.mark.parametrize(("height", "is_cut"), [(4.0, False), (1.6, True)])
def test_names_beside_a_plot_take_two_lines_where_there_is_room(height: float, is_cut: bool) -> None:
    with plot_style():
        figure = new_figure(4.0, height)
        axes = figure.add_subplot()
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        end_labels(axes, [Labelled(1.0, k / 8, name) for k, name in enumerate(NAMES)], ["#000000"] * 8, limit=26)
        figure.draw_without_rendering()
        boxes = [written.get_window_extent() for written in axes.texts]
    said = [written.get_text() for written in axes.texts]
    assert any("…" in one for one in said) == is_cut
    assert any("\n" in one for one in said) != is_cut
    assert len(set(said)) == len(NAMES)
    if not is_cut:
        assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(sorted(boxes, key=lambda box: box.y0)))


def test_end_labels_keep_their_order_and_distance() -> None:
    assert spaced([5.0, 50.0], gap=10, low=0, high=100) == [5.0, 50.0]
    assert spaced([50.0, 50.0, 52.0], gap=10, low=0, high=100) == [50.0, 60.0, 70.0]
    assert spaced([99.0, 98.0, 97.0], gap=10, low=0, high=100) == [100.0, 90.0, 80.0]
    assert spaced([-5.0, 200.0], gap=10, low=0, high=100) == [0.0, 100.0]
    assert spaced([1.0, 1.0, 1.0], gap=100, low=0, high=100) == [0.0, 50.0, 100.0], "as far apart as there is room"


# Predictors


def test_runs_of_other_lengths_share_an_axis_of_their_shares(tmp_path: Path) -> None:
    study = read_study_folder(full_study(tmp_path))
    assert not differ_in_length(study)
    assert "at step" in description(locality_plots(study)[0])
    short, name = study.runs[1], "reachability_gap_nats"
    for seed in short.seeds:
        del seed.locality[-1]
    last = short.seeds[0].locality[-1].step
    short = dataclasses.replace(short, seeds=[dataclasses.replace(seed, record=None) for seed in short.seeds])
    study = dataclasses.replace(study, runs=[short, study.runs[2]])
    assert differ_in_length(study)
    steps, shares = (over_steps(short, name, is_share=is_share)[0] for is_share in (False, True))
    assert (steps.xs[-1], shares.xs[-1]) == (last, 100)
    assert shares.ys == steps.ys
    assert "at share of the run, % 100" in description(locality_plots(study)[0])


def description(plot: Plot) -> str:
    return ElementTree.fromstring(plot.svg).findtext("{http://www.w3.org/2000/svg}desc") or ""


def test_predictors_show_what_could_not_be_judged(study: Path, page: Page) -> None:
    rows = rows_of(study / "tables" / "predictors.csv")
    assert [(r["name"], r["by"], r["r2"]) for r in rows[:3]] == [
        ("drift", "configuration", "-3.2"), ("drift and locality", "configuration", "0.62"),
        ("update norm", "configuration", ""),
    ]  # fmt: skip
    assert "18 runs, fewer than 20" in "".join(page.text)
    drawn = "".join(ElementTree.parse(study / "plots" / "predictors.svg").getroot().itertext())
    assert "← −3.2" in drawn, "far below the mean is drawn at the edge, with its value"
    assert "update norm, by" not in drawn
