"""`train --config FILE`: its keys are the flags, flags on the command line win, and a mistake is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stateshape.cli import main
from stateshape.cli.config_file import flags_of, with_config
from stateshape.cli.train import train_command

SETTINGS = """
model: embedded
task: arithmetic
batch-prompts: 2
train_items: 8
lr: 1e-3
epochs: 3
lora: {rank: 2, alpha: 4, targets: [q_proj, v_proj]}
band.high: 0.9
quiet: true
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(SETTINGS, encoding="utf-8")
    return path


def arguments(config: Path, *flags: str, recipe: str = "sft") -> list[str]:
    given = ["--config", str(config), *flags]
    return with_config(given, train_command(recipe), prog=f"stateshape train {recipe}")[: -len(given)]


def test_a_run_takes_its_settings_from_the_file_and_flags_win(config, tmp_path):
    out = tmp_path / "run"
    assert main(["train", "sft", "--config", str(config), "--out", str(out), "--steps", "1", "--lora.rank", "3"]) == 0
    train = json.loads((out / "run.json").read_text())["settings"]["train"]
    assert (train["steps"], train["epochs"], train["batch_prompts"], train["lr"]) == (1, None, 2, 1e-3)
    assert train["lora"] == {"rank": 3, "alpha": 4, "targets": ["q_proj", "v_proj"]}
    assert train["band"] == {"low": 0.0, "high": 0.9}


def test_the_keys_are_the_flags_of_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["train", "grpo_opd", "--help"])
    told = capsys.readouterr().out
    names = ["--" + name.replace("_", "-") for name in flags_of(train_command("grpo_opd"))]
    assert len(names) > 50
    assert [name for name in names if name not in told] == []


@pytest.mark.parametrize(
    ("line", "flags"),
    [
        ("lr: 1e-3", ["--lr=1e-3"]),
        ("lora: {rank: 2, alpha: 4}", ["--lora.rank=2", "--lora.alpha=4"]),
        ("lora.rank: 2", ["--lora.rank=2"]),
        ("as_chat: false", ["--no-as-chat"]),
        ("as-chat: true", ["--as-chat"]),
        ("steps: null", ["--steps=None"]),
        ("report_to: [tensorboard, trackio]", ["--report-to", "tensorboard", "trackio"]),
        ("train: full", ["--train=full"]),
        ("eval: {every: 0.5, limit: 8}", ["--eval.every=0.5", "--eval.limit=8"]),
    ],
)
def test_a_setting_becomes_its_flag(tmp_path, line, flags):
    (tmp_path / "one.yaml").write_text(line, encoding="utf-8")
    assert arguments(tmp_path / "one.yaml") == flags


def test_a_flag_that_excludes_a_setting_replaces_it(config):
    assert "--epochs=3" in arguments(config)
    assert "--epochs=3" not in arguments(config, "--steps", "4")
    assert "--task=arithmetic" not in arguments(config, "--data=mine.jsonl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora: {rnk: 3}", "unknown key 'lora.rnk'; expected a flag of stateshape train sft; did you mean lora.rank?"),
        ("max_seq_len: 4", "unknown key 'max_seq_len'; expected a flag of stateshape train sft; see stateshape"),
        ("processes: 2", "got processes; expected it on the command line, as --processes"),
        ("quiet: 3", "quiet: got 3; expected true or false"),
        ("task: yes", "task: got True; expected a text or number; put a text in quotation marks"),
        ("lr: [1]", "lr: got [1]; expected one value, as --lr takes it"),
        ("lora: {rank: 1}\nlora.rank: 2", "got lora.rank twice; expected each setting once"),
        ("lora: {rank: x}", "--lora.rank"),
        ("- 1", "got list; expected a mapping of flags"),
        ("lr: 1\nlr: 2", "line 2: got 'lr' twice"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_and_nothing_is_written(tmp_path, capsys, text, message):
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    out = tmp_path / "run"
    given = ["--model", "embedded", "--task", "arithmetic", "--out", str(out)]
    if text == "task: yes":
        given = [*given[:2], *given[4:]]
    assert main(["train", "sft", "--config", str(tmp_path / "bad.yaml"), *given]) == 2
    told = capsys.readouterr().err.strip()
    assert message in told
    assert "\n" not in told
    assert not out.exists()


def test_a_file_that_is_not_there_or_is_given_twice_is_refused(config, tmp_path, capsys):
    assert main(["train", "sft", "--config", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "run")]) == 2
    assert "none.yaml: no such file" in capsys.readouterr().err
    assert main(["train", "sft", "--config", str(config), f"--config={config}", "--out", str(tmp_path / "run")]) == 2
    assert "config: got 2 files; expected one" in capsys.readouterr().err
