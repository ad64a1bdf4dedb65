"""`stateshape study status`: how far a study is, on a terminal of 80 columns or as JSON. Reads files only."""

from __future__ import annotations

import json as json_text
import sys
from pathlib import Path

import tyro

from stateshape.core.files import plain
from stateshape.core.wording import duration
from stateshape.report.status import RunStatus, State, StudyStatus, study_status

MOST_LINES = 40  # of runs that are not done; more are counted
ORDER: tuple[State, ...] = ("failed", "silent", "running", "stopped", "waiting")
STATES: tuple[State, ...] = ("done", *ORDER)


def status(folder: tyro.conf.Positional[str], *, json: bool = False) -> None:
    """How far a study is: runs that are done, running (where, at which step), waiting and failed, and how long is left.

    Reads the folder's files only, from any machine that sees them, while the study runs or later.

    Args:
        folder: The study's folder.
        json: Print one JSON object instead, with an entry for each run.
    """
    found = study_status(Path(folder))
    if json:
        counts = {state: found.count(state) for state in STATES}
        print(json_text.dumps({**plain(found), "counts": counts}))
    else:
        sys.stdout.write("".join(f"{line}\n" for line in lines(found)))


def lines(found: StudyStatus) -> list[str]:
    """Each fits 80 columns where names are short; a reason is never cut off."""
    counts = ", ".join(f"{found.count(state)} {state}" for state in STATES if found.count(state))
    said = [f"{found.study}: {len(found.runs)} runs: {counts}", worker_line(found)]
    if found.seconds_left is not None:
        said.append(
            f"about {duration(found.seconds_left)} left, by what finished runs took, with as many workers as now"
        )
    shown = [run for state in ORDER for run in found.runs if run.state == state]
    width = max((len(run.run) for run in shown[:MOST_LINES]), default=0)
    said += [run_line(run, width) for run in shown[:MOST_LINES]]
    if len(shown) > MOST_LINES:
        said.append(f"... and {len(shown) - MOST_LINES} more; --json has all")
    return said


def worker_line(found: StudyStatus) -> str:
    head = found.worker
    if head is None:
        is_over = found.count("done") == len(found.runs)
        return "nobody hands out runs" + ("" if is_over else "; run the study's command again to continue")
    silent = "" if head.state == "running" else f", no sign of life for {duration(head.silent_s or 0)}"
    return f"handed out by process {head.pid} on {head.host} since {time_of(head.since)}{silent}"


def run_line(run: RunStatus, width: int) -> str:
    step = "" if run.step is None else f"step {run.step}" + ("" if run.num_steps is None else f"/{run.num_steps}")
    where = "" if run.host is None else f"{run.host}:{run.pid} since {time_of(run.since)}"
    if run.state == "silent":
        where += f", silent {duration(run.silent_s or 0)}"
    return f"  {run.state:8s} {run.run:{width}s} seed {run.seed:<3d} {step:12s} {where}{run.reason}".rstrip()


def time_of(since: str | None) -> str:
    """2026-11-27T02:22:45+00:00 as 27 02:22 UTC."""
    return "unknown" if not since else f"{since[8:10]} {since[11:16]} UTC"
