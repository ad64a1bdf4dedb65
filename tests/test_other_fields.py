"""A field that only other recipes have is refused with the reason, before any model is loaded; so is a number out of range."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tiny
from stateshape.cli import main
from stateshape.core.files import BadInput
from stateshape.losses.divergence import Divergence
from stateshape.recipes.dagger import DAgger
from stateshape.recipes.names import BUILT_IN
from stateshape.recipes.opd import OPD
from stateshape.recipes.other_fields import NEEDS, why_not_a_field
from stateshape.recipes.recipe import fields_of, recipe_class
from stateshape.recipes.replay import Replay


def test_every_such_field_is_some_recipe_s_and_has_a_reason_in_all_others():
    for name in NEEDS:
        has = {recipe for recipe in BUILT_IN if name in fields_of(recipe_class(recipe))}
        assert has and has < set(BUILT_IN), name
        for recipe in BUILT_IN:
            why = why_not_a_field(name, recipe_class(recipe))
            assert (why is None) == (recipe in has), (name, recipe)
            assert why is None or why.endswith(", ".join(one for one in BUILT_IN if one in has))


def test_the_reason_names_what_the_recipe_is_made_of():
    assert why_not_a_field("target_temperature", recipe_class("opd_logp")) == (
        "target_temperature needs a teacher's distribution to match in the loss, and this recipe is learner states x teacher "
        "log-prob x policy gradient; recipes that have it: kd, kd_on_teacher, opd, sdft, gkd, dagger, replay"
    )
    assert why_not_a_field("temperatur", recipe_class("opd")) is None  # a slip, not a choice


def test_a_study_file_and_a_command_line_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text = tiny.study_text(
        "tutor: {recipe: sft}", "student: {recipe: opd_logp, teacher: tutor, with: {target_temperature: 0.5}}"
    )
    (tmp_path / "slip.yaml").write_text(text, encoding="utf-8")
    assert main(["study", str(tmp_path / "slip.yaml"), "--out", str(tmp_path / "out"), "--dry-run"]) == 2
    assert "runs.student.with: target_temperature needs a teacher's distribution" in capsys.readouterr().err
    flags = ["--model", "embedded", "--task", "arithmetic", "--teacher", "base", "--out", str(tmp_path / "out")]
    assert main(["train", "opd_logp", *flags, "--target-temperature", "0.5"]) == 2
    told = capsys.readouterr().err
    assert "--target-temperature needs a teacher's distribution" in told and told.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"target_temperature": 0.0}, "target_temperature: got 0.0; expected a number above 0"),
        ({"direction": "jsd", "beta": 2.0}, "beta: got 2.0; expected 0 (forward KL) to 1 (reverse KL)"),
    ],
)
def test_numbers_of_a_divergence_are_checked_with_the_recipe(fields: dict, told: str):
    for recipe in (OPD, recipe_class("kd"), recipe_class("sdft"), DAgger):
        taught = {} if recipe is recipe_class("sdft") else {"teacher": "t"}
        signal = {"signal": "distribution"} if recipe is DAgger else {}
        with pytest.raises(BadInput, match=re.escape(told)):
            recipe(**taught, **signal, **fields)
    with pytest.raises(BadInput, match=re.escape(told)):
        Replay(states="s", signal="teacher-distribution", teacher="t", **fields)


def test_a_mixture_s_distribution_has_a_direction_and_its_continuation_none():
    shared = tiny.weights()
    built = DAgger(teacher="t", signal="distribution", direction="reverse", unit="geometric").build(
        tiny.parts(tiny.teacher(shared))
    )
    assert built.loss == Divergence(direction="reverse")
    with pytest.raises(BadInput, match="direction: got reverse for signal continuation"):
        DAgger(teacher="t", direction="reverse")
