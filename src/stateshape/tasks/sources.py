"""Rows of a user's own data, from a file (JSONL, JSON, CSV, TSV, Parquet) or the hub, each with its place.

A place is `file:line`, or `file:row N` where a format has no lines (N from 1). Knows no columns and no tasks.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from stateshape.core.decoding import json_value, read_text
from stateshape.core.files import BadInput, iter_jsonl, sha256_file, sha256_text
from stateshape.core.wording import MAX_PATH, one_line, shown
from stateshape.tasks.hub import load_rows

HUB = "hub:"
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
SPLITS = ("train", "test", "validation", "valid", "dev", "eval")  # how names of splits begin
MOST_CELL = 2**27  # characters of a CSV cell: csv's own limit is shorter than many a document


class Source(NamedTuple):
    """name: of the task. rows: each with its place. split: what the hub's name of the split says."""

    name: str
    rows: list[tuple[str, Any]]
    sha256: str
    split: str | None = None


def is_source(name: str) -> bool:
    """Whether a task's name is one of a user's own data."""
    return name.startswith(HUB) or name.endswith(SUFFIXES)


def read_source(name: str) -> Source:
    """Raises BadInput with file and line."""
    if name.startswith(HUB):
        return _from_hub(name)
    path = Path(name)
    suffix = next(end for end in SUFFIXES if name.endswith(end))
    read = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}[suffix]
    rows = list(read(path))
    return Source(path.name.removesuffix(suffix), rows, sha256_file(path))


def _jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    for number, row in iter_jsonl(path):
        yield f"{path}:{number}", row


def _json(path: Path) -> Iterator[tuple[str, Any]]:
    value = json_value(read_text(path), where=str(path))
    if not isinstance(value, list):
        raise BadInput(
            f"{path}: got {shown(value)}; expected a list of objects; for one object per line call the file .jsonl"
        )
    for number, row in enumerate(value, 1):
        yield f"{path}:row {number}", row


def _csv(path: Path) -> Iterator[tuple[str, Any]]:
    """Cells are texts; an empty one is a missing value."""
    lines = csv.reader(
        io.StringIO(read_text(path), newline=""), delimiter="\t" if path.name.endswith(".tsv") else ",", strict=True
    )
    before = csv.field_size_limit(MOST_CELL)
    try:
        header = next(lines, None)
        if not header or len(set(header)) < len(header) or not all(name.strip() for name in header):
            raise BadInput(f"{path}:1: got {shown(header)}; expected a first line with the columns' names, each once")
        end = lines.line_num
        for cells in lines:
            where, end = f"{path}:{end + 1}", lines.line_num
            if cells and len(cells) != len(header):
                raise BadInput(
                    f"{where}: got {len(cells)} cells; expected {len(header)}, as in the first line; put texts with commas or "
                    "line ends in quotation marks"
                )
            if cells:
                yield where, {name: cell or None for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise BadInput(
            f"{path}:{lines.line_num}: no CSV ({error}); expected cells in quotation marks to end; mend the line"
        ) from None
    finally:
        csv.field_size_limit(before)


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        table = pq.read_table(path, partitioning=None)
        rows = table.to_pylist()
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file") from None
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        reason = one_line((str(error).splitlines() or [type(error).__name__])[0], limit=120)
        raise BadInput(f"{path}: not a readable Parquet file ({reason})") from None
    for number, row in enumerate(rows, 1):
        yield f"{path}:row {number}", row


class HubName(NamedTuple):
    repository: str
    config: str | None
    split: str


def hub_name(name: str) -> HubName:
    """hub:owner/name[:config][:split]; one part alone is a split if it begins like one. Raises BadInput."""
    repository, *parts = name.removeprefix(HUB).split(":")
    if len(parts) > 2 or repository.count("/") > 1 or not all(repository.split("/")):
        raise BadInput(
            f"task: got {shown(name, limit=MAX_PATH)}; expected hub:owner/name, hub:owner/name:split or "
            "hub:owner/name:config:split"
        )
    if len(parts) == 1 and parts[0].startswith(SPLITS):
        parts = ["", *parts]
    config, split = (*parts, "", "")[:2]
    return HubName(repository, config or None, split or "train")


def _from_hub(name: str) -> Source:
    repository, config, split = hub_name(name)
    rows = load_rows(repository, config, split, what=name)
    digest = sha256_text(json.dumps(rows, ensure_ascii=False, sort_keys=True, default=_digest))
    label = "-".join(part for part in (*repository.split("/"), config, split) if part)
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in label)
    placed = [(f"{name}:row {number}", row) for number, row in enumerate(rows, 1)]
    return Source(plain, placed, digest, "train" if split.startswith("train") else "test")


def _digest(value: object) -> str:
    """Of what JSON does not hold: dates, bytes."""
    return hashlib.sha256(repr(value).encode()).hexdigest()
