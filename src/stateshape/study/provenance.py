"""Where a number came from: versions, revision, device, data hashes, the command. Plain data for run.json."""

from __future__ import annotations

import datetime
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from stateshape.core.records import Json
from stateshape.policy.weights import SharedWeights
from stateshape.record.schema import vocabulary_sha256
from stateshape.study.machine import peak_gflops
from stateshape.tasks.task import Task

PACKAGES = ("stateshape", "torch", "transformers", "peft", "tokenizers", "numpy", "scipy", "scikit-learn")


def provenance(weights: SharedWeights, tasks: list[Task]) -> dict[str, Json]:
    device = weights.device
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
    return {
        "date": now(),
        "command": command(),
        "git_revision": git_revision(),
        "python": platform.python_version(),
        "packages": dict(versions()),
        "device": str(device),
        "accelerator": accelerator,
        "dtype": str(weights.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "peak_gflops": round(peak_gflops(weights.dtype, device), 3),
        "tokenizer_sha256": vocabulary_sha256(weights.tokenizer.get_vocab()),
        "weights_sha256": weights.sha256,
        "data_sha256": {task.name: task.data_sha256 for task in tasks},
    }


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def versions() -> dict[str, str | None]:
    return {name: package_version(name) for name in PACKAGES}


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """The revision of the checkout the package runs from, with "+" where files differ from it."""
    folder = Path(__file__).parent
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None
