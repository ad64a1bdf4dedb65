"""Stage after stage, each in a process of its own with a time limit of its own; the table and the archive after each.
Stages whose seconds don't count run beside the others.

A stage that an earlier call has done is not done again: its file is kept in the work folder, which outlives a call. What a
stage was about to write when its time was over is lost, all else stands. Torch-free.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.files import archive, read, write_whole
from benchmarks.gpu.stages import RESERVE_S, Stage
from benchmarks.gpu.table import write_table

GRACE_S = 4.0  # to end by itself after SIGTERM: a study then leaves whole files and no locks
ROOT = Path(__file__).parents[2]
REPORT, REPORT_S = "import sys; from stateshape.api import report_study; report_study(sys.argv[1])", 10.0
TABLE, STUDIES = "table.md", "studies.tar.gz"


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call of the command. `ends`: on time.monotonic."""

    out: Path
    work: Path
    models: tuple[str, ...]
    is_toy: bool
    ends: float

    def left(self) -> float:
        return self.ends - time.monotonic() - RESERVE_S


def run_all(stages: Sequence[Stage], call: Call) -> int:
    """Returns 0 where every stage did what it meant to."""
    call.out.mkdir(parents=True, exist_ok=True)
    call.work.mkdir(parents=True, exist_ok=True)
    states = []
    beside = [stage for stage in stages if stage.is_beside]
    with ThreadPoolExecutor(max(1, len(beside))) as threads:  # each waits for the process of one stage
        waiting = [threads.submit(one, stage, call) for stage in beside]
        for stage in stages:
            if not stage.is_beside:
                states.append(one(stage, call))
                finish(stages, call)
        states += [each.result() for each in waiting]
    finish(stages, call)
    print((call.out / TABLE).read_text(encoding="utf-8"), flush=True)
    return 0 if set(states) == {"done"} else 1


def one(stage: Stage, call: Call) -> str:
    """The state it ends in."""
    path, kept = call.out / f"{stage.name}.json", call.work / f"{stage.name}.json"
    before = read(kept)
    if before is not None and before["state"] == "done" and before.get("asked") == asked(call):
        write_whole(path, before)
        print(f"{stage.name}: done in an earlier call", flush=True)
        return "done"
    seconds = min(stage.seconds, call.left()) if not call.is_toy else call.left()
    if seconds < stage.least:
        write_whole(path, {"stage": stage.name, "state": "skipped", "reason": "no time was left", "rows": []})
        return "skipped"
    print(f"{stage.name}: {stage.about}; at most {seconds:.0f} s", flush=True)
    began = time.monotonic()
    code = limited(command_of(stage, path, call), seconds)
    content = read(path) or {"stage": stage.name, "rows": []}
    if code is None:
        report(stage, call)
        content |= {"state": "cut off", "reason": f"its limit of {seconds:.0f} s"}
    elif code != 0 and content.get("state") in (None, "running"):
        content |= {"state": "failed", "reason": f"exit code {code}"}
    content |= {"seconds": round(time.monotonic() - began, 2), "limit_s": round(seconds, 1), "asked": asked(call)}
    write_whole(path, content)
    write_whole(kept, content)
    print(f"{stage.name}: {content['state']} after {content['seconds']:.0f} s", flush=True)
    return str(content["state"])


def asked(call: Call) -> dict[str, Any]:
    return {"models": list(call.models), "is_toy": call.is_toy}


def command_of(stage: Stage, path: Path, call: Call) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.gpu.run_stage", stage.name, "--out", str(path)]
    command += ["--work", str(call.work), "--models", ",".join(call.models)]
    return [*command, "--toy"] if call.is_toy else command


def limited(command: Sequence[str], seconds: float) -> int | None:
    """The exit code; None where the time was over. The whole process group ends, also where this process is told to."""
    # a group, not a session of its own: what outlives a call of a lent machine is then ended there
    process = subprocess.Popen(command, cwd=ROOT, process_group=0, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        end_group(process)


def report(stage: Stage, call: Call) -> None:
    """Of a study that was cut off: tables and verdicts of the runs that are there."""
    folder = call.work / "studies" / stage.name
    if (folder / "plan.json").exists():
        limited([sys.executable, "-c", REPORT, str(folder)], REPORT_S)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, then SIGKILL, to the process and all it started."""
    for number, wait_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=wait_s)
        except subprocess.TimeoutExpired:
            continue


def finish(stages: Sequence[Stage], call: Call) -> None:
    """The table and the archive, as things stand."""
    write_table([content for stage in stages if (content := read(call.out / f"{stage.name}.json"))], call.out / TABLE)
    if (call.work / "studies").exists():
        archive(call.work / "studies", call.out / STUDIES)
