"""What a recipe is: one dataclass a file, whose fields are the method's own choices, and a `build`.

The command line's flags, a study file's fields and the documentation are made from these fields. Loads no model.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from stateshape.core.files import BadInput
from stateshape.core.method import Composition, Method
from stateshape.core.records import MethodRecord
from stateshape.policy.policy import Policy
from stateshape.sampling.settings import Sampler
from stateshape.tasks.task import GenerationTask


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What a recipe is built from. `teacher` loads a frozen policy by name, run folder or adapter folder."""

    task: GenerationTask
    sampler: Sampler
    teacher: Callable[[str], Policy]


@runtime_checkable
class Recipe(Protocol):
    """A method by its fields. The class docstring's first line is what users read."""

    composition: ClassVar[Composition]
    source: ClassVar[str]

    def build(self, parts: Parts) -> Method: ...


BUILT_IN: Mapping[str, str] = {
    "sft": "stateshape.recipes.sft:SFT",
    "opd_continuation": "stateshape.recipes.opd_continuation:OPDContinuation",
    "opd_one_step": "stateshape.recipes.opd_one_step:OPDOneStep",
    "grpo": "stateshape.recipes.grpo:GRPO",
}


def recipe_class(name: str) -> type[Recipe]:
    """A built-in recipe by name, or `package.module:Class` from anywhere. Raises BadInput if there is none."""
    path = BUILT_IN.get(name, name)
    if ":" not in path:
        raise BadInput(
            f"recipe: got {name!r}; expected one of {', '.join(BUILT_IN)}, or package.module:Class of your own"
        )
    module_name, _, class_name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise BadInput(
            f"recipe: got {name!r}, which can't be imported ({error}); expected package.module:Class"
        ) from None
    if not isinstance(getattr(found, "composition", None), Composition) or not hasattr(found, "build"):
        raise BadInput(f"recipe: got {name!r}, which has no `composition` and `build`; see docs/recipes.md")
    return found


def recipe_name(recipe: Recipe) -> str:
    """The built-in name of a recipe object's class, or its dotted path."""
    path = f"{type(recipe).__module__}:{type(recipe).__qualname__}"
    return next((name for name, known in BUILT_IN.items() if known == path), path)


def needs_teacher(recipe: type[Recipe] | Recipe) -> bool:
    return recipe.composition.signal.startswith("teacher")


def method_record(name: str, recipe: type[Recipe]) -> MethodRecord:
    """The recipe's row of the paper's Table 1, from its own declaration."""
    composition = recipe.composition
    return MethodRecord(
        method=name,
        state_source=composition.states,
        signal=composition.signal,
        density=composition.density,
        loss=composition.loss,
        is_on_policy=composition.is_on_policy,
        source=recipe.source,
        summary=(recipe.__doc__ or "").strip().splitlines()[0],
    )


def all_methods() -> list[MethodRecord]:
    return [method_record(name, recipe_class(name)) for name in BUILT_IN]
