"""From a file's bytes to text, and from text to JSON values: strict, and every fault one line with file, line and field.

Stricter than `json`: a key that is there twice, NaN and infinity, half a surrogate pair (a text that no file can hold),
very deep nesting and endless digits are refused, since what comes behind would die of them, or silently use other data.
Torch-free. Does not know what the values mean.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any

from stateshape.core.wording import BadInput, shown

MAX_DEPTH = 64  # levels of nesting: our deepest record has 7
SURROGATE = re.compile("[\ud800-\udfff]")
UTF16 = (b"\xff\xfe", b"\xfe\xff")
REASONS = {
    errno.ENAMETOOLONG: "its name is longer than the file system takes",
    errno.ELOOP: "a symbolic link that leads to itself",
}


def read_text(path: Path) -> str:
    """A UTF-8 file, with or without byte-order mark. Raises BadInput where it is missing, no file, or other bytes."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # a pipe or a device may never end
            kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise BadInput(f"{path}: got {kind}; expected a text file")
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(f"{path}: no such file") from None
    except OSError as error:
        raise BadInput(f"{path}: can't be read: {REASONS.get(error.errno or 0, error.strerror)}") from None
    except BadInput:  # a ValueError too
        raise
    except ValueError:  # NUL inside a name
        raise BadInput(f"{shown(str(path))}: no such file") from None
    return text_of(data, where=str(path))


def text_of(data: bytes, *, where: str) -> str:
    if data.startswith(UTF16):
        raise BadInput(f"{where}: not UTF-8 text, but UTF-16; expected UTF-8; save the file with that encoding")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadInput(
            f"{where}:{line}: not UTF-8 text (byte 0x{data[error.start]:02x} is none); expected UTF-8; save the file with "
            "that encoding"
        ) from None
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise BadInput(f"{where}:{line}: got a NUL character; expected UTF-8 text; save the file with that encoding")
    return text


def json_value(text: str, *, where: str) -> Any:
    """Raises BadInput with the place: line and column of what is not JSON, the field of a value that can't be used."""
    try:
        value = DECODER.decode(text)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise BadInput(f"{where}: not valid JSON: {error.msg} at {place}") from None
    except RecursionError:
        raise BadInput(f"{where}: {_too_deep()}") from None
    except ValueError:  # Python reads no whole number of more than 4,300 digits
        raise BadInput(f"{where}: not valid JSON: a number of thousands of digits; expected a shorter one") from None
    check_values(value, where=where)
    return value


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadInput(f"got the key {shown(twice)} twice in one object; expected each once; remove one")
    return mapping


DECODER = json.JSONDecoder(object_pairs_hook=_each_key_once)


def check_values(value: Any, *, where: str) -> None:
    """Every text can be written as UTF-8, every number is finite, and the nesting ends. Raises BadInput with the field."""
    if not _are_usable(value, MAX_DEPTH):
        _tell_fault(value, where)


def _are_usable(value: Any, depth: int) -> bool:
    """Without the place of a fault, which takes time to keep: a study of a thousand runs has more than half a million rows."""
    if isinstance(value, str):
        return value.isascii() or not SURROGATE.search(value)
    if isinstance(value, float):
        return math.isfinite(value)
    if not isinstance(value, dict | list):
        return True
    if depth == 0:
        return False
    if isinstance(value, dict):
        for key in value:
            if not _are_usable(key, 0):
                return False
        value = value.values()
    for part in value:  # noqa: SIM110 -- takes half the time of all(...)
        if not _are_usable(part, depth - 1):
            return False
    return True


def _tell_fault(value: Any, where: str) -> None:
    waiting: list[tuple[Any, str, int]] = [(value, "", 0)]
    while waiting:
        one, path, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise BadInput(f"{where}: {_too_deep()}")
        if isinstance(one, dict):
            for key, part in one.items():
                _check_text(str(key), f"{where}: a key of {path.lstrip('.') or 'the object'}")
                waiting.append((part, f"{path}.{key}", depth + 1))
        elif isinstance(one, list):
            waiting.extend((part, f"{path}[{k}]", depth + 1) for k, part in enumerate(one))
        elif isinstance(one, str):
            _check_text(one, f"{where}: {path.lstrip('.')}")
        elif isinstance(one, float) and not math.isfinite(one):
            raise BadInput(f"{_place(where, path)}: got {one}; expected a finite number, or null where it is missing")


def _check_text(text: str, place: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = text[max(error.start - 20, 0) : error.start + 1]
        raise BadInput(
            f"{place}: got {shown(half)}, which ends in half a surrogate pair; expected text that UTF-8 can hold; write the "
            "whole character, or leave it out"
        ) from None


def _place(where: str, path: str) -> str:
    return f"{where}: {path.lstrip('.')}" if path else where


def _too_deep() -> str:
    return f"nested too deeply; expected at most {MAX_DEPTH} levels of lists and mappings"
