"""Two ranks on two cores beside one rank with one thread: the same steps of the same batch, in turns.

    python -m benchmarks.ranks [grpo] [sft] [--model embedded|FOLDER] [--pairs N] [--prompts N] [--small]

Both sides run in the same two processes, on one thread each: in one side the first process works alone and the second waits,
in the other they share the work. Load averages are noted, because other work on the machine takes cores from both sides, and
so are the seconds that each process computes (not waits): where cores are free, a side takes about its busiest process's.
grpo: 8 prompts x 8 samples (--prompts for another number); sft: 32 rows; both of arithmetic, with a LoRA of rank 16 on
all linear layers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch

from benchmarks.common import Options, Row, interleave, load_policy, model_label, write_result
from benchmarks.grpo import our_side as grpo_side
from benchmarks.our_steps import OurSteps
from benchmarks.rollout_sizes import sizes_of
from benchmarks.sft import our_side as sft_side
from stateshape.cli.processes import environment, free_port
from stateshape.core import ranks
from stateshape.tasks.load import load_task
from stateshape.tasks.task import GenerationTask

NAMES = ("grpo", "sft")
BAR = 1.6
SFT_ROWS = 32


def side_of(name: str, model: str, options: Options, prompts: int | None) -> OurSteps:
    task = load_task("arithmetic", limit=1)
    assert isinstance(task, GenerationTask)
    if name == "grpo":
        sizes = sizes_of(model, options)
        return grpo_side(model, task, sizes if prompts is None else replace(sizes, prompts=prompts))
    return sft_side(load_policy(model), task, SFT_ROWS, options.pick(2, 1))


class Timed(NamedTuple):
    """A repeat as the first rank saw it, and the seconds that each rank computed."""

    seconds: float
    tokens: int
    phases: Mapping[str, float]
    busy: list[float]


def timed_side(side: OurSteps, repeat: int, *, together: bool) -> Timed:
    """The whole work, by all ranks or by the first alone; the others wait for it."""
    group = ranks.current()
    group.gather(None)
    began = time.process_time()
    with ranks.using(group if together else ranks.ALONE):
        measured = side(repeat) if together or group.is_first else None
    busy = group.gather(time.process_time() - began)
    told = group.gather(measured)[0]
    assert told is not None
    return Timed(told.seconds, told.tokens, told.extra, busy)


def is_first() -> bool:
    return os.environ["RANK"] == "0"


def run_rank(names: list[str], model: str, options: Options, prompts: int | None) -> None:
    torch.set_num_threads(1)
    rows: list[Row] = []
    with ranks.joined():
        for name in names:
            alone, together = (side_of(name, model, options, prompts) for _ in range(2))
            load = [os.getloadavg()[0]]
            measured = interleave(
                {
                    "one rank": partial(timed_side, alone, together=False),
                    "two ranks": partial(timed_side, together, together=True),
                },
                repeats=options.num_repeats(5),  # type: ignore[arg-type]
            )
            load.append(os.getloadavg()[0])
            rows.append(row_of(name, model, measured, load))
    if is_first():
        for row in rows:
            print(row)
        print(write_result("ranks", model, rows, options))


def row_of(name: str, model: str, measured: dict[str, Any], load: list[float]) -> Row:
    pairs = list(zip(measured["one rank"], measured["two ranks"], strict=True))
    ratios = [one.seconds / two.seconds for one, two in pairs]
    phases = {
        f"{key}_{side.replace(' ', '_')}": statistics.median(one.phases[key] for one in measured[side])
        for side in measured
        for key in measured[side][0].phases
    }
    return {
        "name": f"ranks {name}",
        "model": model_label(model),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "bar": BAR,
        "one_rank_seconds": [one.seconds for one, _ in pairs],
        "two_ranks_seconds": [two.seconds for _, two in pairs],
        "ratio_busiest": statistics.median(max(one.busy) / max(two.busy) for one, two in pairs),
        "one_rank_busy_seconds": [max(one.busy) for one, _ in pairs],
        "two_ranks_busy_seconds": [two.busy for _, two in pairs],
        "tokens": [(one.tokens, two.tokens) for one, two in pairs],
        "load_average": load,
        **phases,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument("--model", default="embedded", help="embedded, or a folder")
    parser.add_argument("--pairs", type=int, help="timed pairs; default: 5")
    parser.add_argument("--prompts", type=int, help="of a GRPO step; default: 8")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the code")
    chosen = parser.parse_args()
    if unknown := sorted(set(chosen.names) - set(NAMES)):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if "RANK" in os.environ:
        options = Options(repeats=chosen.pairs, is_small=chosen.small)
        run_rank(chosen.names or list(NAMES), chosen.model, options, chosen.prompts)
        return
    port = free_port()
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.ranks", *sys.argv[1:]],
            env=environment(rank, 2, port) | {"OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    raise SystemExit(max(process.wait() for process in started))


if __name__ == "__main__":
    main()
