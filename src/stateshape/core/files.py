"""Reading and writing record files: JSON at the folder's edge, typed inside. Torch-free.

Writes are atomic (temporary file, then rename): a reader or a killed run never sees half a file. A malformed file is
reported with its path and line; what is read into text and JSON is decided in decoding.py, what a message shows in
wording.py. Does not know what the records mean.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import io
import json
import math
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import cattrs
from cattrs.cols import list_structure_factory
from cattrs.gen import make_dict_structure_fn, mapping_structure_factory

from stateshape.core.decoding import json_value, read_text
from stateshape.core.wording import MAX_PATH, MAX_SHOWN, BadInput, printable, shown

T = TypeVar("T")
UNKNOWN = "unknown field"
MAX_PROBLEMS = 250  # characters: of several faults those are told that fit; one always is
MAX_INT = 10**30  # of any whole number in a record: counts of floating-point operations come nearest, far below
LATER = {"is_later": True}  # metadata of a dataclass's field that was added when records without it already existed
NAME_BYTES = 255  # of one name in a path, on every file system in common use
PATH_BYTES = 4096 - 512  # of a whole path; the rest is for what is written below it
SCALARS = frozenset({str, int, float, bool, type(None)})
LINES = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


@functools.cache
def converter() -> cattrs.Converter:
    """Strict about unknown fields and types; numbers may come as text (YAML 1.1 reads 5e-4 as a string)."""
    strict = cattrs.Converter(forbid_extra_keys=True)
    strict.register_structure_hook_factory(dataclasses.is_dataclass, _mapping_hook)
    strict.register_structure_hook_factory(lambda t: get_origin(t) is list, functools.partial(_rows_hook, list))
    strict.register_structure_hook_factory(lambda t: get_origin(t) is tuple, functools.partial(_rows_hook, tuple))
    strict.register_structure_hook_factory(lambda t: get_origin(t) is dict, _keyed_hook)
    strict.register_structure_hook_func(lambda t: get_origin(t) is Literal, _structure_literal)
    for kind, hook in (
        (bool, _structure_bool),
        (int, _structure_int),
        (float, _structure_float),
        (str, _structure_str),
    ):
        strict.register_structure_hook(kind, hook)
        strict.register_structure_hook(kind | None, functools.partial(_structure_optional, hook))
    # Json is free-form by definition, but a mapping of it is still a mapping
    strict.register_structure_hook_func(lambda t: t is Any or "Json" in repr(t), _structure_json)
    return strict


def _mapping_hook(kind: type[Any], strict: cattrs.Converter) -> Callable[[object, Any], Any]:
    structure = make_dict_structure_fn(kind, strict, _cattrs_forbid_extra_keys=True)
    names = ", ".join(field.name for field in dataclasses.fields(kind))

    def hook(value: object, _: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"got {shown(value)}; expected a mapping with {names}")
        return structure(value, kind)  # type: ignore[call-arg, arg-type]

    return hook


def _keyed_hook(kind: type[Any], strict: cattrs.Converter) -> Callable[[object, Any], Any]:
    structure = mapping_structure_factory(kind, strict)

    def hook(value: object, _: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"got {shown(value)}; expected a mapping")
        return structure(value, kind)

    return hook


def _rows_hook(origin: type, kind: type[Any], strict: cattrs.Converter) -> Callable[[object, Any], Any]:
    inner = get_args(kind)
    is_fixed = origin is tuple and inner[-1] is not ...
    structure = None if is_fixed else list_structure_factory(list[inner[0]], strict)  # type: ignore[valid-type]

    def hook(value: object, _: Any) -> Any:
        if not isinstance(value, list | tuple):  # a text would be taken apart into its characters
            raise ValueError(f"got {shown(value)}; expected a list")
        if structure is not None:
            return origin(structure(value, kind))
        if len(value) != len(inner):
            raise ValueError(f"got {shown(value)}; expected a list of {len(inner)}")
        return origin(strict.structure(part, type_) for part, type_ in zip(value, inner))

    return hook


def _structure_optional(hook: Callable[[object, Any], Any], value: object, _: Any) -> Any:
    return None if value is None else hook(value, _)


def _structure_json(value: object, kind: Any) -> Any:
    if get_origin(kind) is dict and not isinstance(value, dict):
        raise ValueError(f"got {shown(value)}; expected a mapping")
    return value


def _structure_literal(value: object, kind: Any) -> Any:
    if value not in get_args(kind):
        raise ValueError(f"got {shown(value)}; expected one of {', '.join(map(str, get_args(kind)))}")
    return value


def _structure_bool(value: object, _: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"got {shown(value)}; expected true or false")


def _structure_int(value: object, _: Any) -> int:
    number = _whole_number(value)
    if number is None:
        raise ValueError(f"got {shown(value)}; expected a whole number")
    if abs(number) > MAX_INT:
        raise ValueError(f"got {shown(value)}; expected a whole number of at most {MAX_INT:.0e}")
    return number


def _whole_number(value: object) -> int | None:
    """None where it is none. 1e3 and "1.0e+3" are: YAML 1.1 reads the one as a text, the other as a float."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return int(value)
    with contextlib.suppress(ValueError, OverflowError):  # not a number, or not a finite one
        number = float(value) if isinstance(value, str) else value
        if int(number) == number:
            return int(number)
    return None


def _structure_float(value: object, _: Any) -> float:
    if type(value) is float and math.isfinite(value):  # most values by far: a study has millions
        return value
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            if math.isfinite(number := float(value)):
                return number
    raise ValueError(f"got {shown(value)}; expected a number")


