"""Where a number came from: versions, revision, device, data hashes, the command. Plain data for run.json."""

from __future__ import annotations

import datetime
import functools
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from stateshape.core.meter import synchronise
from stateshape.core.ranks import current
from stateshape.core.records import Json
from stateshape.policy.weights import SharedWeights
from stateshape.record.schema import vocabulary_sha256
from stateshape.tasks.harness import HarnessTask
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
        "packages": {**versions(), **harness_versions(tasks)},
        "device": str(device),
        "accelerator": accelerator,
        "dtype": str(weights.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "processes": current().count,
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


def harness_versions(tasks: Sequence[Task]) -> dict[str, str]:
    """Of lm-evaluation-harness and its tasks; empty where there are none."""
    return {name: text for task in tasks if isinstance(task, HarnessTask) for name, text in task.versions.items()}


@functools.cache
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


# Each width is tried while time is left: the widest is the fastest, but a type the machine does not know may be slow.
WIDTHS = {"cpu": (256, 512, 1024), "cuda": (2048, 4096, 8192)}


REPEATS = 4  # the best of them: the first is slower, and other work disturbs


BUDGET_S = 0.15  # after which no other width is begun


def peak_gflops(dtype: torch.dtype, device: torch.device) -> float:
    """10^9 FLOPs per second of square products with this type and the current threads: once per process."""
    return _measured(dtype, device, torch.get_num_threads())


@functools.cache
def _measured(dtype: torch.dtype, device: torch.device, num_threads: int) -> float:
    del num_threads  # part of the key
    generator = torch.Generator(device=device).manual_seed(0)  # not the global one, whose state is nobody's to change
    best, began = 0.0, time.perf_counter()
    for width in WIDTHS.get(device.type, WIDTHS["cpu"]):
        a = torch.randn(width, width, generator=generator, device=device).to(dtype)
        out = torch.empty_like(a)
        for _ in range(REPEATS):
            synchronise(device)
            start = time.perf_counter()
            torch.mm(a, a, out=out)
            synchronise(device)
            best = max(best, 2 * width**3 / (time.perf_counter() - start) / 1e9)
        if time.perf_counter() - began > BUDGET_S:
            break
    if device.type == "cuda":
        del a, out
        torch.cuda.empty_cache()  # the sampler asks the device what is free
    return best
