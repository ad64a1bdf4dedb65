"""Reading and writing record files: JSON at the folder's edge, typed inside. Torch-free.

Writes are atomic (temporary file, then rename): a reader or a killed run never sees half a file. A malformed file is
reported with its path and line. Does not know what the records mean.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import cattrs

T = TypeVar("T")


class BadInput(ValueError):
    """A user's mistake, as one clear line. The command line prints it and exits with code 2."""


@functools.cache
def converter() -> cattrs.Converter:
    """Strict about unknown fields; numbers may come as text (YAML 1.1 reads 5e-4 as a string)."""
    made = cattrs.Converter(forbid_extra_keys=True)
    made.register_structure_hook(bool, _structure_bool)
    # Json is free-form by definition
    made.register_structure_hook_func(lambda t: t is Any or "Json" in repr(t), lambda value, _: value)
    made.register_structure_hook(float | None, lambda value, _: None if value is None else float(value))
    return made


def _structure_bool(value: object, _: type) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"expected true or false, got {value!r}")


def parse(value: object, kind: type[T], *, where: str) -> T:
    """Builds a dataclass from plain data. Raises BadInput naming `where`, the field, and what was wrong."""
    try:
        return converter().structure(value, kind)
    except (cattrs.BaseValidationError, cattrs.StructureHandlerNotFoundError, ValueError, TypeError) as error:
        problems = "; ".join(cattrs.transform_error(error, path=kind.__name__)[:3])
        raise BadInput(f"{where}: {problems}") from None


def plain(record: object) -> Any:
    """The record as JSON-ready data."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {f.name: plain(getattr(record, f.name)) for f in dataclasses.fields(record)}
    if isinstance(record, dict):
        return {str(k): plain(v) for k, v in record.items()}
    if isinstance(record, list | tuple):
        return [plain(v) for v in record]
    return record


def write_text(path: Path, text: str) -> None:
    """Atomic write; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, record: object) -> None:
    write_text(path, json.dumps(plain(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, records: Iterable[object]) -> None:
    write_text(path, "".join(_line(record) for record in records))


def append_jsonl(path: Path, records: Iterable[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(_line(record) for record in records))


def _line(record: object) -> str:
    return json.dumps(plain(record), ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path, kind: type[T]) -> T:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not valid JSON: {error}") from None
    return parse(value, kind, where=str(path))


def iter_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """Yields (line number, value); blank lines are skipped. Raises BadInput with file and line."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    yield number, json.loads(line)
                except json.JSONDecodeError as error:
                    raise BadInput(f"{path}:{number}: not valid JSON: {error.msg} at column {error.colno}") from None
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 text: {error}") from None


def read_jsonl(path: Path, kind: type[T]) -> list[T]:
    return [parse(value, kind, where=f"{path}:{number}") for number, value in iter_jsonl(path)]


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
