"""From arguments to a command's function. Flags, types, defaults and help come from signatures and dataclass fields."""

from __future__ import annotations

import contextlib
import difflib
import io
import re
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import tyro

from stateshape.cli.audit import audit
from stateshape.cli.config_file import with_config
from stateshape.cli.data import data
from stateshape.cli.doctor import doctor
from stateshape.cli.drift import drift
from stateshape.cli.embedded import embedded
from stateshape.cli.evaluate import evaluate
from stateshape.cli.gate import gate
from stateshape.cli.help import MARKERS, REGISTRY, deferred
from stateshape.cli.methods import methods
from stateshape.cli.new import new
from stateshape.cli.power import power
from stateshape.cli.publish import publish
from stateshape.cli.schema import schema
from stateshape.cli.serve import serve
from stateshape.cli.states import states
from stateshape.cli.study import report, study
from stateshape.cli.study_status import status
from stateshape.cli.train import train_command, train_overview
from stateshape.core.files import BadInput
from stateshape.core.wording import one_line as bounded
from stateshape.core.wording import shown

COMMANDS: dict[str, Callable[..., None]] = {
    "methods": methods,
    "train": train_overview,
    "study": study,
    "eval": evaluate,
    "audit": audit,
    "drift": drift,
    "gate": gate,
    "report": report,
    "publish": publish,
    "power": power,
    "states": states,
    "data": data,
    "new": new,
    "schema": schema,
    "doctor": doctor,
    "serve": serve,
    "embedded": embedded,
}
DESCRIPTION = (
    "Train, measure and compare post-training methods by the states (text prefixes) on which they supervise the model."
)


MAX_REASON = 300  # characters of what tyro says: it repeats the arguments
MISSING = re.compile(r"^Missing from [^:]*: (.*)")  # behind it, per argument: name, what it is for, "(required)"
RULE = re.compile(r"-{3,}")  # as tyro draws it where the output is not UTF-8

# What other trainers and harnesses call a flag.
OTHER_NAMES = {
    "--dataset-name": "--task",
    "--learning-rate": "--lr",
    "--max-steps": "--steps",
    "--model-name-or-path": "--model",
    "--output-dir": "--out",
    "--tasks": "--task",
}


def installed_version() -> str:
    try:
        return version("stateshape")
    except PackageNotFoundError:
        return "from source files, not installed"


def run(args: Sequence[str]) -> None:
    """Parses and runs. tyro itself ends the process: code 0 for --help, 2 for arguments that do not parse."""
    if args and args[0] == "--version":
        print(f"stateshape {installed_version()}")
        return
    if args and not args[0].startswith("-") and args[0] not in COMMANDS:
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "see stateshape --help"
        raise BadInput(f"command: got {shown(args[0])}; expected one of {', '.join(sorted(COMMANDS))}; {hint}")
    if len(args) > 1 and args[0] == "train" and not args[1].startswith("-"):
        command, prog = train_command(args[1]), f"stateshape train {args[1]}"
        given = spelled(with_config(args[2:], command, prog=prog))
        parsed(
            lambda: tyro.cli(deferred(command), prog=prog, args=given, config=MARKERS, registry=REGISTRY),
            prog=prog,
            args=args,
            explain=partial(flag_of_other_recipes, args[1]),
        )()
        return
    if list(args[:2]) == ["study", "status"]:
        prog = "stateshape study status"
        parsed(
            lambda: tyro.cli(deferred(status), prog=prog, args=list(args[2:]), config=MARKERS, registry=REGISTRY),
            prog=prog,
            args=args,
        )()
        return
    commands_later = {name: deferred(command) for name, command in COMMANDS.items()}
    parsed(
        lambda: tyro.extras.subcommand_cli_from_dict(
            commands_later,
            prog="stateshape",
            description=DESCRIPTION,
            args=list(args) or ["--help"],
            config=MARKERS,
            registry=REGISTRY,
        ),
        prog=" ".join(["stateshape", *args[:1]]),
        args=args,
    )()


def spelled(args: Sequence[str]) -> list[str]:
    """`train --train full` is what people type: the field is parameters."""
    return [re.sub(r"^--train(?=$|=)", "--parameters", one) for one in args]


def parsed(
    parse: Callable[[], Callable[[], None]],
    *,
    prog: str,
    args: Sequence[str],
    explain: Callable[[str], str | None] = lambda reason: None,
) -> Callable[[], None]:
    """The call that `args` ask for. Raises BadInput with tyro's reason in one line; --help ends the process.

    explain: a better reason than tyro's, where there is one.
    """
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return parse()
    except SystemExit as ending:
        if not ending.code:
            raise
        reason, other = one_line(told.getvalue()), other_name(args)
        if other:
            reason = reason.partition("; did you mean")[0]  # the nearest in letters, beside the one that is meant
        reason = explain(reason) or reason
        raise BadInput(f"{reason}{other}; see {prog} --help") from None


def flag_of_other_recipes(recipe: str, reason: str) -> str | None:
    """Why a flag that tyro does not know is none of this recipe's, where it is one of others."""
    from stateshape.recipes.other_fields import first_reason
    from stateshape.recipes.recipe import recipe_class

    _, unknown, flags = reason.partition("Unrecognized options:")
    names = {flag[2:].replace("-", "_").replace(".", "_"): None for flag in re.findall(r"--[\w.-]+", flags)}
    why = first_reason(names, recipe_class(recipe)) if unknown else None
    return None if why is None else f"--{why.partition(' ')[0].replace('_', '-')} {why.partition(' ')[2]}"


def other_name(args: Sequence[str]) -> str:
    """What a flag of other programs is called here."""
    flags = (one.split("=")[0].replace("_", "-") for one in args)
    found = next((flag for flag in flags if flag in OTHER_NAMES), None)
    return f"; {found} is called {OTHER_NAMES[found]} here" if found else ""


def missing(found: re.Match[str]) -> str:
    each = [one.strip().partition(" ") for one in found[1].split("(required)") if one.strip()]
    return "missing: " + "; ".join(f"{name} ({text.rstrip(' .')})" if text else name for name, _, text in each)


def one_line(box: str) -> str:
    """The reason from tyro's framed text: the text above its first rule, and the nearest flag."""
    lines = [line.strip(" │╭╮╰╯─") for line in re.sub("\x1b\\[[0-9;]*m", "", box).splitlines()]
    lines = ["" if RULE.fullmatch(line) else line for line in lines[1:]]  # behind the title
    while lines and not lines[0]:
        del lines[0]
    rule = lines.index("") if "" in lines else len(lines)
    reason = " ".join(lines[:rule])
    near = next(
        (line.split()[0].rstrip(",") for at, line in enumerate(lines[1:]) if lines[at].startswith("Perhaps you meant")),
        None,
    )
    reason = re.sub(r"(--[\w.-]+) (?:STR|INT|FLOAT|PATH)\b", r"\1", reason)
    reason = bounded(re.sub(MISSING, missing, reason), limit=MAX_REASON)
    return f"{reason}; did you mean {near}?" if near and near not in reason.split() else reason
