"""The schema of study files takes what the package takes, and refuses what it refuses."""

from __future__ import annotations

import copy
import json
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
import yaml

from stateshape.cli import main
from stateshape.core.files import BadInput
from stateshape.core.json_schema import field_docs
from stateshape.recipes.names import BUILT_IN
from stateshape.study.plan import make_plan
from stateshape.study.schema import study_schema
from stateshape.study.study_file import StudyFile, presets, read_study_file
from stateshape.train.settings import TrainSettings

SMALL: dict[str, Any] = {
    "study": "small",
    "model": "embedded",
    "target": {"task": "arithmetic", "limit": 10, "samples": {"n": 2}, "read": {"kind": "task"}},
    "retention": [{"task": "facts"}, {"lm_eval": "arc_easy", "num_fewshot": 0}],
    "drift": {"prompts": 8},
    "eval": {"every": 0.5, "tasks": ["facts"]},
    "along": {"points": 2},
    "train": {"lr": "1e-3", "lora": {"rank": 2, "targets": ["q_proj"]}, "band": {"low": 0.1}},
    "execute": {"cpus": 2},
    "claims": {"H1": {"text": "x", "effects": [{"contrast": ["taught", "tuned"], "dose": {"at": 0.1}}]}},
    "runs": {
        "tuned": {"recipe": "sft", "label": 1.10, "train": {"steps": 2}},
        "taught": {"recipe": "opd_continuation", "teacher": "tuned", "with": {"cut": {"low": 0.1}, "rollout_tokens": 8}},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(json.dumps(study_schema()))
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def is_read(study: object, folder) -> bool:
    """Whether the package takes the file."""
    (folder / "s.yaml").write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    try:
        make_plan(read_study_file(str(folder / "s.yaml")))
    except BadInput:
        return False
    return True


def mappings(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a study's mappings are whose keys are fields, not names that the user gives."""
    if isinstance(value, list):
        return [found for at, one in enumerate(value) for found in mappings(one, (*path, at))]
    if not isinstance(value, dict):
        return []
    below = [found for key, one in value.items() for found in mappings(one, (*path, key))]
    return below if path in (("runs",), ("claims",)) else [path, *below]


@pytest.mark.parametrize("name", presets())
def test_every_preset_fits_the_schema(validator, name):
    text = (files("stateshape.study") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    assert [error.message for error in validator.iter_errors(yaml.safe_load(text))] == []


def test_the_starting_file_fits_the_schema_that_its_first_line_names(validator, tmp_path, capsys):
    assert main(["new", "study", str(tmp_path / "mine")]) == 0
    first, *_ = (tmp_path / "mine.yaml").read_text(encoding="utf-8").splitlines()
    assert first == "# yaml-language-server: $schema=study.schema.json"
    assert json.loads((tmp_path / "study.schema.json").read_text(encoding="utf-8")) == validator.schema
    validator.validate(yaml.safe_load((tmp_path / "mine.yaml").read_text(encoding="utf-8")))
    capsys.readouterr()
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == validator.schema
    assert main(["schema", "--out", str(tmp_path / "other.json")]) == 0
    assert json.loads((tmp_path / "other.json").read_text(encoding="utf-8")) == validator.schema


def test_a_schema_that_is_there_already_is_left_alone(tmp_path):
    (tmp_path / "study.schema.json").write_text("mine")
    assert main(["new", "study", str(tmp_path / "mine")]) == 0
    assert (tmp_path / "study.schema.json").read_text() == "mine"


def test_a_misspelt_field_is_refused_wherever_it_is_and_by_both(validator, tmp_path):
    assert validator.is_valid(SMALL)
    assert is_read(SMALL, tmp_path)
    places = mappings(SMALL)
    assert len(places) > 15
    for path in places:
        wrong = copy.deepcopy(SMALL)
        inner: Any = wrong
        for key in path:
            inner = inner[key]
        inner["no_such_field"] = 1
        assert not validator.is_valid(wrong), path
        assert not is_read(wrong, tmp_path), path


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("seeds",), 0),
        (("target", "limit"), "ten"),
        (("target", "read", "kind"), "novel"),
        (("train", "lora"), 8),
        (("train", "schedule"), "linear"),
        (("runs", "tuned", "recipe"), "sfft"),
        (("runs", "taught", "with", "cut", "low"), "deep"),
        (("drift", "hidden"), "perhaps"),
        (("model",), None),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_both(validator, tmp_path, path, value):
    wrong = copy.deepcopy(SMALL)
    inner: Any = wrong
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert not validator.is_valid(wrong)
    assert not is_read(wrong, tmp_path)


@pytest.mark.parametrize("name", ["study", "model", "target", "retention", "runs"])
def test_a_field_that_must_be_there_is_asked_for_by_both(validator, tmp_path, name):
    wrong = {key: value for key, value in SMALL.items() if key != name}
    assert not validator.is_valid(wrong)
    assert not is_read(wrong, tmp_path)


def test_fields_carry_what_is_said_of_them(validator):
    told = validator.schema["definitions"]["TrainSettings"]["properties"]
    assert told["lr"]["description"] == "Peak learning rate of AdamW."
    assert {name: one.get("description") for name, one in told.items() if "description" in one} == field_docs(
        TrainSettings
    )
    assert "description" in validator.schema["properties"]["servers"]
    assert set(validator.schema["properties"]) == set(StudyFile.__dataclass_fields__)
    ruled = [
        one["if"]["properties"]["recipe"]["const"] for one in validator.schema["definitions"]["RunChoice"]["allOf"]
    ]
    assert ruled == list(BUILT_IN)
