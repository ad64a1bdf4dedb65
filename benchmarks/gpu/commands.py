"""The commands that a user gives, on this device: four bits, full training, an audit, the studies of the embedded base.

Each is a process, as from a shell. Its row has the exit code, the seconds and what it said last, and what the run it made
says of its memory and phases. One that fails does not stop the others. Other stages may run beside `commands`, so its seconds
are no measurement. Full training, which wants the device for itself, is a stage, too (`full`), and so is `smoke`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.common import DEVICE, Row, model_label
from benchmarks.gpu.record import Job
from stateshape.core import layout
from stateshape.core.files import read_json
from stateshape.core.records import RunRecord

CLI = "import sys; from stateshape.cli import main; sys.exit(main())"
SAID = 1500  # characters
REFUSED = 2  # the exit code of input that is no good


class Command(NamedTuple):
    """`passes`: the exit code that is right here. `made`: the run that it makes."""

    name: str
    arguments: list[str]
    passes: int = 0
    made: Path | None = None


def run(job: Job) -> None:
    carry_out(job, commands(job))


def full(job: Job) -> None:
    carry_out(job, full_training(job))


def smoke(job: Job) -> None:
    carry_out(job, [Command("smoke", study(job, "smoke"))])


def carry_out(job: Job, commands: Iterable[Command]) -> None:
    failed = [command.name for command in commands if not carried_out(job, command)]
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
            **of_run(command.made),
        }
    )
    return passed


def of_run(made: Path | None) -> Row:
    """What its record says; nothing where there is none."""
    if made is None or not (made / layout.RUN).exists():
        return {}
    record = read_json(made / layout.RUN, RunRecord)
    return {
        "steps": record.num_steps,
        "supervised_tokens": record.num_supervised_tokens,
        "peak_memory_gb": record.peak_memory_gb,
        "seconds_by_phase": record.seconds,
        "peak_memory_gb_by_phase": {phase: cost.peak_memory_gb for phase, cost in record.costs.items()},
    }


def full_training(job: Job) -> Iterator[Command]:
    model, (target, _), (items, common) = job.models[0], tasks(job), sizes(job)
    made = full_run(job)
    # a checkpoint has all parameters and their moments, 6 GB for half a billion: one, at the end
    options = [*common, "--parameters", "full", "--lr", "1e-5", "--checkpoint-every", "1000"]
    yield Command("sft of all parameters", train(model, target, made, options), made=made)
    yield Command("scores of all parameters trained", scores(made, target, items))


def full_run(job: Job) -> Path:
    return job.work / "commands" / "full"


def tasks(job: Job) -> tuple[str, str]:
    """One to train on and one to retain."""
    return ("arithmetic", "facts") if job.models[0] == "embedded" else ("gsm8k", "truthfulqa")


def sizes(job: Job) -> tuple[str, list[str]]:
    """Items to score; options of a run."""
    items, steps, prompts = ("8", "2", "4") if job.is_toy else ("64", "20", "16")
    return items, ["--batch-prompts", prompts, "--steps", steps]


def commands(job: Job) -> Iterator[Command]:
    model, work, is_gpu = job.models[0], job.work / "commands", DEVICE.type == "cuda"
    (target, retention), (items, common) = tasks(job), sizes(job)
    yield Command("doctor", ["doctor", "--model", model, "--train", "full"])
    four_bits = work / "four_bits"
    quantized = train(model, target, four_bits, [*common, "--quantize", "4bit"])
    yield Command("sft on a base in four bits", quantized, 0 if is_gpu else REFUSED, made=four_bits)
    if is_gpu:
        yield Command("scores of a base in four bits", scores(four_bits, target, items))
    yield from full_training(job)
    yield Command("sft", train(model, target, work / "sft", [*common, "--along", "2"]), made=work / "sft")
    audited = ["--task", target, "--retention", retention, "--limit", items, "--prompts", "8" if job.is_toy else "64"]
    audited += ["--max-new-tokens", "16" if job.is_toy else "128", "--quiet"]
    tuned = [str(full_run(job)), str(work / "sft")]
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
