"""Every file that a study leaves is documented, and every file that is documented is left."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import tiny
from stateshape.cli import main
from stateshape.core import records

DOCS = (Path(__file__).parents[1] / "docs" / "studies.md").read_text(encoding="utf-8")
TEXT = "along: {points: 2, samples: true}\n" + tiny.study_text(
    "tutor: {recipe: sft}",
    "filtered: {recipe: rft, with: {rollout_tokens: 4, keep: all}}",
    "further: {recipe: sft, start: tutor}",
    "theirs: {checkpoint: embedded}",
    "whole: {recipe: sft, train: {parameters: full, lr: 1.0e-5}}",
).replace("task: arithmetic", "task: arithmetic, samples: {n: 2}").replace(
    "model: embedded", "model: embedded\nlocality: {share: 10}"
)
WHILE_IT_GOES = {"checkpoint-*.pt", "supervision.jsonl", ".*.tmp", "served/*"}
NOT_HERE = {
    "predictors.json",
    "served.jsonl",
    "failed.json",
    "jobs/*",
}  # with 20 runs, on servers, with failures, on SLURM


def documented(heading: str) -> set[str]:
    """Patterns in the first column of the table that begins with `heading`."""
    table = DOCS.partition(f"| {heading} |")[2].partition("\n\n")[0]
    names = [name for row in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])]
    return {re.sub(r"<\w+>", "*", name) for name in names}


STUDY, RUN = documented("file of a study"), documented("file of a run")


def left(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def unmatched(names: Iterable[str], patterns: set[str]) -> set[str]:
    return {name for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns)}


def unused(names: set[str], patterns: set[str]) -> set[str]:
    return {pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    (folder / "tiny.yaml").write_text(TEXT, encoding="utf-8")
    out = folder / "out"
    assert main(["study", str(folder / "tiny.yaml"), "--out", str(out), "--profile", "--quiet"]) == 0
    return out


def test_what_a_study_leaves_is_what_the_documentation_lists(out):
    of_runs = {name for name in left(out) if name.startswith("runs/")}
    of_study = left(out) - of_runs
    files = STUDY - {"runs/*/seed*/"}
    assert unmatched(of_study, files) == set()
    assert unused(of_study, files) <= NOT_HERE
    in_runs = {name.split("/", 3)[3] for name in of_runs}
    assert unmatched(in_runs, RUN) == set()
    of_choices = {
        "adapter/chat_template.jinja",
        "profile.json",
        "served.jsonl",
        "eval_steps.jsonl",
        "best.json",
        "tensorboard/*",
        "along_candidates.jsonl",
    }
    assert unused(in_runs, RUN) <= of_choices
    assert not any(fnmatchcase(name, pattern) for name in in_runs for pattern in WHILE_IT_GOES)


def test_the_records_module_lists_the_same_files():
    listed = set(re.findall(r"[\w./*<>-]*[.][\w*]+|[\w<>-]+/\*", (records.__doc__ or "").split("docs/studies.md")[0]))
    listed = {
        re.sub(r"<\w+>", "*", name) for name in listed if not name.startswith(("core.", "study/", "record/", "train/"))
    }
    assert (RUN | STUDY | WHILE_IT_GOES) - {"runs/*/seed*/"} <= listed


def test_what_there_is_while_a_run_goes_is_documented(tmp_path, monkeypatch):
    calls = []

    def stopping(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("stateshape.study.training.told_early", lambda *given: stopping)
    (tmp_path / "tiny.yaml").write_text(TEXT, encoding="utf-8")
    assert main(["study", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "out"), "--quiet"]) == 130
    (folder,) = [path for path in (tmp_path / "out/runs").glob("*/seed0") if path.parent.name != "base"]
    there = left(folder)
    assert unmatched(there, RUN | WHILE_IT_GOES) == set()
    assert unused(there, WHILE_IT_GOES) <= {".*.tmp", "served/*"}  # for a moment; on servers
    assert all(f"`{name}`" in DOCS for name in WHILE_IT_GOES)
