"""One run of a plan: an entry of a study file, checked, and with its recipe filled in except for the policies it names.

Loads no model and writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import MISSING
from itertools import chain
from typing import NamedTuple

from stateshape.core.files import BadInput, parse, plain
from stateshape.core.limits import check_most
from stateshape.core.records import Json
from stateshape.core.study_records import BASE
from stateshape.core.wording import MAX_SHOWN, shown
from stateshape.recipes.other_fields import first_reason
from stateshape.recipes.recipe import Recipe, fields_of, made_of_by, recipe_class, teachers_of
from stateshape.study.checkpoints import CheckpointSpec, checkpoint_spec
from stateshape.study.study_file import RunChoice
from stateshape.tasks.reading import Reading
from stateshape.train.settings import TrainSettings

SOURCES = ("teacher", "states", "reference")  # fields of recipes that name runs, folders or models
RUN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
MOST_CHARACTERS = 100  # of a run's name: file systems take 255 bytes


class RunSpec(NamedTuple):
    """One run, ready to be built: its recipe filled in except for the locations of the policies and states it names."""

    name: str
    label: str
    recipe_name: str
    settings: dict[str, Json]  # the recipe's fields but the sources
    sources: dict[str, str]  # by field: another run, "base", a folder or a hub id
    train: TrainSettings
    given_class: type[Recipe] | None = None  # of a recipe object; other processes find the class by its name
    data: str | None = None  # the task whose training items it trains on; None: the study's target
    read: Reading = Reading()  # of the rows of `data`
    start: str | None = None  # another run, or a folder, whose adapter it goes on from

    @property
    def recipe_class(self) -> type[Recipe]:
        return self.given_class or recipe_class(self.recipe_name)

    @property
    def teacher(self) -> str | None:
        return self.sources.get("teacher")

    def named(self) -> dict[str, list[str]]:
        """By field, the runs, folders and models it names: a teacher field may name several."""
        found = {
            name: list(teachers_of(text).values()) if name == "teacher" else [text]
            for name, text in self.sources.items()
        }
        return found if self.start is None else {**found, "start": [self.start]}

    def needs(self) -> list[str]:
        """All sources that it names."""
        return list(chain.from_iterable(self.named().values()))

    def recipe(self, stands: Callable[[str], str] | None = None) -> Recipe:
        """The recipe object. `stands`: from a named source to its location; None: as it is named."""
        where = stands or (lambda source: source)
        found = {
            name: ",".join(f"{tag}={where(one)}" if tag else where(one) for tag, one in teachers_of(text).items())
            if name == "teacher"
            else where(text)
            for name, text in self.sources.items()
        }
        where_from = f"runs.{self.name}.with"
        if (reason := first_reason(self.settings, self.recipe_class)) is not None:
            raise BadInput(f"{where_from}: {reason}")
        return parse(self.settings | found, self.recipe_class, where=where_from)


AnySpec = RunSpec | CheckpointSpec


def any_spec(name: str, choice: RunChoice, shared: dict[str, Json]) -> AnySpec:
    """Raises BadInput where the entry does not say one thing: how to train, or what to load."""
    check_run_name(name)
    if choice.checkpoint is not None:
        return checkpoint_spec(name, choice)
    if choice.recipe is None:
        raise BadInput(
            f"runs.{name}.recipe: is missing; expected a recipe (see stateshape methods), or checkpoint: a model or adapter"
        )
    return run_spec(name, choice.recipe, choice, shared)


def check_run_name(name: str) -> None:
    if name == BASE:
        raise BadInput("runs.base: the untrained base is always part of a study; leave it out or rename the run")
    if not RUN_NAME.fullmatch(name) or len(name) > MOST_CHARACTERS:
        raise BadInput(
            f"runs.{name[:MAX_SHOWN]}: got {shown(name)}; expected up to {MOST_CHARACTERS} letters, digits, "
            "'_', '-' and '.': it names a folder; rename it"
        )


def run_spec(name: str, recipe: str, choice: RunChoice, shared: dict[str, Json]) -> RunSpec:
    found = recipe_class(recipe)
    sources = given_sources(name, choice, found)
    spec = RunSpec(
        name=name,
        label=choice.label or name,
        recipe_name=recipe,
        settings={key: value for key, value in choice.settings.items() if key not in sources},
        sources=sources,
        train=parse(merged(shared, choice.train), TrainSettings, where=f"runs.{name}.train"),
        data=choice.data,
        read=choice.read,
        start=choice.start,
    )
    check_most(f"runs.{name}.", **plain(spec.recipe()))
    check_budget(spec)
    if choice.data is None and not choice.read.is_default:
        raise BadInput(
            f"runs.{name}.read: got some without data; expected it next to data, whose rows it reads; add data"
        )
    return spec


def check_budget(spec: RunSpec) -> None:
    """A pair compares whole responses: its tokens can't be chosen from. Raises BadInput."""
    is_preference = any(one.signal == "preference" for one in made_of_by(spec.recipe()))
    train = spec.train
    if train.supervised_per_step is not None and is_preference:
        raise BadInput(
            f"runs.{spec.name}.train.supervised_per_step: got {train.supervised_per_step} for a preference, which "
            "compares whole responses; expected none; leave it out, or take fewer prompts per step"
        )
    if not train.band.is_everything and is_preference:
        raise BadInput(
            f"runs.{spec.name}.train.band: got low {train.band.low}, high {train.band.high} for a preference, which compares "
            "whole responses; expected none; leave it out, or use a recipe that supervises token by token"
        )


def given_sources(name: str, choice: RunChoice, recipe: type[Recipe]) -> dict[str, str]:
    """The fields that name policies and states. Raises BadInput where one is missing or not the recipe's."""
    given: dict[str, Json] = {"teacher": choice.teacher, "states": choice.states}
    given |= {key: value for key, value in choice.settings.items() if key in SOURCES}
    fields = fields_of(recipe)
    for key, value in given.items():
        is_needed = key in fields and fields[key].default is MISSING
        if (value is not None and key not in fields) or (value is None and is_needed):
            wanted = f"a {key}: another run's name, base, or a folder or model" if is_needed else f"no {key}"
            raise BadInput(f"runs.{name}.{key}: got {shown(value)}; recipe {choice.recipe} takes {wanted}")
    return {key: str(value) for key, value in given.items() if value is not None}


def merged(shared: dict[str, Json], own: dict[str, Json]) -> dict[str, Json]:
    """`own` over `shared`, also inside nested mappings."""
    result = dict(shared)
    for key, value in own.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    if own.get("epochs") is not None:
        result.pop("steps", None)
    if own.get("steps") is not None:
        result.pop("epochs", None)
    return result
