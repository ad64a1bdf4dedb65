"""The report: hostile text stays text, missing stays missing, same records give the same bytes, nothing is loaded."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import math
import re
import subprocess
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from html_page import parsed
from stateshape.analysis.compare import write_comparison
from stateshape.core.files import BadInput, read_json, write_json, write_jsonl
from stateshape.core.records import DriftValue, Span, StateSample, StepRecord
from stateshape.core.study_records import (
    Comparison,
    Estimate,
    Evidence,
    PairedDifference,
    PlanRecord,
    RunComparison,
    Verdict,
)
from stateshape.report import fonts
from stateshape.report.drawing import table as grid
from stateshape.report.drawing import text
from stateshape.report.parts.curves import curve
from stateshape.report.parts.scatter import Point, gain_plot, moved_inside
from stateshape.report.parts.tables import render_text, table1, table2, write_tables
from stateshape.report.study_files import empty_comparison, spread
from stateshape.report.write import write_report
from synthetic_study import RATES, write_synthetic_study

HOSTILE = "</script><img src=x onerror=alert(1)>"
TEX_SPECIALS = r"50% of $x_1 & #2 {y}^~ \input{/etc/passwd}"
END_OF_TEXT = "<|endoftext|>"


def estimate(value: float, *, half: float = 0.031, is_wide: bool = True) -> Estimate:
    """An estimate with digits that rounding would lose."""
    exact = value + 1 / 3e7
    lo, hi = (exact - half, exact + half) if is_wide else (None, None)
    return Estimate(value=exact, lo=lo, hi=hi, n_items=200, n_seeds=3, per_seed={"0": exact, "1": exact + 0.01})


def compared(plan: PlanRecord) -> Comparison:
    """A made-up comparison of every run of the plan."""
    rows = []
    for index, run in enumerate(plan.runs):
        scores = {task.name: estimate(0.4 + 0.02 * index) for task in [plan.target, *plan.retention]}
        paired = {
            name: PairedDifference(versus="base", difference=estimate(0.02 * index), p=0.0004, test="exact McNemar")
            for name in scores
        }
        drift = {"mmd2_biased": 0.0113, "mmd2_unbiased": -0.00021} if index else {}
        rows.append(
            RunComparison(
                run=run.name,
                label=run.label,
                method=run.method.method if run.method else None,
                teacher=run.teacher,
                scores=scores,
                versus_base=paired if index else {},
                versus_teacher=paired if run.teacher else {},
                mean_forgetting=estimate(0.01 * index),
                mean_retention=estimate(1 - 0.03 * index),
                mean_chance_corrected_retention=estimate(1 - 0.1 * index, is_wide=False),
                drift={name: DriftValue(value=value, base_vs_base=value / 2) for name, value in drift.items()},
                drift_per_seed={name: {"0": value, "1": value * 1.1} for name, value in drift.items()},
            )
        )
    return dataclasses.replace(empty_comparison(plan), rows=rows)


def verdicts(claim: str = "Stress forgets.") -> list[Verdict]:
    evidence = Evidence(label="sft_stress - base", effect=estimate(0.1), p=0.001, p_holm=None, test="bootstrap")
    return [
        Verdict(claim_id="P1", claim=claim, outcome="supported", sentence="It does.", evidence=[evidence]),
        Verdict(claim_id="P2", claim="Another.", outcome="cannot tell", sentence="No data.", evidence=[]),
    ]


FEW = {run: RATES[run] for run in ("base", "sft_mild", "rl")}  # drawing is what takes time


def finished_study(folder: Path, *, rates: dict[str, tuple[float, float, float]] = FEW) -> Path:
    write_synthetic_study(folder, seeds=(0, 1), num_items=4, rates=rates)
    write_json(folder / "comparison.json", compared(read_plan(folder)))
    write_json(folder / "verdicts.json", verdicts())
    return folder


def read_plan(folder: Path) -> PlanRecord:
    return read_json(folder / "plan.json", PlanRecord)


def relabelled(folder: Path, label: str) -> Path:
    """Every user-written string of the study becomes `label`."""
    plan = read_plan(folder)
    runs = []
    for run in plan.runs:
        method = dataclasses.replace(run.method, method=label, signal=label, summary=label) if run.method else None
        runs.append(dataclasses.replace(run, label=label, method=method, settings={label: label}))
    target = dataclasses.replace(plan.target, label=label, metric=label)
    plan = dataclasses.replace(plan, study=label, model=label, notes=label, runs=runs, target=target)
    write_json(folder / "plan.json", plan)
    write_json(folder / "comparison.json", dataclasses.replace(compared(plan), missing=[label]))
    write_json(folder / "verdicts.json", verdicts(label))
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = finished_study(tmp_path_factory.mktemp("study"), rates=RATES)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def hostile_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = relabelled(finished_study(tmp_path_factory.mktemp("hostile")), f"{HOSTILE} {TEX_SPECIALS} {END_OF_TEXT}")
    said = Span(origin=HOSTILE, text=f"{HOSTILE}\n\x1b[31m\u202eevil\x00 {END_OF_TEXT}", is_supervised=True)
    sample = StateSample(item_id=HOSTILE, step=1, spans=[said], finish=HOSTILE)
    where = folder / "runs" / "rl" / "seed0"
    escaped = json.dumps(dataclasses.asdict(sample))  # ascii: a lone surrogate can only arrive as an escape
    (where / "states.jsonl").write_text(escaped + "\n")
    write_report(folder)
    return folder


def test_the_page_is_balanced_and_has_every_section(study: Path) -> None:
    page = parsed(study / "report.html")
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    sections = [
        "verdicts", "results", "drift", "supervision", "map", "locality", "curves", "methods", "seeds",
        "samples", "cost", "settings",
    ]  # fmt: skip
    assert [found for found in ids if found in sections] == sections
    assert len(ids) == len(set(ids)), "ids of the inline figures clash"
    assert {"html", "main", "caption", "figcaption"} <= {tag for tag, _ in page.tags}
    assert ("html", {"lang": "en"}) in page.tags
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")
    drawn = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert drawn
    assert all(attrs.get("aria-labelledby") in ids and attrs.get("aria-describedby") in ids for attrs in drawn)


def test_headings_descend_one_level_at_a_time(study: Path) -> None:
    levels = [int(tag[1]) for tag, _ in parsed(study / "report.html").tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_nothing_is_loaded_and_nothing_runs(study: Path) -> None:
    page = parsed(study / "report.html")
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "img", "object", "embed", "base"}
    loads = [
        value or "" for _, attrs in page.tags for key, value in attrs.items() if key.split(":")[-1] in ("src", "href")
    ]
    assert loads
    assert all(value.startswith("#") for value in loads)
    assert not re.search(r"url\((?!#)|@import", (study / "report.html").read_text(encoding="utf-8"))
    assert not [key for _, attrs in page.tags for key in attrs if key.startswith("on")]


def test_references_inside_inline_figures_resolve(study: Path) -> None:
    page = parsed(study / "report.html")
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    wanted = {(value or "")[1:] for _, a in page.tags for key, value in a.items() if key.endswith("href")}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", (study / "report.html").read_text(encoding="utf-8")))
    assert wanted
    assert wanted <= ids


def test_hostile_text_stays_text_in_the_page(hostile_study: Path) -> None:
    page = parsed(hostile_study / "report.html")
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    shown = "".join(page.text)
    assert HOSTILE in shown
    assert END_OF_TEXT in shown
    assert TEX_SPECIALS in shown
    assert r"\x1b[31m\u202eevil\x00" in shown


def test_hostile_labels_stay_text_in_the_figures(hostile_study: Path) -> None:
    files = sorted((hostile_study / "plots").glob("*.svg"))
    assert {"verdict_P1.svg", "gain_retention.svg", "drift_mmd2_biased.svg", "null_mmd2_biased.svg"} <= {
        p.name for p in files
    }
    for path in files:
        root = ElementTree.parse(path).getroot()
        assert not [element.tag for element in root.iter() if element.tag.endswith(("script", "img"))]
    drawn = "".join(ElementTree.parse(hostile_study / "plots" / "gain_retention.svg").getroot().itertext())
    assert HOSTILE[:30] in drawn


def test_hostile_labels_stay_text_in_tex_and_markdown(hostile_study: Path) -> None:
    tex = (hostile_study / "table2.tex").read_text(encoding="utf-8")
    assert r"\textless{}/script\textgreater{}" in tex
    assert r"50\% of \$x\_1 \& \#2 \{y\}\textasciicircum{}\textasciitilde{} \textbackslash{}input\{/etc/passwd\}" in tex
    assert r"\input{" not in tex
    markdown = (hostile_study / "table2.md").read_text(encoding="utf-8")
    assert "<img" not in markdown
    assert r"&lt;\|endoftext\|&gt;" in markdown
    columns = {line.replace(r"\|", "").count("|") for line in markdown.splitlines() if line.startswith("|")}
    assert len(columns) == 1


def test_csv_gives_back_the_comparisons_numbers_exactly(study: Path) -> None:
    comparison = read_json(study / "comparison.json", Comparison)
    rows = {row["run"]: row for row in csv.DictReader((study / "table2.csv").open(encoding="utf-8"))}
    assert list(rows) == [row.run for row in comparison.rows]
    for row in comparison.rows:
        found = rows[row.run]
        for name, expected in [*row.scores.items(), ("mean_retention", row.mean_retention)]:
            assert expected is not None
            assert [float(found[name + end]) for end in ("", "_lo", "_hi")] == [
                expected.value,
                expected.lo,
                expected.hi,
            ]
        assert found["mean_chance_corrected_retention_lo"] == ""
        for distance, drift in row.drift.items():
            assert float(found[distance]) == drift.value
            assert float(found[f"{distance}_base_vs_base"]) == drift.base_vs_base
    assert float(rows["base"]["mmd2_biased"]) == 0.0113 / 2, "base against base, the same for all runs"
    assert rows["base"]["mmd2_biased_base_vs_base"] == ""


def test_base_against_base_stands_in_the_bases_row_or_in_every_row_where_it_differs(study: Path) -> None:
    plan, comparison = read_plan(study), read_json(study / "comparison.json", Comparison)
    words = grid.render_markdown(table2(plan, comparison))
    base, *others = (line for line in words.splitlines()[4:] if line.startswith("| "))
    assert "0.00565" in base
    assert "0.00565" not in "".join(others)
    assert "base vs base" not in words
    rows = [
        dataclasses.replace(row, drift={k: dataclasses.replace(v, base_vs_base=i / 100) for k, v in row.drift.items()})
        for i, row in enumerate(comparison.rows)
    ]
    words = grid.render_markdown(table2(plan, dataclasses.replace(comparison, rows=rows)))
    assert words.count("base vs base") == 2 * (len(rows) - 1)


def test_missing_numbers_are_missing_in_every_format(tmp_path: Path) -> None:
    plan = read_plan(write_synthetic_study(tmp_path, seeds=(0,), num_items=2))
    comparison = empty_comparison(plan)
    write_tables(tmp_path, plan, comparison)
    rows = list(csv.DictReader((tmp_path / "table2.csv").open(encoding="utf-8")))
    assert len(rows) == len(plan.runs)
    assert all(value == "" for row in rows for key, value in row.items() if key not in ("run", "label", "teacher"))
    body = (tmp_path / "table2.md").read_text(encoding="utf-8").split("\n| Base |")[1].split("\n")[0]
    assert body.split(" | ") == [" –"] + ["–"] * 6 + ["– |"]
    assert re.search(r"\nBase( & --){8} \\\\\n", (tmp_path / "table2.tex").read_text(encoding="utf-8"))


def test_an_unstarted_study_gives_a_report_that_says_so(tmp_path: Path) -> None:
    source = write_synthetic_study(tmp_path / "source", seeds=(0,), num_items=2)
    write_json(tmp_path / "study" / "plan.json", read_plan(source))
    page = parsed(write_report(tmp_path / "study"))
    shown = "".join(page.text)
    assert "comparison.json: no such file" in shown
    assert "RL, exact-answer reward, seed 0: no run.json" in shown
    assert "No verdicts have been written" in shown
    assert "svg" not in {tag for tag, _ in page.tags}


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    folder = finished_study(tmp_path)
    with (folder / "runs" / "rl" / "seed1" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "lo')
    (folder / "verdicts.json").write_text("[{}]")
    shown = "".join(parsed(write_report(folder)).text)
    assert "runs/rl/seed1/metrics.jsonl:13: not valid JSON" in shown
    assert "verdicts.json: " in shown
    assert str(folder) not in shown


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"plan\.json: no such file"):
        write_report(tmp_path)


def test_a_planned_run_without_a_row_is_shown_as_missing(tmp_path: Path) -> None:
    folder = finished_study(tmp_path)
    comparison = read_json(folder / "comparison.json", Comparison)
    write_json(folder / "comparison.json", dataclasses.replace(comparison, rows=comparison.rows[:2]))
    shown = "".join(parsed(write_report(folder)).text)
    assert "RL, exact-answer reward: not in comparison.json" in shown
    assert '\nrl,"RL, exact' in (folder / "table2.csv").read_text(encoding="utf-8")


def test_the_same_records_give_the_same_bytes(study: Path, tmp_path: Path) -> None:
    other = finished_study(tmp_path / "elsewhere", rates=RATES)
    write_report(other)
    names = sorted(p.relative_to(study) for p in study.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(other) for p in other.rglob("*") if p.is_file())
    different = [str(name) for name in names if (study / name).read_bytes() != (other / name).read_bytes()]
    assert different == []


def test_a_run_keeps_its_colour_when_others_are_missing(study: Path) -> None:
    plan, comparison = read_plan(study), read_json(study / "comparison.json", Comparison)
    few = dataclasses.replace(comparison, rows=[comparison.rows[0], comparison.rows[-1]])
    colours = [{row[0].text: row[1].colour for row in table2(plan, c).rows} for c in (comparison, few)]
    assert colours[0] == colours[1]
    assert len(set(colours[0].values())) == len(plan.runs)


def test_intervals_that_miss_their_point_can_be_drawn(study: Path) -> None:
    plan, comparison = read_plan(study), read_json(study / "comparison.json", Comparison)
    odd = Estimate(value=0.5, lo=0.6, hi=0.7, n_items=2, n_seeds=1)
    rows = [dataclasses.replace(row, mean_retention=odd) for row in comparison.rows]
    assert gain_plot(plan, dataclasses.replace(comparison, rows=rows)) is not None


def test_provenance_has_a_label_and_supervision_an_underline(study: Path) -> None:
    page = (study / "report.html").read_text(encoding="utf-8")
    assert '<b class="tag">teacher, supervised</b><u> has 3 + 4 = 7.\n#### 7</u>' in page
    assert '<b class="tag">learner</b> Ann has 3 pens. She then</span>' in page


def test_long_samples_are_cut_and_say_so(tmp_path: Path) -> None:
    folder = finished_study(tmp_path)
    spans = [Span(origin="learner", text="a" * 5999), Span(origin="teacher", text="bcd")]
    sample = StateSample(item_id="long", step=None, spans=spans, finish="length")
    write_jsonl(folder / "runs" / "rl" / "seed0" / "rollouts.jsonl", [sample])
    page = "".join(parsed(write_report(folder)).text)
    assert "2 more characters are not shown." in page
    assert "teacherb" in page


def test_terminal_tables_do_not_read_markup(hostile_study: Path, study: Path) -> None:
    plan = read_plan(study)
    runs = [dataclasses.replace(run, label="[red]stop[/red][/]") for run in plan.runs]
    out = io.StringIO()
    Console(file=out, width=250).print(
        render_text(table2(dataclasses.replace(plan, runs=runs), empty_comparison(plan)))
    )
    Console(file=out, width=250).print(render_text(table1(dataclasses.replace(plan, runs=runs))))
    assert "[red]stop[/red][/]" in out.getvalue()


def test_numbers_are_rounded_with_a_true_minus_and_never_to_zero() -> None:
    assert text.number(None) == "–"
    assert text.number(0.0) == "0.000"
    assert text.number(-0.0125) == "−0.013" or text.number(-0.0125) == "−0.012"
    assert text.number(0.02, is_signed=True) == "+0.020"
    assert text.number(-0.0000031, decimals=5) == "−3e−6"
    assert text.number(12345.6, decimals=0) == "12,346"
    assert text.p_value(0.0002) == "p < 0.001"
    assert text.p_value(None) == "p –"
    assert text.interval(None, None) == ""
    assert text.interval(-0.1, 0.2) == "[−0.100, 0.200]"


def test_line_breaks_in_labels_do_not_break_rows() -> None:
    table = grid.Table(
        name="t", caption="c", columns=[grid.Column(key="k", heading="h")], rows=[[grid.Cell(text="a\n| b\r\\\\ c")]]
    )
    assert r"| a \| b \\\\ c |" in grid.render_markdown(table).splitlines()
    assert r"a \textbar{} b \textbackslash{}\textbackslash{} c \\" in grid.render_tex(table).splitlines()


def test_a_markdown_cell_is_one_line_as_a_person_would_write_it() -> None:
    columns = [
        grid.Column(key="run", heading="run"),
        grid.Column(key="gain", heading="gain", kind="estimate", is_signed=True, companion="p"),
        grid.Column(key="mmd", heading="mmd", kind="number", companion="base_vs_base"),
    ]
    rows = [
        [
            grid.Cell(text="a [b]"),
            grid.Cell(value=0.184, lo=0.152, hi=0.22, companion=1e-5),
            grid.Cell(value=0.1, companion=0.2),
        ],
        [grid.Cell(text="c"), grid.Cell(), grid.Cell()],
    ]
    lines = grid.render_markdown(grid.Table(name="t", caption="c", columns=columns, rows=rows)).splitlines()
    assert lines[4:] == [
        r"| a \[b\] | +0.184 [+0.152, +0.220], p < 0.001 | 0.100, base vs base 0.200 |",
        "| c | – | – |",
    ]


def test_tex_braces_balance_whatever_the_labels(hostile_study: Path) -> None:
    for name in ("table1.tex", "table2.tex"):
        bare = re.sub(r"\\.", "", (hostile_study / name).read_text(encoding="utf-8"))
        depth = list(itertools.accumulate({"{": 1, "}": -1}.get(c, 0) for c in bare))
        assert min(depth) == 0
        assert depth[-1] == 0


def test_a_run_far_outside_goes_to_the_edge_with_its_value() -> None:
    points = [Point(str(x), f"run {x}", x, 0.0, (x, x), None) for x in (0.0109, 0.0110, 0.0111, 0.0112, 0.0300)]
    *kept, moved = moved_inside(points, [0.0105])
    assert kept == points[:-1]
    assert 0.0112 < moved.x < 0.0115
    assert moved.label == "run 0.03 → 0.0300"
    assert moved_inside(points[:3] + points[-1:], [])[:3] == points[:3]
    assert moved_inside(points[-3:], [0.0105]) == points[-3:], "too few runs to call one far outside"
    assert moved_inside([p._replace(x=1.0) for p in points], []) == [p._replace(x=1.0) for p in points]


def test_long_curves_are_averaged_and_gaps_stay_gaps() -> None:
    steps = [
        StepRecord(
            step=i, loss=None if i < 2 else float(i), grad_norm=1.0, lr=0.1, num_supervised=1, num_rows=1, seconds={},
            origin_shares={}, stats={},
        )
        for i in range(600)
    ]  # fmt: skip
    xs, ys = curve(steps, lambda record: record.loss)
    assert len(xs) == 300
    assert xs[:2] == [0.5, 2.5]
    assert math.isnan(ys[0])
    assert ys[1] == 2.5


def test_a_real_comparison_can_be_reported(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, seeds=(0,), num_items=20, rates=FEW, incomplete=("rl",))
    comparison = write_comparison(folder)
    page = "".join(parsed(write_report(folder)).text)
    assert comparison.missing
    assert all(line in page for line in comparison.missing)
    assert all(verdict.sentence in page for verdict in read_json(folder / "verdicts.json", list[Verdict]))


def test_samples_are_spread_evenly() -> None:
    assert spread(0, 3) == []
    assert spread(2, 3) == [0, 1]
    assert spread(101, 3) == [0, 50, 100]


def test_report_never_imports_a_model_library() -> None:
    code = (
        "import sys, stateshape.report.write; "
        "print([name for name in ('torch', 'transformers', 'peft', 'matplotlib.pyplot') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tables_and_plots_of_an_earlier_report_go(study: Path) -> None:
    old, own = [study / "tables" / "old.md", study / "plots" / "old.svg"], study / "tables" / "notes.txt"
    for path in (*old, own):
        path.write_text("of an earlier report, or the reader's own")
    kept = {
        path: path.read_bytes() for part in ("tables", "plots") for path in (study / part).iterdir() if path not in old
    }
    write_report(study)
    assert not any(path.exists() for path in old)
    assert kept.keys() == {path for part in ("tables", "plots") for path in (study / part).iterdir()}
    assert {"verdict_P1.svg", "verdict_P1.png", "contrasts.md"} & {path.name for path in kept}


def test_labels_in_any_script_give_one_note_and_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = relabelled(finished_study(tmp_path), "学生 𓂀")
    monkeypatch.setattr("stateshape.report.fonts.FALLBACKS", ())
    fonts.fallbacks.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(folder)
    page = "".join(parsed(folder / "report.html").text)
    assert page.count("no font on this machine has the characters 学生𓂀;") == 1
    assert "学生" in (folder / "plots" / "gain_retention.svg").read_text(encoding="utf-8")

    monkeypatch.setattr("stateshape.report.fonts.FALLBACKS", ("No Such Font", "STIXGeneral"))  # comes with matplotlib
    fonts.fallbacks.cache_clear()
    assert fonts.fallbacks() == ["STIXGeneral"]
    write_report(relabelled(folder, "⌒"))  # in STIXGeneral, and not in the font of the plots
    assert "no font on this machine" not in (folder / "report.html").read_text(encoding="utf-8")
    assert "STIXGeneral" not in (folder / "plots" / "verdict_P1.svg").read_text(encoding="utf-8")
    fonts.fallbacks.cache_clear()


def test_what_is_printed_is_the_findings_the_verdicts_the_main_table_and_drift(tmp_path):
    folder = write_synthetic_study(
        tmp_path, num_items=20, rates={run: RATES[run] for run in ("base", "sft_mild", "rl")}
    )
    write_comparison(folder)
    sections = [found for tag, found in parsed(write_report(folder)).tags if tag == "section"]
    printed = [section["aria-labelledby"] for section in sections if section.get("class") == "paper"]
    assert set(printed) == {"findings", "verdicts", "results", "drift"}
    assert len(sections) > len(printed)


def test_a_date_is_in_two_parts_that_do_not_break(tmp_path):
    folder = write_synthetic_study(tmp_path, num_items=20, rates={run: RATES[run] for run in ("base", "sft_mild")})
    plan = read_json(folder / "plan.json", PlanRecord)
    write_json(folder / "plan.json", dataclasses.replace(plan, provenance={"date": "2026-11-27T07:23:25+00:00"}))
    write_comparison(folder)
    page = write_report(folder).read_text(encoding="utf-8")
    assert '<span class="date">2026-11-27</span> <span class="date">07:23 UTC</span>' in page
