"""YAML as study files need it: plain values, each key once, a text as it is written. Does not know what a study is.

Stricter than PyYAML's safe loader, which reads YAML 1.1: there 012 is ten, 1:30 is ninety and 2024-01-01 a date, the second
of two equal keys wins, and a few lines of aliases can stand for billions of values. Here such numbers and dates stay the
texts that they are written as, which a field of numbers then takes or refuses, and the rest is refused with its line.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from stateshape.core.decoding import MAX_DEPTH, check_values
from stateshape.core.wording import BadInput, shown

MOST_CHARACTERS = 200_000  # of a file; the largest preset has fewer than 5,000
MOST_VALUES = 100_000  # with every alias written out
PREFIX = "tag:yaml.org,2002:"
PLAIN = {PREFIX + name for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge")}
AS_WRITTEN = {PREFIX + name for name in ("timestamp", "value")}  # read as texts
OCTAL = re.compile(r"[-+]?0[0-9_]+")


def read_yaml(text: str, *, where: str) -> Any:
    """The one document of `text` as plain data. Raises BadInput with the line."""
    if len(text) > MOST_CHARACTERS:
        raise BadInput(f"{where}: got {len(text):,} characters; expected a YAML file of at most {MOST_CHARACTERS:,}")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        Check(loader).size(node, depth=0)
        value = loader.construct_document(node)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    except RecursionError:
        raise BadInput(f"{where}: nested too deeply; expected at most {MAX_DEPTH} levels") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise BadInput(f"{where}: {line}not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise BadInput(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    check_values(value, where=where)
    return value


class Check:
    """Goes through a document's nodes once, before anything is made of them. Raises BadInput with the line."""

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self.loader = loader
        self.sizes: dict[int, int | None] = {}  # by node; None while it is being counted

    def size(self, node: yaml.Node, *, depth: int) -> int:
        """Number of values, with every alias written out."""
        if depth > MAX_DEPTH:
            raise BadInput(f"{line_of(node)}: nested too deeply; expected at most {MAX_DEPTH} levels")
        if id(node) in self.sizes:
            known = self.sizes[id(node)]
            if known is None:
                raise BadInput(f"{line_of(node)}: got an alias that contains itself; expected values that end")
            return known
        self.sizes[id(node)] = None
        if node.tag in AS_WRITTEN:
            node.tag = PREFIX + "str"
        if node.tag not in PLAIN:
            raise BadInput(f"{line_of(node)}: got the tag {shown(node.tag)}; expected a plain value; leave the tag out")
        if isinstance(node, yaml.ScalarNode):
            self.check_scalar(node)
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            check_keys(node)
            parts = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        total = 1 + sum(self.size(part, depth=depth + 1) for part in parts)
        if total > MOST_VALUES:
            raise BadInput(f"{line_of(node)}: got more than {MOST_VALUES:,} values by its aliases; expected fewer")
        self.sizes[id(node)] = total
        return total

    def check_scalar(self, node: yaml.ScalarNode) -> None:
        kind = node.tag.removeprefix(PREFIX)
        if (
            kind in ("int", "float", "bool", "null")
            and self.loader.resolve(yaml.ScalarNode, node.value, (True, False)) != node.tag
        ):  # asked for by !!int
            raise BadInput(
                f"{line_of(node)}: got {shown(node.value)} with the tag !!{kind}; expected a value of that type"
            )
        if kind == "int" and OCTAL.fullmatch(node.value):
            raise BadInput(
                f"{line_of(node)}: got {node.value}, which some read as octal; expected a number that does not begin with 0; "
                "put a text in quotation marks"
            )
        if kind in ("int", "float") and not is_as_written(node.value, kind):
            node.tag = PREFIX + "str"


def check_keys(node: yaml.MappingNode) -> None:
    """Names, each once: the second of two runs of one name would silently replace the first."""
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise BadInput(
                f"{line_of(key)}: got a list or mapping as a key; expected a name; put a text with braces in quotation marks"
            )
        if key.value in seen:
            raise BadInput(f"{line_of(key)}: got {shown(key.value)} twice; expected each key once; rename one")
        seen.add(key.value)


def is_as_written(text: str, kind: str) -> bool:
    """Whether the number, written again, is the same text: 1.10, 1_000 and 1:30 are not."""
    try:
        return (str(int(text)) if kind == "int" else repr(float(text))) == text
    except ValueError:  # 0x10, 1:30, .inf, thousands of digits
        return False


def line_of(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}"
