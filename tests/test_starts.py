"""A run that goes on from another run's adapter: where it begins, what it waits for, and what it is measured against."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import tiny
from stateshape.api import run_study
from stateshape.cli import main
from stateshape.core.files import BadInput, read_json
from stateshape.core.progress import Silent
from stateshape.core.records import DriftRecord, RunRecord
from stateshape.policy.open import open_weights
from stateshape.policy.settings import LoraSettings, ModelSettings
from stateshape.study.plan import make_plan
from stateshape.study.run_queue import Queue
from stateshape.study.study_file import read_study_file

STILL = "train: {lr: 1.0e-30, steps: 1}"  # moves nothing: the run ends where it began
TEXT = tiny.study_text(
    f"then: {{recipe: sft, start: first, {STILL}}}",
    "first: {recipe: sft, train: {lr: 1.0e-2}}",
    "taught: {recipe: opd, start: first, teacher: base, with: {rollout_tokens: 4}}",
)


def planned(text: str, folder: Path):
    (folder / "s.yaml").write_text(text, encoding="utf-8")
    return make_plan(read_study_file(str(folder / "s.yaml")))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "s.yaml").write_text(TEXT, encoding="utf-8")
    assert main(["study", str(folder / "s.yaml"), "--out", str(folder / "out"), "--quiet"]) == 0
    return folder / "out"


def tensors(out: Path, run: str):
    return load_file(out / "runs" / run / "seed0" / "adapter" / "adapter_model.safetensors")


def test_a_run_begins_at_its_start_s_adapter(out: Path) -> None:
    first, then, taught = (tensors(out, run) for run in ("first", "then", "taught"))
    assert any(bool(value.any()) for key, value in first.items() if "lora_B" in key)
    assert tiny.is_same(first, then)
    assert not tiny.is_same(first, taught)


def test_base_start_and_teacher_are_three_things_in_the_records(out: Path) -> None:
    record = read_json(out / "runs/taught/seed0/run.json", RunRecord)
    assert (record.model, record.start, record.teacher) == ("embedded", "first", "base")
    sources = record.provenance["sources_sha256"]
    assert isinstance(sources, dict)
    assert {"start first", "base of start first"} <= sources.keys()
    rows = {row["run"]: row for row in json.loads((out / "comparison.json").read_text())["rows"]}
    assert rows["taught"]["start"] == "first"
    assert rows["taught"]["versus_start"]["facts"]["versus"] == "first"
    assert rows["taught"]["versus_teacher"] != rows["taught"]["versus_start"]
    assert rows["first"]["versus_start"] == {}
    scores = {run: rows[run]["scores"]["facts"]["value"] for run in ("base", "first", "taught")}
    assert rows["taught"]["mean_forgetting"]["value"] == pytest.approx(scores["base"] - scores["taught"])
    assert rows["taught"]["mean_forgetting_since_start"]["value"] == pytest.approx(scores["first"] - scores["taught"])
    assert rows["then"]["mean_forgetting_since_start"]["value"] == 0.0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "run minus its start" in page
    assert "Mean forgetting since the start" in page


def test_drift_is_measured_from_the_start_beside_the_base(out: Path) -> None:
    folder = out / "runs/taught/seed0"
    from_base, from_start = (read_json(folder / name, DriftRecord) for name in ("drift.json", "drift_start.json"))
    assert from_start.num_prompts == from_base.num_prompts
    assert all(value.base_vs_base is None for value in from_start.distances.values())
    assert not (out / "runs/first/seed0/drift_start.json").exists()


def test_a_run_waits_for_its_start(tmp_path: Path) -> None:
    plan = planned(TEXT, tmp_path)
    assert [spec.name for spec in plan.runs] == ["first", "then", "taught"]
    queue = Queue(plan.runs, [0, 1], Silent())
    assert [(spec.name, seed) for spec, seed in queue.ready(9)] == [("first", 0), ("first", 1)]
    queue.begin(plan.runs[0], 0)
    queue.done(plan.runs[0], 0)
    assert [(spec.name, seed) for spec, seed in queue.ready(9)] == [("then", 0), ("taught", 0), ("first", 1)]


def test_a_start_is_another_plan_and_no_start_is_the_plan_of_before(tmp_path: Path) -> None:
    plain = tiny.study_text("a: {recipe: sft}", "b: {recipe: sft}")
    assert planned(plain, tmp_path).sha256 == planned(plain.replace("b: {", "b: {start: null, "), tmp_path).sha256
    assert planned(plain, tmp_path).sha256 != planned(plain.replace("b: {", "b: {start: a, "), tmp_path).sha256


def test_train_goes_on_from_a_run_and_notices_another_start(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = out / "runs/first/seed0"
    command = ["train", "sft", "--model", "embedded", "--task", "arithmetic", "--out", str(tmp_path / "on"), "--quiet"]
    command += ["--lr", "1e-30", "--steps", "1", "--batch-prompts", "2", "--lora.rank", "2"]
    assert main([*command, "--start", str(start)]) == 0
    assert tiny.is_same(load_file(tmp_path / "on/adapter/adapter_model.safetensors"), tensors(out, "first"))
    assert main([*command, "--start", str(out / "runs/taught/seed0")]) == 2
    assert "a different start" in capsys.readouterr().err
    assert main([*command]) == 2
    assert "a different start" in capsys.readouterr().err


def test_a_start_whose_content_changed_is_noticed(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = shutil.copytree(out / "runs/first/seed0/adapter", tmp_path / "start")
    command = ["train", "sft", "--model", "embedded", "--task", "arithmetic", "--out", str(tmp_path / "on"), "--quiet"]
    command += ["--steps", "1", "--batch-prompts", "2", "--lora.rank", "2", "--start", str(start)]
    assert main(command) == 0
    save_file({key: 2 * value for key, value in load_file(start / "adapter_model.safetensors").items()},
              start / "adapter_model.safetensors")  # fmt: skip
    assert main(command) == 2
    assert "different weights for start" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--lora.rank", "4"], "rank 2 and alpha 64 (here rank 4 and alpha 64)"),
        (["--lora.rank", "2", "--lora.alpha", "8"], "rank 2 and alpha 64 (here rank 2 and alpha 8)"),
        (["--lora.rank", "2", "--lora.targets", "q_proj"], "(here q_proj)"),
    ],
)
def test_a_start_of_another_shape_is_one_line(
    flags: list[str], wanted: str, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "sft", "--model", "embedded", "--task", "arithmetic", "--out", str(tmp_path / "on"), "--quiet"]
    assert main([*command, "--start", str(out / "runs/first/seed0"), *flags]) == 2
    line = capsys.readouterr().err
    assert wanted in line
    assert line.startswith("stateshape: start: got ")
    assert not (tmp_path / "on").exists()


def test_starts_that_are_none(out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = open_weights("embedded", ModelSettings(device="cpu"))
    tiny.adapter(weights, "other", seed=1, lora=LoraSettings(rank=2, alpha=4))
    weights.save_adapter("other", tmp_path / "other")
    config = tmp_path / "other/adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "owner/another"}))
    command = ["train", "sft", "--model", "embedded", "--task", "arithmetic", "--out", str(tmp_path / "on"), "--quiet"]
    for start, wanted in (
        ("embedded", "which holds no adapter"),
        (str(out / "runs/base/seed0"), "which holds no adapter"),
        (str(tmp_path / "nowhere"), "does not exist"),
        (str(tmp_path / "other"), "an adapter on 'owner/another'"),
    ):
        assert main([*command, "--start", start]) == 2
        assert wanted in capsys.readouterr().err
    run = out / "runs/first/seed0"
    assert main(["train", "sft", "--model", str(run), "--task", "arithmetic", "--out", str(tmp_path / "on")]) == 2
    assert f"--model embedded --start {run}" in capsys.readouterr().err


def test_runs_of_a_study_with_different_adapters_do_not_follow_one_another(tmp_path: Path) -> None:
    text = tiny.study_text("a: {recipe: sft}", "b: {recipe: sft, start: a, train: {lora: {rank: 3}}}")
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match="give both the same"):
        run_study(str(tmp_path / "s.yaml"), out=tmp_path / "out")
    assert not (tmp_path / "out" / "plan.json").exists()
