"""`stateshape train RECIPE`: the recipe's own fields as flags beside what every run shares. There is no second config class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import tyro

from stateshape.cli import commands
from stateshape.policy.settings import ModelSettings
from stateshape.recipes.recipe import recipe_class
from stateshape.train.settings import TrainSettings

FLAT = tyro.conf.arg(name="")


def train_command(name: str) -> Callable[..., None]:
    """A function with the flags of one recipe. Raises BadInput if there is no such recipe."""
    found = recipe_class(name)

    def train(
        *,
        recipe: Any,
        model: str,
        task: str,
        out: str,
        seed: int = 0,
        data: str | None = None,
        settings: Annotated[TrainSettings, FLAT] = TrainSettings(),  # noqa: B008
        model_settings: Annotated[ModelSettings, FLAT] = ModelSettings(),  # noqa: B008
        profile: bool = False,
        quiet: bool = False,
        json_events: bool = False,
    ) -> None:
        commands.train(
            name,
            recipe,
            model=model,
            task=task,
            out=out,
            seed=seed,
            data=data,
            settings=settings,
            model_settings=model_settings,
            profile=profile,
            quiet=quiet,
            json_events=json_events,
        )

    arguments = (commands.train.__doc__ or "").partition("Args:")[2]
    train.__doc__ = f"{found.__doc__}\n\nThe same command resumes a run that was stopped.\n\nArgs:{arguments}"
    train.__annotations__ = get_type_hints(train, include_extras=True) | {"recipe": Annotated[found, FLAT]}
    return train
