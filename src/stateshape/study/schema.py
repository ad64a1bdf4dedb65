"""The JSON Schema of study files, for editors: made from the classes that check such a file, and each recipe's own fields.

What depends on other fields is left to `stateshape study FILE --dry-run`: whether a named run is there, which numbers fit
together, and recipes of your own. Loads no model.
"""

from __future__ import annotations

from typing import Any

from stateshape.core.json_schema import OF_TEXT, Schema, fields_schema, schema_of
from stateshape.recipes.names import BUILT_IN
from stateshape.recipes.recipe import Recipe, recipe_class
from stateshape.study.study_file import RunChoice, StudyFile, TaskChoice
from stateshape.tasks.harness import HARNESS, HarnessOptions
from stateshape.train.settings import TrainSettings

DRAFT = "http://json-schema.org/draft-07/schema#"


def study_schema() -> Schema:
    """The schema of a whole study file."""
    known: dict[str, Schema] = {}
    train = schema_of(TrainSettings, known)
    whole = fields_schema(StudyFile, known)
    whole["properties"]["train"] = {**train, "description": "Settings that all runs share."}
    known[TaskChoice.__name__] = task_schema(known)
    known[RunChoice.__name__] = run_schema(train, known)
    return {"$schema": DRAFT, "title": "A study of stateshape", **whole, "definitions": dict(sorted(known.items()))}


def task_schema(known: dict[str, Schema]) -> Schema:
    """A task by its name, or one of lm-evaluation-harness with that one's options (tasks/harness.py)."""
    made = fields_schema(TaskChoice, known)
    options = fields_schema(HarnessOptions, known)["properties"]
    named = {**OF_TEXT, "description": "A task of lm-evaluation-harness, in place of task."}
    made["properties"] |= {HARNESS: named, **options}
    del made["required"]
    return made | {"oneOf": [{"required": ["task"]}, {"required": [HARNESS]}]}


def run_schema(train: Schema, known: dict[str, Schema]) -> Schema:
    """A run: its own training settings, and `with` as its recipe has it."""
    made = fields_schema(RunChoice, known)
    properties: dict[str, Any] = made["properties"]
    del properties["settings"]
    properties["recipe"] = {
        "anyOf": [{"enum": list(BUILT_IN)}, {"type": "string", "pattern": ":"}, {"type": "null"}],
        "description": "A built-in recipe (stateshape methods), or one of your own: file.py:Class.",
    }
    properties["train"] = {**train, "description": "Settings of this run, over those that all runs share."}
    properties["with"] = {"type": "object", "description": "The recipe's own settings."}
    return made | {"allOf": [recipe_rule(name, recipe_class(name), known) for name in BUILT_IN]}


def recipe_rule(name: str, recipe: type[Recipe], known: dict[str, Schema]) -> Schema:
    """Where a run has this recipe, `with` has its fields; its sources may stand beside `with` instead."""
    fields = fields_schema(recipe, known)
    fields.pop("required", None)
    then = {"properties": {"with": fields}}
    return {"if": {"properties": {"recipe": {"const": name}}, "required": ["recipe"]}, "then": then}
