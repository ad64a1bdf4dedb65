"""A stage's file: rows with their provenance, written as they come, so that what is cut off later leaves them standing.

Knows no stage. Loads no model.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import PEER_PACKAGES, Row, cpu_name, rounded
from benchmarks.gpu.files import write_whole
from benchmarks.gpu.stages import Scale
from stateshape.study.provenance import command, git_revision, now, package_version, versions

SEED = 0  # of every stage
REVISION = "STATESHAPE_REVISION"  # who sent the files says what they are: a history beside them may be older


@dataclass(slots=True)
class Record:
    """The file of one stage. `state`: running, done, cut off, failed or skipped."""

    path: Path
    stage: str
    provenance: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    def add(self, row: Mapping[str, Any]) -> None:
        """Takes a row down, in the file and on the screen."""
        self.rows.append(dict(row))
        print(json.dumps(rounded(row)), flush=True)
        self.write("running")

    def write(self, state: str, reason: str | None = None) -> None:
        content = {"stage": self.stage, "state": state, "reason": reason, "seconds": time.perf_counter() - self.began}
        write_whole(self.path, rounded(content | {"rows": self.rows, "provenance": self.provenance}))


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a stage is asked for. `models`: embedded or folders, the largest first. `work`: a folder that survives the call."""

    models: tuple[str, ...]
    work: Path
    data: Path | None
    scale: Scale
    is_toy: bool
    record: Record


def origin() -> dict[str, Any]:
    """GPU, driver, versions, revision, command, seed, date."""
    is_gpu = torch.cuda.is_available()
    memory = torch.cuda.get_device_properties(0).total_memory / 1e9 if is_gpu else None
    return {
        "date": now(),
        "command": command(),
        "seed": SEED,
        "git_revision": os.environ.get(REVISION) or git_revision(),
        "gpu": torch.cuda.get_device_name(0) if is_gpu else None,
        "gpu_memory_gb": memory,
        "driver": driver(),
        "cuda": torch.version.cuda if is_gpu else None,
        "python": platform.python_version(),
        "packages": versions() | {name: package_version(name) for name in (*PEER_PACKAGES, "duckdb", "cattrs", "tyro")},
        "cpu": cpu_name(),
        "cpus_usable": len(os.sched_getaffinity(0)),
    }


def driver() -> str | None:
    """The NVIDIA driver's version; None where nobody tells."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None
