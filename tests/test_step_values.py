"""What a step shows of its numbers: the loss, and what the method optimises."""

import io

import pytest
from rich.console import Console

from stateshape.cli.terminal import JsonLines, Terminal, values_in_words
from stateshape.core.records import StepRecord
from stateshape.core.step_values import optimised, reward_parts, telling


def record(loss, **stats):
    return StepRecord(
        step=0, loss=loss, grad_norm=1.0, lr=1e-4, num_supervised=1, num_rows=1, seconds={}, origin_shares={},
        stats={name.replace("__", "/"): value for name, value in stats.items()},
    )  # fmt: skip


def test_a_reward_is_shown_beside_a_loss_that_is_noise():
    step = record(0.0208, reward=0.4375, share_zero_variance_groups=0.5, ratio=1.0)
    assert telling(step) == {"loss": 0.0208, "reward": 0.4375}
    assert values_in_words(telling(step)) == "loss 0.0208, reward 0.438"


def test_a_combination_shows_each_term():
    step = record(0.5, rl__reward=0.25, kd__kl_nats=0.125, rl__loss=0.1)
    assert telling(step) == {"loss": 0.5, "reward, rl": 0.25, "KL, kd": 0.125}


def test_the_parts_of_a_summed_reward_have_headings_of_their_own_and_stay_out_of_the_bar():
    step = record(0.5, reward=0.25, **{"rewards/short/mean": 0.5, "rl/rewards/my/file.py:f/mean": 1.0})
    assert reward_parts([step]) == {
        "rewards/short/mean": "reward short",
        "rl/rewards/my/file.py:f/mean": "reward my/file.py:f, rl",
    }
    assert telling(step) == {"loss": 0.5, "reward": 0.25}


def test_what_is_missing_is_left_out():
    assert telling(record(None, reward=None)) == {}
    assert values_in_words(None) == ""


def test_names_are_those_of_any_step():
    assert optimised([record(0.1), record(0.1, accuracy=0.5)]) == {"accuracy": "accuracy"}


def test_the_last_line_of_a_bar_has_the_values(monkeypatch):
    monkeypatch.setattr("stateshape.cli.terminal.SHOW_AFTER_S", -1.0)
    terminal = Terminal()
    terminal.console = Console(file=io.StringIO(), width=80)
    tick = terminal.track("train rl", "steps")
    tick(1, 2, {"loss": 0.5})
    tick(2, 2, {"loss": 0.25, "reward": 0.75})
    assert terminal.console.file.getvalue().rstrip().endswith("s, loss 0.25, reward 0.75")


def test_json_events_have_a_line_per_step(capsys: pytest.CaptureFixture[str]):
    tick = JsonLines().track("train rl", "steps")
    tick(1, 2, {"reward": 0.5})
    assert '"event": "step", "what": "train rl", "done": 1, "total": 2, "reward": 0.5' in capsys.readouterr().err
