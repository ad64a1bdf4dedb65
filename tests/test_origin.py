"""A run goes on, or is used again, with the content it was begun with: data, base weights, teachers and replayed states."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import tiny
from stateshape.cli import main
from stateshape.core.files import BadInput
from stateshape.embedded import base_folder
from stateshape.study.origin import check_same_origin

Run = Callable[..., tuple[int, str]]
TINY = ["--lr", "1e-3", "--steps", "2", "--batch-prompts", "2", "--train-items", "4", "--lora.rank", "2"]
TRAIN = [*TINY, "--device", "cpu", "--quiet"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> tuple[int, str]:
        code = main(list(args))
        return code, capsys.readouterr().err

    return call


def write_data(path: Path, offset: int) -> None:
    rows = [
        {"prompt": f"9+{k}=", "answer": str(9 + k + offset), "solution": f"9+{k}={9 + k + offset}", "split": "train"}
        for k in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def other_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))


def stop_after_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from stateshape.train import loop

    original = loop.save_checkpoint

    def save(*args: object) -> None:
        original(*args)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_checkpoint", save)


def test_a_run_does_not_go_on_with_other_data_or_other_weights(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data(Path("data.jsonl"), 0)
    shutil.copytree(base_folder(), "m")
    command = ["train", "sft", "--model", "m", "--task", "data.jsonl", "--out", "r", *TRAIN]
    with monkeypatch.context() as patched:
        stop_after_one_step(patched)
        assert run(*command)[0] == 130
    assert not Path("r/.lock").exists()
    before = {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()}

    def refused(wanted: str) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("stateshape.policy.open.load_weights", lambda *_: pytest.fail("a model was loaded"))
            code, told = run(*command)
        assert (code, told.count("\n")) == (2, 1)
        assert wanted in told
        assert {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()} == before

    write_data(Path("data.jsonl"), 1)
    refused("r was started with different data for data (sha256 ")
    write_data(Path("data.jsonl"), 0)
    other_config(Path("m"))
    refused("r was started with different weights of the base model")
    shutil.rmtree("m")
    shutil.copytree(base_folder(), "m")
    assert run(*command)[0] == 0
    assert json.loads(Path("r/run.json").read_text())["num_steps"] == 2
    before = {path: path.read_bytes() for path in Path("r").rglob("*") if path.is_file()}
    write_data(Path("data.jsonl"), 1)
    refused("r was started with different data for data")
    write_data(Path("data.jsonl"), 0)
    (Path("r") / "metrics.jsonl").write_text("")
    before[Path("r/metrics.jsonl")] = b""
    refused("r/metrics.jsonl: was changed after it was finished")


def test_nor_with_another_teacher_or_other_states(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    own = ["--model", "embedded", "--task", "arithmetic", *TRAIN]
    assert run("train", "sft", *own, "--out", "t")[0] == 0
    pupil = ["train", "opd_continuation", *own, "--teacher", "t", "--max-new-tokens", "4", "--rollout-tokens", "4"]
    replay = ["train", "replay", *own, "--states", "t", "--signal", "gold-tokens"]
    assert run(*pupil, "--out", "pupil")[0] == 0
    assert run(*replay, "--out", "again")[0] == 0
    sources = json.loads(Path("pupil/run.json").read_text())["provenance"]["sources_sha256"]
    assert set(sources) == {"teacher t", "base of teacher t"}
    assert run(*pupil, "--out", "pupil")[0] == 0, "finished, and nothing else"
    shutil.rmtree("t")
    assert run("train", "sft", *own, "--out", "t", "--seed", "1")[0] == 0
    assert "pupil was started with different weights for teacher t" in run(*pupil, "--out", "pupil")[1]
    assert "again was started with different states t" in run(*replay, "--out", "again")[1]
    adapter = Path("t/adapter/adapter_model.safetensors")
    adapter.write_bytes(adapter.read_bytes()[:-1] + b"x")
    for out in ("pupil", "new"):
        code, told = run(*pupil, "--out", out)
        assert (code, told.count("\n")) == (2, 1)
        assert "adapter_model.safetensors: was changed after it was finished" in told
    assert not Path("new").exists()
    assert "was changed" in run("drift", "embedded", "t", "--task", "arithmetic")[1]


def test_a_study_refuses_other_weights_under_the_models_name(run: Run) -> None:
    shutil.copytree(base_folder(), "m")
    Path("s.yaml").write_text(tiny.study_text("one: {recipe: sft}").replace("model: embedded", "model: m"))
    assert run("study", "s.yaml", "--out", "s", "--quiet")[0] == 0
    other_config(Path("m"))
    code, told = run("study", "s.yaml", "--out", "s", "--quiet")
    assert (code, told.count("\n")) == (2, 1)
    assert "s was started with different weights of the base model" in told
    for path in Path("s").rglob("manifest.json"):
        path.unlink()
    run_json = Path("s/runs/one/seed0/run.json")
    record = json.loads(run_json.read_text())
    record["provenance"]["weights_sha256"] = "0" * 64
    run_json.write_text(json.dumps(record))
    code, told = run("report", "s")
    assert code == 2
    assert "weights: got" in told and "compare runs of one base only" in told


def test_what_an_older_record_does_not_say_is_not_compared(tmp_path: Path) -> None:
    now = {"weights_sha256": "a", "data_sha256": {"t": "b"}, "sources_sha256": {"teacher x": "c", "states y": None}}
    for begun in ({}, {"weights_sha256": None, "data_sha256": {}}, {"sources_sha256": {"states y": "d"}}, dict(now)):
        check_same_origin(tmp_path, begun, now)
    with pytest.raises(BadInput, match="different weights for teacher x"):
        check_same_origin(tmp_path, {"sources_sha256": {"teacher x": "0"}}, now)
