"""From arguments to a command's function. Flags, types, defaults and help come from signatures and dataclass fields."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from importlib.metadata import version

import tyro

from stateshape.cli import commands
from stateshape.core.files import BadInput

COMMANDS: dict[str, Callable[..., None]] = {
    "methods": commands.methods,
    "study": commands.study,
    "eval": commands.evaluate,
    "drift": commands.drift,
    "report": commands.report,
    "doctor": commands.doctor,
    "embedded": commands.embedded,
}
DESCRIPTION = "Where does a post-training signal land? Train, measure and compare methods by the states they supervise."


MARKERS = (tyro.conf.HelptextFromCommentsOff,)


def train_overview(recipe: tyro.conf.Positional[str]) -> None:
    """Train one method with LoRA and leave a run folder. Flags: stateshape train RECIPE --help.

    Args:
        recipe: sft, opd_continuation, opd_one_step, grpo, or package.module:Class of your own.
    """
    raise BadInput(f"recipe: got {recipe!r}; expected it right after train: stateshape train RECIPE --model M ...")


COMMANDS["train"] = train_overview


def run(args: Sequence[str]) -> None:
    """Parses and runs. tyro itself ends the process: code 0 for --help, 2 for arguments that do not parse."""
    if args and args[0] == "--version":
        print(f"stateshape {version('stateshape')}")
        return
    if args and not args[0].startswith("-") and args[0] not in COMMANDS:
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "see stateshape --help"
        raise BadInput(f"command: got {args[0]!r}; expected one of {', '.join(sorted(COMMANDS))}; {hint}")
    if len(args) > 1 and args[0] == "train" and not args[1].startswith("-"):
        from stateshape.cli.train_command import train_command

        tyro.cli(train_command(args[1]), prog=f"stateshape train {args[1]}", args=list(args[2:]), config=MARKERS)
        return
    tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="stateshape",
        description=DESCRIPTION,
        args=list(args) or ["--help"],
        config=MARKERS,
    )
