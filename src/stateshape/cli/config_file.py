"""`stateshape train RECIPE --config FILE`: what a YAML file says, as flags before those of the command line, which win.

The keys are the command's flags, read from its own signature: there is no second list. Does not know what a flag means.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from stateshape.core.decoding import read_text
from stateshape.core.files import BadInput
from stateshape.core.wording import shown
from stateshape.study.yaml_file import read_yaml

FLAG = "--config"
INSTEAD_OF = {
    "steps": "epochs",
    "epochs": "steps",
    "task": "data",
    "data": "task",
}  # one on the command line drops the other
ON_THE_LINE = ("config", "processes")  # read before a file could be


def with_config(args: Sequence[str], command: Callable[..., None], *, prog: str) -> list[str]:
    """The arguments with those of the file that --config names in front. Raises BadInput."""
    named = [one.partition("=")[2] for one in args if one.startswith(f"{FLAG}=")]
    named += [after for one, after in pairwise(args) if one == FLAG]
    if len(named) > 1:
        raise BadInput(f"config: got {len(named)} files; expected one; put all settings into one file")
    if not named:
        return list(args)
    values = read_config(named[0])
    on_the_line = {one.partition("=")[0].lstrip("-").replace("-", "_") for one in args if one.startswith("--")}
    dropped = {INSTEAD_OF[name] for name in on_the_line if name in INSTEAD_OF}
    kept = {key: value for key, value in values.items() if key not in dropped}
    return [*as_flags(kept, command, where=f"config: {named[0]}", prog=prog), *args]


def read_config(path: str) -> dict[str, Any]:
    """Keys with underscores and dots, as lora.rank, and their values. Raises BadInput."""
    where = f"config: {path}"
    value = read_yaml(read_text(Path(path)), where=where)
    if not isinstance(value, dict):
        raise BadInput(f"{where}: got {type(value).__name__}; expected a mapping of flags, such as lr: 1e-3")
    found: dict[str, Any] = {}
    for key, one in leaves(value):
        if key in found:
            raise BadInput(f"{where}: got {key} twice; expected each setting once; remove one")
        found[key] = one
    return found


def leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{lora: {rank: 8}}` and `{lora.rank: 8}` are the same."""
    for key, one in value.items():
        name = f"{prefix}{key}".replace("-", "_")
        if isinstance(one, Mapping):
            yield from leaves(one, f"{name}.")
        else:
            yield name, one


def as_flags(values: Mapping[str, Any], command: Callable[..., None], *, where: str, prog: str) -> list[str]:
    """Raises BadInput for a key that is no flag of the command, or a value that no flag can have."""
    known = flags_of(command)
    known["train"] = known["parameters"]  # parser.spelled
    found: list[str] = []
    for key, value in values.items():
        if key in ON_THE_LINE:
            raise BadInput(f"{where}: got {key}; expected it on the command line, as --{key}; leave it out of the file")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"see {prog} --help"
            raise BadInput(f"{where}: unknown key {shown(key)}; expected a flag of {prog}; {hint}")
        found += as_flag(key, value, known[key], where=where)
    return found


def as_flag(key: str, value: object, kind: object, *, where: str) -> list[str]:
    flag = "--" + key.replace("_", "-")
    if isinstance(value, bool) != (kind is bool):
        wanted = "true or false" if kind is bool else "a text or number; put a text in quotation marks"
        raise BadInput(f"{where}: {key}: got {shown(value)}; expected {wanted}")
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    if isinstance(value, list):
        if get_origin(kind) not in (list, tuple) or any(isinstance(one, list | dict | bool) for one in value):
            raise BadInput(f"{where}: {key}: got {shown(value)}; expected one value, as {flag} takes it")
        return [flag, *map(str, value)]
    return [f"{flag}={value}"]


def flags_of(command: Callable[..., None]) -> dict[str, Any]:
    """Every flag of a command by its name with underscores and dots, and its type."""
    return dict(_flags(get_type_hints(command, include_extras=True), ""))


def _flags(hints: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, hint in hints.items():
        is_flat = False
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
            is_flat = any(getattr(mark, "name", None) == "" for mark in marks)
        if dataclasses.is_dataclass(hint):
            fields = {one.name for one in dataclasses.fields(hint)}
            inner = {key: kind for key, kind in get_type_hints(hint).items() if key in fields}
            yield from _flags(inner, prefix if is_flat else f"{prefix}{name}.")
        elif name != "return":
            yield f"{prefix}{name}", hint
