"""What --help says, made from signatures and dataclasses: names, types, texts in whole lines, defaults where there are any.

Does not know the commands.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

MARKERS = (tyro.conf.HelptextFromCommentsOff,)
REGISTRY = tyro.constructors.ConstructorRegistry()
CONTINUED = re.compile(r"\n {8,}(?=\S)")  # the next line of one argument's text, four deeper than its name
BEING_READ: list[tyro.constructors.StructTypeInfo] = []


@REGISTRY.primitive_rule
def optional_value(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """`INT` in the help where tyro writes `{None}|INT`: the text says what None means. It can still be given."""
    kinds = [kind for kind in get_args(info.type) if kind is not NoneType]
    if NoneType not in get_args(info.type) or not (kinds in ([str], [int], [float]) or is_literal(kinds)):
        return None
    value = REGISTRY.get_primitive_spec(tyro.constructors.PrimitiveTypeInfo.make(kinds[0], info.markers))
    if isinstance(value, tyro.constructors.UnsupportedTypeAnnotationError):
        return None
    return dataclasses.replace(
        value,
        choices=None if value.choices is None else (*value.choices, "None"),
        instance_from_str=lambda words: None if words == ["None"] else value.instance_from_str(words),
        is_instance=lambda one: one is None or value.is_instance(one),
        str_from_instance=lambda one: ["None"] if one is None else value.str_from_instance(one),
    )


@REGISTRY.struct_rule
def readable_fields(info: tyro.constructors.StructTypeInfo) -> tyro.constructors.StructConstructorSpec | None:
    """A dataclass as tyro reads it, its fields' texts and defaults as `text_of` and `default_words` write them."""
    if not dataclasses.is_dataclass(info.type) or any(one is info for one in BEING_READ):
        return None  # the second time: tyro's own rule
    BEING_READ.append(info)
    try:
        spec = REGISTRY.get_struct_spec(info)
    finally:
        BEING_READ.pop()
    if not isinstance(spec, tyro.constructors.StructConstructorSpec):
        return None
    return dataclasses.replace(spec, fields=tuple(readable(field) for field in spec.fields))


def readable(field: tyro.constructors.StructFieldSpec) -> tyro.constructors.StructFieldSpec:
    kind: Any = Annotated[field.type, tyro.conf.arg(help_behavior_hint=default_words)]
    return dataclasses.replace(field, type=kind, helptext=functools.partial(text_of, field.helptext))


def text_of(helptext: str | Callable[[], str | None] | None) -> str | None:
    """In one line: tyro breaks it where the source does, if the next line is indented."""
    text = helptext() if callable(helptext) else helptext
    return None if text is None else " ".join(text.split())


def default_words(default: str) -> str:
    """Nothing for what is not given: the text says what happens then."""
    return "" if default in ("None", "") else f"(default: {default})"


def deferred(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """The command, but called later: so that its output and its errors are not taken for parsing errors.

    Its signature is the command's, with the names of positional arguments as what the help shows.
    """

    @functools.wraps(command)
    def keep(*args: object, **kwargs: object) -> Callable[[], None]:
        return functools.partial(command, *args, **kwargs)

    hints, signature = get_type_hints(command, include_extras=True), inspect.signature(command)
    for name, one in signature.parameters.items():
        hints[name] = Annotated[hints[name], tyro.conf.arg(help_behavior_hint=default_words)]
        if is_positional(hints[name]):
            metavar = name.upper() if one.default is one.empty else f"[{name.upper()}]"
            hints[name] = Annotated[hints[name], tyro.conf.arg(metavar=metavar)]
    named = [one.replace(annotation=hints[name]) for name, one in signature.parameters.items()]
    del keep.__wrapped__  # whose annotations would be read in place of these
    keep.__doc__ = CONTINUED.sub(" ", inspect.cleandoc(command.__doc__ or ""))
    keep.__annotations__, keep.__signature__ = hints, signature.replace(parameters=named)  # type: ignore[attr-defined]
    return keep


def is_literal(kinds: list[Any]) -> bool:
    return len(kinds) == 1 and get_origin(kinds[0]) is Literal


def is_positional(kind: Any) -> bool:
    return tyro.conf.Positional in getattr(kind, "__metadata__", ())
