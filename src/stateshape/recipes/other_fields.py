"""Why a recipe lacks a field that other recipes have: what the field needs, and where it is. Loads no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stateshape.recipes.names import BUILT_IN
from stateshape.recipes.recipe import Recipe, fields_of, made_of_by, recipe_class

DISTRIBUTION = "a teacher's distribution to match in the loss"
TOGETHER = "states that teacher and learner write together"
NEEDS: Mapping[str, str] = {
    "target_temperature": DISTRIBUTION,
    "direction": DISTRIBUTION,
    "beta": DISTRIBUTION,
    "unit": TOGETHER,
    "aggregate": TOGETHER,
    "teacher_temperature": "text that a teacher writes",
    "max_new_tokens": "text that is written behind a state",
    "rollout_tokens": "samples of the learner",
    "samples": "samples of the learner",
    "temperature": "samples of the learner",
    "cut": "a response that another policy goes on from",
    "prefixes": "prefixes of the learner",
    "reward": "a reward",
    "group": "several samples whose rewards are compared",
    "teacher": "a teacher",
    "share": "the recorded states of another run",
    "chosen": "the recorded states of another run",
}


def why_not_a_field(name: str, recipe: type[Recipe]) -> str | None:
    """One sentence; None for a field of this recipe, and for what is no recipe's field."""
    if name in fields_of(recipe) or name not in NEEDS:
        return None
    has = [other for other in BUILT_IN if name in fields_of(recipe_class(other))]
    made_of = " + ".join(
        dict.fromkeys(f"{one.states} states x {one.signal} x {one.loss}" for one in made_of_by(recipe))
    )
    return f"{name} needs {NEEDS[name]}, and this recipe is {made_of}; recipes that have it: {', '.join(has)}"


def first_reason(settings: Mapping[str, Any], recipe: type[Recipe]) -> str | None:
    """For the first of the given settings that only other recipes have."""
    return next((why for name in settings if (why := why_not_a_field(name, recipe)) is not None), None)
