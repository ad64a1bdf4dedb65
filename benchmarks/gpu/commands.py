"""The commands that a user gives, on this device: four bits, full training, an audit, the studies of the embedded base.

Each is a process, as from a shell. Its row has the exit code, the seconds and what it said last; other stages may run beside
it, so its seconds are no measurement. One that fails does not stop the others.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.common import DEVICE, model_label
from benchmarks.gpu.record import Job

CLI = "import sys; from stateshape.cli import main; sys.exit(main())"
SAID = 1500  # characters
REFUSED = 2  # the exit code of input that is no good


class Command(NamedTuple):
    """`passes`: the exit code that is right here."""

    name: str
    arguments: list[str]
    passes: int = 0


def run(job: Job) -> None:
    failed = [command.name for command in commands(job) if not carried_out(job, command)]
    if failed:
        raise RuntimeError(f"not passed: {', '.join(failed)}")


def carried_out(job: Job, command: Command) -> bool:
    began = time.perf_counter()
    told = subprocess.run([sys.executable, "-c", CLI, *command.arguments], capture_output=True, text=True, check=False)
    passed = told.returncode == command.passes
    job.record.add(
        {
            "check": command.name,
            "model": model_label(job.models[0]),
            "command": "stateshape " + " ".join(command.arguments),
            "passed": passed,
            "exit_code": told.returncode,
            "seconds": time.perf_counter() - began,
            "stdout": told.stdout[-SAID:],
            "stderr": told.stderr[-SAID:],
        }
    )
    return passed


def commands(job: Job) -> Iterator[Command]:
    model, work, is_gpu = job.models[0], job.work / "commands", DEVICE.type == "cuda"
    target, retention = ("arithmetic", "facts") if model == "embedded" else ("gsm8k", "truthfulqa")
    items, steps = ("8", "2") if job.is_toy else ("64", "20")
    common = ["--batch-prompts", "4" if job.is_toy else "16", "--steps", steps]
    yield Command("doctor", ["doctor", "--model", model, "--train", "full"])
    four_bits, full = work / "four_bits", work / "full"
    quantized = train(model, target, four_bits, [*common, "--quantize", "4bit"])
    yield Command("sft on a base in four bits", quantized, 0 if is_gpu else REFUSED)
    if is_gpu:
        yield Command("scores of a base in four bits", scores(four_bits, target, items))
    yield Command(
        "sft of all parameters", train(model, target, full, [*common, "--parameters", "full", "--lr", "1e-5"])
    )
    yield Command("scores of all parameters trained", scores(full, target, items))
    yield Command("sft", train(model, target, work / "sft", [*common, "--along", "2"]))
    audited = ["--task", target, "--retention", retention, "--limit", items, "--prompts", "8" if job.is_toy else "64"]
    audited += ["--max-new-tokens", "16" if job.is_toy else "128", "--quiet"]
    tuned = [str(full), str(work / "sft")]
    yield Command("audit", ["audit", model, *tuned, *audited, "--out", str(work / "audit")])
    yield Command("smoke", study(job, "smoke"))
    if not job.is_toy:
        yield Command("quickstart", [*study(job, "quickstart"), "--seeds", "0", "--jobs", "3"])


def study(job: Job, preset: str) -> list[str]:
    return ["study", preset, "--out", str(job.work / "studies" / preset), "--quiet"]


def train(model: str, task: str, out: Path, more: list[str]) -> list[str]:
    return ["train", "sft", "--model", model, "--task", task, "--out", str(out), "--quiet", *more]


def scores(run: Path, task: str, items: str) -> list[str]:
    return [
        "eval",
        str(run),
        "--task",
        task,
        "--limit",
        items,
        "--out",
        str(run.with_name(f"{run.name}_scores")),
        "--quiet",
    ]
