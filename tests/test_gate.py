"""The gate of a comparison of state sources: what it measures, and when it does not hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import tiny
from stateshape.cli import main
from stateshape.core.files import BadInput
from stateshape.core.gate_records import GateCheck
from stateshape.policy.open import open_weights
from stateshape.policy.policy import Policy
from stateshape.policy.settings import ModelSettings
from stateshape.study.gate import GateSettings, difference_check, gate, score_checks, state_checks, two_halves
from stateshape.study.single import generation_task
from stateshape.tasks.load import load_task

SMALL = GateSettings(prompts=12, max_new_tokens=24)


def test_a_check_holds_from_its_bound_on_and_never_without_a_value() -> None:
    values = (0.05, 0.04, None)
    assert [GateCheck(name="", value=value, least=0.05).holds for value in values] == [True, False, False]


def test_a_difference_is_paired() -> None:
    check = difference_check("", [1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0], 0.05)
    assert check.value == 0.5
    assert check.stderr == pytest.approx((1 / 3) ** 0.5 / 2)  # of 1, 0, 0, 1
    assert difference_check("", [1.0], [0.0], 0.05).stderr is None


def test_retention_is_the_mean_over_its_tasks() -> None:
    scores = {
        "base": {"t": [1.0, 1.0], "a": [1.0, 1.0], "b": [1.0, 0.0]},
        "teacher": {"t": [1.0, 0.0], "a": [1.0, 0.0], "b": [1.0, 0.0]},
    }
    target, retention = score_checks(scores, "t", ["a", "b"], 0.05)
    assert (target.value, retention.value) == (0.5, 0.25)
    assert retention.stderr == pytest.approx(0.25)  # half of the root of .5 squared and 0
    assert len(score_checks(scores, "t", [], 0.05)) == 1


def test_the_states_compared_are_of_other_prompts_than_the_base_s_own() -> None:
    target = generation_task("arithmetic_validation", None, limit=4)
    own, others = two_halves(target, None, 20)
    assert {item.prompt for item in own}.isdisjoint(item.prompt for item in others)
    assert [*own, *others] == list(target.train[-40:])
    with pytest.raises(BadInput, match=r"prompts: got 3000 per side; expected at most 2000, half"):
        two_halves(target, None, 3000)


def test_a_teacher_that_is_the_base_has_nothing_to_compare_and_a_foreign_style_has() -> None:
    weights = open_weights("embedded", ModelSettings(device="cpu"))
    same = tiny.adapter(weights, "same", seed=0)  # its B is zero
    target, planted = (generation_task(f"arithmetic_{name}", None, limit=6) for name in ("validation", "planted"))
    kept = [load_task("facts_validation", limit=6)]
    record = gate(Policy(weights, None), same, target, kept, planted, settings=SMALL, seed=0, named="same")
    by_name = {check.name: check for check in record.checks}
    assert not record.holds
    for name in ("base minus teacher, target", "base minus teacher, retention"):
        assert (by_name[name].value, by_name[name].stderr) == (0.0, 0.0)
    assert by_name["teacher minus learner, right from learner prefixes"].value == 0.0
    assert record.right["teacher"] == record.right["learner"]
    assert record.num_items == {"arithmetic_validation": 6, "facts_validation": 6}
    gaps = {name: one.reachability_gap_nats for name, one in record.states.items()}
    assert gaps["dataset"] is not None and gaps["learner"] is not None
    assert gaps["dataset"] > 1.0 > abs(gaps["learner"])
    assert by_name["dataset states, |reachability gap| (nats)"].holds


def test_states_that_are_missing_are_not_asked_for() -> None:
    assert state_checks({}, SMALL) == []


def test_the_command_says_what_holds_and_writes_it_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    train = "--steps 1 --batch-prompts 2 --train-items 4 --lora.rank 2 --device cpu --quiet"
    assert main(["train", "sft", "--model", "embedded", "--task", "arithmetic", "--out", "t", *train.split()]) == 0
    sizes = "--task arithmetic_validation --limit 4 --prompts 4 --max-new-tokens 8 --device cpu"
    capsys.readouterr()
    assert main(["gate", "t", "--retention", "facts_validation", *sizes.split(), "--out", "gate.json"]) == 0
    told = capsys.readouterr().out
    record = json.loads(Path("gate.json").read_text())
    assert told.startswith("t: the gate does not hold\n")
    assert all(check["name"] in told for check in record["checks"])
    assert (record["data"], set(record["states"])) == (None, {"learner", "teacher"})


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ("none --task arithmetic", "teacher: got 'none', a model or nothing"),
        ("embedded --task facts", "task: got 'facts', which is multiple choice"),
        ("embedded --task arithmetic", "teacher: got 'embedded', a model or nothing"),
        ("embedded --task arithmetic --prompts 0", "prompts: got 0"),
        ("embedded --task arithmetic --prompts 9999", "prompts: got 9999 per side"),
        ("embedded --task arithmetic --low 0.8", "cut: got low 0.8, high 0.7"),
        ("embedded --task arithmetic --data-task exam", "task: got 'exam', which is multiple choice"),
    ],
)
def test_mistakes_are_one_line_before_a_model_loads(
    flags: str, wanted: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stateshape.policy.open.load_weights", lambda *_: pytest.fail("a model was loaded"))
    assert main(["gate", *flags.split()]) == 2
    error = capsys.readouterr().err
    assert wanted in error
    assert error.count("\n") == 1
