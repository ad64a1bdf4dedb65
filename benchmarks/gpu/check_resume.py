"""A killed run resumes: three processes train the embedded base by the same command; one is killed half-way and started again.

Two are left alone, so that it shows whether a run is repeated to the bit on this device at all. On a CPU it is; on a GPU the
backward pass of attention may add in any order. Where it is not, the resumed run may differ as much as the two do.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import torch
from safetensors.torch import load_file

from benchmarks.common import DEVICE, Row
from benchmarks.gpu.record import SEED, Job
from stateshape.core import layout

WAIT_S, TOY_WAIT_S = 60.0, 600.0  # a rehearsal shares its cores
NAMES = ("left alone", "left alone again", "killed")
SLACK = 4.0  # a resumed run may differ by so many times what two runs do
LR = "1e-3"


class Resumed:
    """Starts all three; `row` waits for them."""

    def __init__(self, job: Job) -> None:
        self.job, self.began = job, time.perf_counter()
        self.folder = job.work / "resumed"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.wait_s = TOY_WAIT_S if job.is_toy else WAIT_S
        self.processes = {name: self.start(name) for name in NAMES}
        self.killed_at: int | None = None
        self.watcher = Thread(target=self.kill_and_start_again, daemon=True)  # the other checks are not waited for
        self.watcher.start()

    def out(self, name: str) -> Path:
        return self.folder / name.replace(" ", "_")

    def start(self, name: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-c", "from stateshape.cli import entry; entry()", "train", "sft", "--model", "embedded",
            "--task", "arithmetic", "--steps", str(self.job.scale.resumed_steps), "--batch-prompts", "8", "--lr", LR,
            "--seed", str(SEED), "--device", DEVICE.type, "--out", str(self.out(name)), "--quiet",
        ]  # fmt: skip
        with open(self.folder / "log.txt", "ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def kill_and_start_again(self) -> None:
        """Kills the third once it has written enough steps; `killed_at` stays None where it ended by itself before."""
        process, metrics = self.processes["killed"], self.out("killed") / layout.METRICS
        until = time.perf_counter() + self.wait_s
        while process.poll() is None and time.perf_counter() < until:
            steps = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
            if steps >= self.job.scale.killed_after:
                process.send_signal(signal.SIGKILL)
                process.wait()
                self.killed_at = steps
                self.processes["killed"] = self.start("killed")
                return
            time.sleep(0.002)

    def row(self) -> Row:
        """Waits for all, and compares their adapters."""
        self.watcher.join()
        codes = {name: process.wait(timeout=self.wait_s) for name, process in self.processes.items()}
        row: Row = {"check": "resumed", "model": "embedded", "seconds": time.perf_counter() - self.began}
        row |= {"steps": self.job.scale.resumed_steps, "killed_at_step": self.killed_at}
        if self.killed_at is None or any(codes.values()):
            log = (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")
            return row | {"passed": False, "exit_codes": codes, "log": log[-600:]}
        alone, resumed = (self.gap(name) for name in ("left alone again", "killed"))
        return row | {
            "passed": resumed <= SLACK * alone,  # where two runs are the same to the bit, the third must be
            "gap_of_two_runs": alone,
            "gap_of_the_resumed_run": resumed,
            "repeats_to_the_bit": alone == 0.0,
        }

    def gap(self, name: str) -> float:
        """Largest difference of a weight to the first run's, relative to the largest weight."""
        mine, first = (self.adapter(one) for one in (name, "left alone"))
        size = max(float(value.abs().max()) for value in first.values())
        return max(float((mine[key] - value).abs().max()) for key, value in first.items()) / size

    def adapter(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(str(self.out(name) / layout.ADAPTER / "adapter_model.safetensors"))

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
