"""A run may train on another task's training items: the study is measured as before, and the data is on record."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import tiny
from stateshape.cli import main
from stateshape.study.plan import Plan, make_plan
from stateshape.study.study_file import read_study_file

ON_OWN = "tutor: {recipe: sft, data: data.jsonl}"


def write_data(path: Path, answer: int) -> None:
    rows = [
        {"prompt": f"9+{k}=", "answer": "0", "solution": f"{answer}" * 3, "split": "train", "id": f"own{k}"}
        for k in range(8)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def study_file(folder: Path, *runs: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(tiny.study_text(*runs), encoding="utf-8")
    return path


def planned(folder: Path, *runs: str) -> Plan:
    return make_plan(read_study_file(str(study_file(folder, *runs))))


def test_what_a_run_trains_on_is_part_of_the_plan(tmp_path: Path) -> None:
    shas = [planned(tmp_path, run).sha256 for run in ("tutor: {recipe: sft}", ON_OWN, ON_OWN.replace("data.j", "b.j"))]
    assert len(set(shas)) == 3


def test_a_run_trains_on_the_data_it_names_and_the_study_is_measured_on_its_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_data(Path("data.jsonl"), 7)
    file = study_file(tmp_path, ON_OWN, "usual: {recipe: sft}")
    assert main(["study", str(file), "--out", "out", "--quiet"]) == 0
    plan = json.loads(Path("out/plan.json").read_text())
    assert (plan["target"]["name"], set(plan["provenance"]["data_sha256"])) == (
        "arithmetic",
        {"arithmetic", "facts", "data"},
    )
    records = {name: json.loads(Path(f"out/runs/{name}/seed0/run.json").read_text()) for name in ("tutor", "usual")}
    assert (records["tutor"]["task"], records["tutor"]["settings"]["data"]) == ("arithmetic", "data.jsonl")
    assert "data" in records["tutor"]["provenance"]["data_sha256"]
    assert "data" not in records["usual"]["settings"]
    assert "data" not in records["usual"]["provenance"]["data_sha256"]
    trained_on = {name: prompts_of(Path(f"out/runs/{name}/seed0")) for name in records}
    assert trained_on["tutor"] and all(item.startswith("own") for item in trained_on["tutor"])
    assert not any(item.startswith("own") for item in trained_on["usual"])
    rows = [Path(f"out/runs/{name}/seed0/evals/arithmetic.jsonl").read_text().splitlines() for name in records]
    assert [json.loads(row)["item_id"] for row in rows[0]] == [json.loads(row)["item_id"] for row in rows[1]]

    capsys.readouterr()
    write_data(Path("data.jsonl"), 8)
    assert main(["study", str(file), "--out", "out", "--quiet"]) == 2
    assert "was started with different data for data (sha256 " in capsys.readouterr().err


def prompts_of(folder: Path) -> set[str]:
    return {
        item_id for part in folder.glob("states/*.parquet") for item_id in pq.read_table(part)["item_id"].to_pylist()
    }


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ("facts", "runs.tutor.data: got facts, a multiple-choice task"),
        ("arithmetik", "did you mean arithmetic?"),
        ("other/arithmetic.jsonl", "a second task named arithmetic with other content"),
    ],
)
def test_data_that_cannot_be_trained_on_is_one_line(
    data: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other").mkdir()
    write_data(Path("other/arithmetic.jsonl"), 7)
    file = study_file(tmp_path, f"tutor: {{recipe: sft, data: {data}}}")
    assert main(["study", str(file), "--out", "out", "--quiet"]) == 2
    assert wanted in capsys.readouterr().err
    assert not Path("out/plan.json").exists()
