"""Files that may be cut off at any time: written beside, then renamed. The studies' small files as one archive. Torch-free."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LARGE = ("adapter", "kept", "states")  # folders of a run that stay where they are, as checkpoints and rollouts do
LARGE_FILES = ("checkpoint-*", "rollouts*", "states.jsonl", ".*")
ARCHIVE_BYTES = 15 * 2**20  # a file that comes back is at most 16 MiB


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def read(path: Path) -> dict[str, Any] | None:
    """None where there is no such file."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def archive(studies: Path, path: Path) -> None:
    """Plan, comparison, verdicts, tables, report and the runs' records and evaluations, smallest first, as far as they fit."""
    files = sorted(
        (file for file in studies.rglob("*") if is_small_kind(file, studies)), key=lambda f: f.stat().st_size
    )
    if not files:
        return
    temporary = path.with_name(f".{path.name}.tmp")
    with tarfile.open(temporary, "w:gz") as packed:
        for file in files:
            if temporary.stat().st_size + file.stat().st_size > ARCHIVE_BYTES:
                break
            packed.add(file, arcname=str(file.relative_to(studies)))
    temporary.replace(path)


def is_small_kind(file: Path, studies: Path) -> bool:
    parts = file.relative_to(studies).parts
    return file.is_file() and not set(parts) & set(LARGE) and not any(file.match(pattern) for pattern in LARGE_FILES)
