"""From arguments to a command's function. Flags, types, defaults and help come from signatures and dataclass fields."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Union

import tyro

from stateshape.cli import commands
from stateshape.core.files import BadInput

NAMES: dict[str, Callable[..., None]] = {
    "methods": commands.methods,
    "study": commands.study,
    "eval": commands.evaluate,
    "drift": commands.drift,
    "report": commands.report,
    "doctor": commands.doctor,
    "embedded": commands.embedded,
}
DESCRIPTION = "Where does a post-training signal land? Train, measure and compare methods by the states they supervise."


def run(args: Sequence[str]) -> None:
    """Parses and runs. tyro itself ends the process: code 0 for --help, 2 for arguments that do not parse."""
    if args and args[0] == "--version":
        from importlib.metadata import version

        print(f"stateshape {version('stateshape')}")
        return
    known: dict[str, Callable[..., Any]] = {**NAMES, "train": commands.train}
    wants_everything = not args or args[0].startswith("-")
    if args and not wants_everything and args[0] not in known:
        raise BadInput(f"command: got {args[0]!r}; expected one of {', '.join(sorted(known))}; see stateshape --help")
    if wants_everything or args[0] == "train":
        known["train"] = train_command(args[1:])
    tyro.extras.subcommand_cli_from_dict(
        known,
        prog="stateshape",
        description=DESCRIPTION,
        args=list(args) or ["--help"],
        config=(tyro.conf.ConsolidateSubcommandArgs, tyro.conf.FlagConversionOff, tyro.conf.HelptextFromCommentsOff),
        console_outputs=True,
    )


def train_command(args: Sequence[str]) -> Callable[..., None]:
    """`train` with one subcommand a recipe; a dotted path given as the recipe becomes one more."""
    from stateshape.policy.settings import ModelSettings
    from stateshape.recipes.recipe import BUILT_IN, recipe_class
    from stateshape.train.settings import TrainSettings

    names = list(BUILT_IN)
    if args and not args[0].startswith("-") and args[0] not in names:
        recipe_class(args[0])
        names.append(args[0])
    choices = tuple(
        Annotated[recipe_class(name), tyro.conf.subcommand(name=name, description=recipe_class(name).__doc__)]
        for name in names
    )
    flat = tyro.conf.arg(name="")

    def train(
        recipe: Any, *, model: str, task: str, out: str, seed: int = 0, data: str | None = None,
        settings: TrainSettings = TrainSettings(), model_settings: ModelSettings = ModelSettings(),  # noqa: B008
        quiet: bool = False, json_events: bool = False,
    ) -> None:  # fmt: skip
        name = next(name for name in names if type(recipe) is recipe_class(name))
        commands.train(
            name, recipe, model=model, task=task, out=out, seed=seed, data=data, settings=settings,
            model_settings=model_settings, quiet=quiet, json_events=json_events,
        )  # fmt: skip

    train.__doc__ = commands.train.__doc__
    train.__annotations__ |= {
        "recipe": Annotated[Union[choices], flat],  # noqa: UP007
        "settings": Annotated[TrainSettings, flat],
        "model_settings": Annotated[ModelSettings, flat],
        "model": str, "task": str, "out": str, "seed": int, "data": str | None, "quiet": bool, "json_events": bool,
        "return": None,
    }
    return train


if __name__ == "__main__":
    run(sys.argv[1:])
