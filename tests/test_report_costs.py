"""The cost tables of a report, and --profile from the command line: the same numbers, and dashes where there are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny
from stateshape.cli import main
from stateshape.core.files import read_json, write_json
from stateshape.core.records import PhaseCost, ProfileRecord, RunRecord
from stateshape.report.drawing.table import main_text, render_csv
from stateshape.report.parts.costs import cost_table, phase_table
from stateshape.report.study_files import read_study_folder
from stateshape.report.write import write_report
from synthetic_study import write_synthetic_study

STUDY = tiny.study_text("tutor: {recipe: sft}")
TRAIN = "--model embedded --task arithmetic --steps 2 --batch-prompts 2 --train-items 8 --lora.rank 2 --device cpu"


def cells(folder: Path) -> list[list[str]]:
    """The table of phases, as it is shown."""
    table = phase_table(read_study_folder(folder))
    return [[main_text(cell, column) for cell, column in zip(row, table.columns)] for row in table.rows]


def test_what_is_not_known_is_a_dash(tmp_path: Path) -> None:
    """Records of an older version tell seconds alone; a run that is not there tells nothing."""
    folder = write_synthetic_study(tmp_path, seeds=[0], num_items=8, missing=["rl"])
    shown = cells(folder)
    assert ["Base", "evaluation", "3.0", *["–"] * 5] in shown
    assert ["SFT, mild", "training", "9.0", *["–"] * 5] in shown
    assert [row for row in shown if row[0].startswith("RL")] == [["RL, exact-answer reward", *["–"] * 7]]
    assert "base,evaluation" not in render_csv(phase_table(read_study_folder(folder)))
    assert ",3.0,,,,," in render_csv(phase_table(read_study_folder(folder)))


def test_means_over_seeds_and_the_share_of_the_peak(tmp_path: Path) -> None:
    folder = write_synthetic_study(tmp_path, seeds=[0, 1], num_items=8)
    for seed, seconds, memory in ((0, 2.0, 1.25), (1, 4.0, 1.5)):
        path = folder / "runs" / "sft_mild" / f"seed{seed}" / "run.json"
        record = read_json(path, RunRecord)
        record.provenance["peak_gflops"] = 10.0
        cost = PhaseCost(seconds=seconds, tokens=800, flops=8_000_000_000, peak_memory_gb=memory)
        write_json(path, record.measured({"training": cost}))
    row = next(row for row in cells(folder) if row[:2] == ["SFT, mild", "training"])
    # 400 and 200 tokens a second; 40 and 20% of the peak
    assert row == ["SFT, mild", "training", "3.0", "800", "300", "8.0", "30.0", "1.50"]
    table = cost_table(read_study_folder(folder))
    shown = {main_text(row[0], table.columns[0]): row for row in table.rows}["SFT, mild"]
    keys = [column.key for column in table.columns]
    assert shown[keys.index("total")].value == pytest.approx(3 + 3 + 4 + 2)  # evaluation, sampling and signal stay
    assert shown[keys.index("memory")].value == 1.5
    page = write_report(folder).read_text(encoding="utf-8")
    assert "Time and memory per phase." in page
    assert "% of measured peak FLOP/s" in page


def test_profile_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "tiny.yaml", tmp_path / "out"
    file.write_text(STUDY, encoding="utf-8")
    assert main(["study", str(file), "--out", str(out), "--profile", "--json-events"]) == 0
    told = capsys.readouterr().out
    assert "Time and memory per phase." in told
    assert told.endswith(f"profile: {out / 'profile.json'}\n")
    found = read_json(out / "profile.json", ProfileRecord)
    assert isinstance(found.machine["peak_gflops"], float)
    assert {"device", "threads", "dtype"} <= found.machine.keys()
    assert [(phase.run, phase.phase) for phase in found.phases] == [
        ("base", "evaluation"), ("base", "drift"),
        *[("tutor", name) for name in ("sampling", "signal", "record", "locality", "training", "evaluation", "drift")],
    ]  # fmt: skip
    record = read_json(out / "runs" / "tutor" / "seed0" / "run.json", RunRecord)
    assert [phase for phase in found.phases if phase.run == "tutor"] == record.phases()
    assert record.seconds == {name: cost.seconds for name, cost in record.costs.items()}
    assert record.peak_memory_gb == max(cost.peak_memory_gb or 0 for cost in record.costs.values())
    for name in ("training", "evaluation", "drift"):
        assert record.costs[name].flops > record.costs[name].tokens > 0
    assert list(found.operators) == ["tutor"]
    assert list(found.operators["tutor"]) == ["sampling", "signal", "training"]
    # nothing is left to train: what was watched before is kept
    assert main(["study", str(file), "--out", str(out), "--profile", "--quiet"]) == 0
    assert read_json(out / "profile.json", ProfileRecord) == found


def test_a_stopped_study_keeps_what_its_parts_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the second of the base's two evaluations: the first one's cost is not lost, the second's not doubled."""
    file = tmp_path / "tiny.yaml"
    file.write_text(STUDY, encoding="utf-8")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["study", str(file), "--out", str(whole), "--quiet"]) == 0

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("stateshape.evals.evaluate.score_choices", stop)
        assert main(["study", str(file), "--out", str(parts), "--quiet"]) == 130
    assert not json.loads((parts / "runs" / "base" / "seed0" / "run.json").read_text())["is_complete"]
    assert main(["study", str(file), "--out", str(parts), "--quiet"]) == 0
    for run in ("base", "tutor"):
        one, other = (read_json(folder / "runs" / run / "seed0" / "run.json", RunRecord) for folder in (whole, parts))
        work = [{name: (cost.tokens, cost.flops) for name, cost in record.costs.items()} for record in (one, other)]
        assert work[0] == work[1]


def test_profile_of_a_run_and_of_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "sft", *TRAIN.split(), "--out", str(out), "--profile"]) == 0
    told = capsys.readouterr().out
    assert "operators of training: aten." in told
    assert [phase.phase for phase in read_json(out / "profile.json", ProfileRecord).phases] == [
        "sampling", "signal", "record", "locality", "training",
    ]  # fmt: skip
    one = ["eval", str(out), "--task", "facts", "--limit", "4", "--out", str(out), "--device", "cpu"]
    assert main([*one, "--profile"]) == 0
    told = capsys.readouterr().out
    assert "operators of evaluation: aten." in told
    found = read_json(out / "evals" / "facts.profile.json", ProfileRecord)
    (phase,) = found.phases
    assert phase.seed is None
    assert phase.tokens is not None and phase.tokens > 0
    assert phase.share_of_peak is not None and 0 < phase.share_of_peak < 1.5


def test_nothing_is_written_unless_asked_for(tmp_path: Path) -> None:
    assert main(["train", "sft", *TRAIN.split(), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    assert not (tmp_path / "run" / "profile.json").exists()
