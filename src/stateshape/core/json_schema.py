"""JSON Schema of a dataclass, for editors: what core/files.py takes for it, from the same fields. Torch-free.

As there, numbers may be written as texts and texts as numbers. What a dataclass checks by itself (`__post_init__`) is not in
the schema. Does not know what the fields mean. Source: json-schema.org, draft 07, which editors know best.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
from itertools import pairwise
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Schema = dict[str, Any]
NUMBER = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
OF_TEXT: Schema = {"type": ["string", "number"]}
OF: dict[Any, Schema] = {
    bool: {"type": "boolean"},
    int: {"type": ["integer", "string"], "pattern": NUMBER},  # 1e3 is a whole number
    float: {"type": ["number", "string"], "pattern": NUMBER},
    str: OF_TEXT,
    type(None): {"type": "null"},
}


def schema_of(kind: Any, known: dict[str, Schema]) -> Schema:
    """The schema of a type. Dataclasses are added to `known` by name, as `definitions` has them, and referred to."""
    if kind in OF:
        return dict(OF[kind])
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any or "Json" in repr(kind):
        return {"type": "object"} if origin is dict else {}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if kind.__name__ not in known:
            known[kind.__name__] = {}  # it may contain itself
            known[kind.__name__] = fields_schema(kind, known)
        return {"$ref": f"#/definitions/{kind.__name__}"}
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [schema_of(one, known) for one in inner]}
    if origin is tuple and inner[-1] is not ...:
        parts = [schema_of(one, known) for one in inner]
        return {"type": "array", "items": parts, "minItems": len(parts), "maxItems": len(parts)}
    if origin in (list, tuple):
        return {"type": "array", "items": schema_of(inner[0], known)}
    assert origin is dict, kind
    return {"type": "object", "additionalProperties": schema_of(inner[1], known)}


def fields_schema(kind: type, known: dict[str, Schema]) -> Schema:
    """An object with the dataclass's fields and no others: those without a default are required."""
    hints, told = get_type_hints(kind), field_docs(kind)
    properties, required = {}, []
    for one in dataclasses.fields(kind):
        found = schema_of(hints[one.name], known)
        if one.name in told:
            found["description"] = told[one.name]
        if one.default is not dataclasses.MISSING and isinstance(one.default, bool | int | float | str):
            found["default"] = one.default
        properties[one.name] = found
        if one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
            required.append(one.name)
    made: Schema = {"type": "object", "description": first_line(kind), "properties": properties}
    return made | ({"required": required} if required else {}) | {"additionalProperties": False}


def first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().partition("\n")[0]


def field_docs(kind: type) -> dict[str, str]:
    """The texts under a class's fields, inherited ones too, each as one line."""
    told: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(one):
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        assert isinstance(node, ast.ClassDef)
        for field, text in pairwise(node.body):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            match text:
                case ast.Expr(value=ast.Constant(value=str(words))):
                    told[field.target.id] = " ".join(words.split())
    return told