def _structure_str(value: object, _: Any) -> str:
    if type(value) is str:
        return value
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"got {shown(value)}; expected a text; put it in quotation marks")


def parse(value: object, kind: type[T], *, where: str) -> T:
    """Builds a dataclass from plain data. Raises BadInput naming `where`, the field, and what was wrong."""
    try:
        return converter().structure(value, kind)
    except (cattrs.BaseValidationError, cattrs.StructureHandlerNotFoundError, ValueError, TypeError) as error:
        faults = cattrs.transform_error(error, path="", format_exception=_reason)
        # an unknown field is often the misspelt name of one that is missing
        faults.sort(key=lambda fault: not fault.startswith(UNKNOWN))
        problems = [_field_first(problem) for problem in faults[:3]]
        while len(problems) > 1 and sum(map(len, problems)) > MAX_PROBLEMS:
            problems.pop()
        raise BadInput(f"{where}: {'; '.join(problems)}") from None


def _reason(error: BaseException, _: object) -> str:
    if isinstance(error, KeyError):
        return "is missing; expected it here"
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        fields = [field.name for field in dataclasses.fields(error.cl)] if dataclasses.is_dataclass(error.cl) else []
        unknown = sorted(printable(str(name)[:MAX_SHOWN]) for name in error.extra_fields)
        near = difflib.get_close_matches(unknown[0], fields, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        others = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        return f"{UNKNOWN} {', '.join(unknown[:3])}{others}; expected {', '.join(fields)}{hint}"
    return str(error)


def _field_first(problem: str) -> str:
    """cattrs reports 'reason @ path'."""
    reason, _, path = problem.rpartition(" @ ")
    return f"{path.lstrip('.')}: {reason}" if path.lstrip(".") else reason


def plain(record: object) -> Any:
    """The record as JSON-ready data."""
    if type(record) in SCALARS:
        return record
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {name: plain(getattr(record, name)) for name in _field_names(type(record))}
    if isinstance(record, dict):
        return {str(k): plain(v) for k, v in record.items()}
    if isinstance(record, list | tuple):
        return [plain(v) for v in record]
    return record


@functools.cache
def _field_names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def comparable(record: Any) -> dict[str, Any]:
    """As `plain`, without the record's own LATER fields that are at their default: so records of before still compare equal."""
    fields = [f for f in dataclasses.fields(record) if "is_later" in f.metadata]
    return {
        key: value
        for key, value in plain(record).items()
        if key not in {f.name for f in fields if _is_default(record, f)}
    }


def _is_default(record: object, field: dataclasses.Field[Any]) -> bool:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return bool(getattr(record, field.name) == default)


def check_output(folder: Path, *, where: str = "out") -> None:
    """Whether `folder` can be made and written to, before any work is done. Raises BadInput; makes nothing."""
    check_path(folder, where=where)
    standing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not standing.is_dir():
        raise BadInput(f"{where}: got {str(folder)!r}, but {standing} is a file; expected a folder; give another one")
    if not os.access(standing, os.W_OK | os.X_OK):
        raise BadInput(f"{where}: got {str(folder)!r}, but {standing} can't be written to; give another folder")


def check_path(path: Path, *, where: str) -> None:
    """Whether a file system can hold such a path, and a report can print it. Raises BadInput."""
    text = str(path)
    told = shown(text, limit=MAX_PATH)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput(
            f"{where}: got {told}, which is not UTF-8; expected a name that can be printed; rename it"
        ) from None
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text):
        raise BadInput(f"{where}: got {told}, which holds control characters; expected a name without; rename it")
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if longest > NAME_BYTES:
        raise BadInput(
            f"{where}: got {told}, with a name of {longest} bytes in it; expected at most {NAME_BYTES}; give a shorter one"
        )
    if (whole := len(os.fsencode(path.absolute()))) > PATH_BYTES:
        raise BadInput(
            f"{where}: got {told}, a path of {whole} bytes; expected at most {PATH_BYTES}; give a shorter one"
        )


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path`, renamed to `path` at the end of the block: a reader never sees half a file.

    If the block fails, `path` stays as it was and the temporary file is removed. The folder must exist. Nothing waits
    for the disk (no fsync): this protects from a killed process, not from a power cut.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Atomic write; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Atomic write; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, record: object) -> None:
    write_text(path, json.dumps(plain(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, records: Iterable[object]) -> None:
    write_text(path, "".join(_line(record) for record in records))


def append_jsonl(path: Path, records: Iterable[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(_line(record) for record in records))


def _line(record: object) -> str:
    return LINES.encode(plain(record)) + "\n"


def read_json(path: Path, kind: type[T]) -> T:
    return parse(json_value(read_text(path), where=str(path)), kind, where=str(path))


def iter_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """Yields (line number, value); blank lines are skipped. Raises BadInput with file, line and field."""
    for number, line in enumerate(io.StringIO(read_text(path), newline=None), 1):
        if line.strip():
            yield number, json_value(line, where=f"{path}:{number}")


def drop_cut_off_line(path: Path) -> None:
    """Removes everything after the last line break: a write that was cut off, perhaps inside a character."""
    data = path.read_bytes()
    if not data.endswith(b"\n"):
        path.write_bytes(data[: data.rfind(b"\n") + 1])


def read_jsonl(path: Path, kind: type[T]) -> list[T]:
    return [parse(value, kind, where=f"{path}:{number}") for number, value in iter_jsonl(path)]


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
