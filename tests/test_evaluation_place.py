"""Where an evaluation may be written: it never takes the place of another one unasked, and says of what it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stateshape.cli import main
from stateshape.core.files import BadInput, read_json
from stateshape.core.manifest import changes
from stateshape.embedded import base_folder
from stateshape.evals.evaluate import read_about, read_summaries
from stateshape.policy.fingerprint import weights_sha256
from stateshape.policy.source import Resolved
from stateshape.study.evaluation import check_names_files, first_other, planned_evaluation
from stateshape.tasks.load import load_task

Eval = Callable[..., tuple[int, str]]
TINY = ["--lr", "1e-3", "--steps", "1", "--batch-prompts", "2", "--train-items", "4", "--lora.rank", "2", "--quiet"]
ROW = '{{"prompt": "3+4=", "answer": "{}", "split": "{}", "solution": "3+4={}"}}\n'


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Eval:
    """Exit code and stderr of `eval SOURCE --task TASK --out o ...`."""
    monkeypatch.chdir(tmp_path)

    def call(source: str, task: str, *more: str, out: str = "o") -> tuple[int, str]:
        code = main(["eval", source, "--task", task, "--out", out, "--quiet", "--device", "cpu", *more])
        return code, capsys.readouterr().err

    return call


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_summary_says_of_what_it_is(evaluate: Eval) -> None:
    assert evaluate("embedded", "facts", "--limit", "3")[0] == 0
    about = json.loads(Path("o/evals/summary.json").read_text())["facts"]["evaluation"]
    wanted: dict[str, Any] = {
        "model": "embedded",
        "weights_sha256": weights_sha256("embedded"),
        "adapter": None,
        "task": "facts",
        "data_sha256": load_task("facts").data_sha256,
        "shots": 0,
        "limit": 3,
        "num_items": 3,
        "max_new_tokens": None,
        "dtype": "float32",
        "device": "cpu",
    }
    assert {name: about[name] for name in wanted} == wanted
    assert {"stateshape", "torch", "transformers"} <= set(about["packages"])
    assert about["date"].startswith("20")


def test_a_smaller_one_does_not_replace_a_larger_one_unasked(evaluate: Eval) -> None:
    assert evaluate("embedded", "facts", "--limit", "4")[0] == 0
    before = contents(Path("o"))
    code, told = evaluate("embedded", "facts", "--limit", "2")
    assert (code, told.count("\n")) == (2, 1)
    assert "is from a different evaluation (limit: 4 there, 2 now)" in told and "--overwrite" in told
    assert contents(Path("o")) == before
    assert evaluate("embedded", "facts", "--limit", "4")[0] == 0, "the same again"
    assert contents(Path("o"))["evals/facts.jsonl"] == before["evals/facts.jsonl"]
    assert evaluate("embedded", "facts", "--limit", "2", "--overwrite")[0] == 0
    assert read_summaries(Path("o"))["facts"]["mc1"].n == 2


def test_other_data_shots_and_weights_under_one_name_are_refused(evaluate: Eval) -> None:
    for folder, answer in (("x", 7), ("y", 8)):
        Path(folder).mkdir()
        Path(folder, "t.jsonl").write_text(ROW.format(answer, "test", answer))
    assert evaluate("embedded", "x/t.jsonl")[0] == 0
    assert evaluate("embedded", "y/t.jsonl")[1].count("data: x/t.jsonl (") == 1
    shutil.copy("x/t.jsonl", "facts.jsonl")
    assert evaluate("embedded", "facts", "--limit", "2")[0] == 0
    assert "data: facts (" in evaluate("embedded", "facts.jsonl")[1]
    assert evaluate("embedded", "exam", "--limit", "2")[0] == 0
    assert "(shots: 0 there, 1 now)" in evaluate("embedded", "exam", "--limit", "2", "--shots", "1")[1]
    shutil.copytree(base_folder(), "m")
    assert evaluate("m", "x/t.jsonl")[0] == 0, "the same weights in another folder"
    assert evaluate("m", "x/t.jsonl", "--dtype", "bfloat16")[1].count("dtype: float32 there, bfloat16 now") == 1
    config = json.loads(Path("m/config.json").read_text())
    Path("m/config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    assert "model: m there, m now, with other content" in evaluate("m", "x/t.jsonl")[1]
    Path("x/t.jsonl").write_text(ROW.format(9, "test", 9))
    assert "data: x/t.jsonl (" in evaluate("embedded", "x/t.jsonl")[1], "the same path, other rows"


def test_an_older_summary_is_read_and_not_replaced_unasked(evaluate: Eval) -> None:
    assert evaluate("embedded", "facts", "--limit", "2")[0] == 0
    path = Path("o/evals/summary.json")
    entries = json.loads(path.read_text())
    del entries["facts"]["evaluation"]
    path.write_text(json.dumps(entries))
    assert read_about(Path("o"), "facts") is None
    assert read_summaries(Path("o"))["facts"]["mc1"].n == 2
    assert "does not name its model" in evaluate("embedded", "facts", "--limit", "2")[1]
    assert evaluate("embedded", "exam", "--limit", "2")[0] == 0, "another task beside it"


def test_what_is_compared_where_content_is_not_known() -> None:
    now = planned_evaluation(
        Resolved("owner/name", None), load_task("arithmetic"), named="arithmetic", limit=None, shots=0
    )
    assert now.weights_sha256 is None
    assert first_other(now, now) is None
    assert first_other(replace(now, model="owner/other"), now) == "model: owner/other there, owner/name now"
    assert first_other(replace(now, adapter="a"), now) == "adapter: a there, none now"
    assert first_other(replace(now, weights_sha256="a"), replace(now, weights_sha256="b", model="other")) is not None
    assert first_other(replace(now, limit=20), now) == "limit: 20 there, all now"
    assert first_other(replace(now, max_new_tokens=8), now) == f"max_new_tokens: 8 there, {now.max_new_tokens} now"


def test_a_runs_folder_takes_its_own_evaluations_and_keeps_its_manifest_right(evaluate: Eval) -> None:
    assert main(["train", "sft", "--model", "embedded", "--task", "arithmetic", "--out", "run", *TINY]) == 0
    assert changes(Path("run")) == []
    assert evaluate("embedded", "facts", "--limit", "2", out="run")[1].count("the folder of a run") == 1
    assert evaluate("run", "facts", "--limit", "2", out="run")[0] == 0
    assert evaluate("run/adapter", "exam", "--limit", "2", out="run")[0] == 0
    listed = read_json(Path("run/manifest.json"), dict[str, Any])["files"]
    assert {"run.json", "evals/facts.jsonl", "evals/exam.jsonl", "evals/summary.json"} <= set(listed)
    assert changes(Path("run")) == []
    rows = Path("run/evals/facts.jsonl")
    rows.write_text(rows.read_text().replace('"is_correct": ', '"is_correct":', 1))
    for args in (("run", "exam"), ("run/adapter", "exam")):
        code, told = evaluate(*args, "--limit", "2", out="elsewhere")
        assert (code, told.count("\n")) == (2, 1)
        assert "run/evals/facts.jsonl: was changed after it was finished" in told
    assert not Path("elsewhere").exists()
    assert evaluate("run", "exam", "--limit", "2", "--accept-changes", out="elsewhere")[0] == 0
    accepted = read_json(Path("run/manifest.json"), dict[str, Any])["accepted"]
    assert [change["file"] for change in accepted] == ["evals/facts.jsonl"]
    assert evaluate("run", "exam", "--limit", "2", out="elsewhere")[0] == 0


def test_a_name_too_long_for_the_files_is_refused_before_the_work(evaluate: Eval) -> None:
    task = f"{'a' * 240}.jsonl"
    Path(task).write_text(ROW.format(7, "test", 7))
    code, told = evaluate("embedded", task)
    assert (code, told.count("\n")) == (2, 1)
    assert "task: got a name of 240 bytes; expected at most 229" in told
    check_names_files("a" * 229)
    with pytest.raises(BadInput, match="230 bytes"):
        check_names_files("é" * 115)
