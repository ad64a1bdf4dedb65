"""Starting files: each works as it is, and none overwrites a file."""

import pytest

from stateshape.cli import main


def test_a_new_study_can_be_planned(tmp_path, capsys):
    assert main(["new", "study", str(tmp_path / "mine")]) == 0
    assert f"next: stateshape study {tmp_path / 'mine.yaml'} --dry-run" in capsys.readouterr().out
    assert main(["study", str(tmp_path / "mine.yaml"), "--dry-run"]) == 0
    assert "distilled" in capsys.readouterr().out


def test_a_new_recipe_trains(tmp_path):
    file, run = str(tmp_path / "mine.py"), str(tmp_path / "run")
    assert main(["new", "recipe", file]) == 0
    train = ["train", f"{file}:Mine", "--model", "embedded", "--task", "arithmetic", "--teacher", "embedded"]
    assert main([*train, "--out", run, "--steps", "1", "--batch-prompts", "2", "--rollout-tokens", "4", "--quiet"]) == 0


def test_a_new_task_is_read(tmp_path, capsys):
    assert main(["new", "task", str(tmp_path / "mine.jsonl")]) == 0
    assert main(["data", str(tmp_path / "mine.jsonl")]) == 0
    assert "[prompt] Question: Ana has 3 apples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"), [("there.yaml", "exists; expected a new file"), ("none/mine.yaml", "is not a folder")]
)
def test_nothing_is_overwritten_or_made_up(tmp_path, capsys, name, message):
    (tmp_path / "there.yaml").write_text("mine")
    assert main(["new", "study", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "there.yaml").read_text() == "mine"
