"""How busy the study's queue keeps a thousand workers: the real queue and its driver, simulated workers and a simulated clock.

    python -m benchmarks.cluster_simulation --workers 1000 --seeds 100 200 400

Each seed has 5 teachers, 9 students of each, and 5 runs that go on from a student. A run takes 10 minutes to 4 hours: either by
its name (seeds of one name differ by what --spread says), or each by itself. The queue is not told these times. It gets an
estimate per name, which is wrong by a factor that --error describes, or nothing (--error none: all runs are equal to it). A
share of runs loses its worker somewhere on the way and begins again where it was. The time a scheduler takes to start a job
is given as a number. No run is done, and nothing is said about file systems.

The bound is what no order could exceed: the work, shared by all workers, over the longest chain of runs where that is longer.
It knows the true times, and not that workers have to wait for the first teachers.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from stateshape.core.progress import Silent
from stateshape.study.executor import WorkerLost, drive
from stateshape.study.run_queue import Queue

SHORTEST_S, LONGEST_S = 600.0, 14_400.0
Times = dict[tuple[str, int], float]
"""Seconds by run and seed."""


class Run(NamedTuple):
    """What the queue reads of a run."""

    name: str
    named: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return self.name

    def needs(self) -> list[str]:
        return list(self.named)


def realistic_runs() -> list[Run]:
    """5 teachers, 45 students, and 5 runs after a student."""
    teachers = [Run(f"teacher{t}") for t in range(5)]
    students = [Run(f"student{t}_{s}", (f"teacher{t}",)) for t in range(5) for s in range(9)]
    after = [Run(f"after{t}", (f"student{t}_0",)) for t in range(5)]
    return [*teachers, *students, *after]


def times_by_name(runs: Sequence[Run], seeds: int, spread: float, draw: random.Random) -> Times:
    """Spread evenly on a logarithmic scale over the names; seeds differ by a log-normal factor."""
    by_name = {run.name: _time(draw) for run in runs}
    return {
        (run.name, seed): by_name[run.name] * math.exp(draw.gauss(0, spread)) for seed in range(seeds) for run in runs
    }


def times_of_each(runs: Sequence[Run], seeds: int, draw: random.Random) -> Times:
    """The same, with each run by itself: what runs of one name took says nothing."""
    return {(run.name, seed): _time(draw) for seed in range(seeds) for run in runs}


def _time(draw: random.Random) -> float:
    return math.exp(draw.uniform(math.log(SHORTEST_S), math.log(LONGEST_S)))


def longest_chain_s(runs: Sequence[Run], times: Times, seeds: int) -> float:
    """Runs come after those they need."""
    longest = 0.0
    for seed in range(seeds):
        ends: dict[str, float] = {}
        for run in runs:
            ends[run.name] = times[run.name, seed] + max((ends[name] for name in run.named), default=0.0)
        longest = max(longest, *ends.values())
    return longest


class Workers:
    """An Executor whose clock jumps from one end of a run to the next."""

    def __init__(
        self, num_workers: int, times: Times, *, share_lost: float, start_s: float, retries: int, seed: int
    ) -> None:
        self.num_slots, self.retries = num_workers, retries
        self.now_s = self.busy_s = 0.0
        self._share_lost, self._start_s, self._random = share_lost, start_s, random.Random(seed)
        self._ends: list[tuple[float, int]] = []
        self._lost: dict[int, bool] = {}
        self._left_s = times.copy()
        self._number = 0

    def submit(self, items: Sequence[Any]) -> list[int]:
        return [self._begin(run.name, seed) for run, seed in items]

    def wait(self, handles: Collection[int]) -> list[int]:
        self.now_s, number = heapq.heappop(self._ends)
        return [number]

    def result(self, handle: int) -> list[str]:
        if self._lost[handle]:
            raise WorkerLost("simulated")
        return []

    def close(self, running: Collection[int]) -> None:
        assert not running

    def _begin(self, run: str, seed: int) -> int:
        """A lost run keeps its finished steps."""
        left_s = self._left_s[run, seed]
        is_lost = self._random.random() < self._share_lost
        worked_s = left_s * self._random.random() if is_lost else left_s
        self._left_s[run, seed] = left_s - worked_s
        self.busy_s += worked_s
        self._number += 1
        self._lost[self._number] = is_lost
        heapq.heappush(self._ends, (self.now_s + self._start_s + worked_s, self._number))
        return self._number


class Simulated(NamedTuple):
    num_runs: int
    num_done: int
    hours: float
    share_busy: float  # of all workers, from the first start to the last end
    bound: float  # of share_busy, whatever the order
    queue_s: float  # real seconds that queue and driver took


def simulate(
    runs: Sequence[Run],
    seeds: int,
    workers: int,
    *,
    share_lost: float,
    start_s: float,
    error: float | None,
    spread: float | None,
    retries: int = 3,
    seed: int = 0,
) -> Simulated:
    """error: standard deviation of the log of what the queue takes a name's runs to take over what they take on average; None:
    all are the same to it. spread: likewise, of the seeds of a name; None: each run takes its own time."""
    draw = random.Random(1000 + seed)
    times = times_of_each(runs, seeds, draw) if spread is None else times_by_name(runs, seeds, spread, draw)
    failed: list[Any] = []
    queue = Queue(
        runs,  # type: ignore[arg-type]
        range(seeds),
        Silent(),
        lambda all_failed: failed.__setitem__(slice(None), all_failed),
        work=estimates(runs, times, seeds, error, draw),
    )
    executor = Workers(workers, times, share_lost=share_lost, start_s=start_s, retries=retries, seed=seed)
    began = time.perf_counter()
    drive(queue, executor, "simulated", Silent())
    took = time.perf_counter() - began
    shared_s = sum(times.values()) / workers
    return Simulated(
        queue.num_runs,
        queue.num_runs - len(failed),
        executor.now_s / 3600,
        executor.busy_s / workers / executor.now_s,
        shared_s / max(shared_s, longest_chain_s(runs, times, seeds)),
        took,
    )


def estimates(
    runs: Sequence[Run], times: Times, seeds: int, error: float | None, draw: random.Random
) -> Callable[[Any], float]:
    """By name: the queue knows no more of a run."""
    if error is None:
        return lambda run: 1.0
    by_name = {
        run.name: statistics.fmean(times[run.name, seed] for seed in range(seeds)) * math.exp(draw.gauss(0, error))
        for run in runs
    }
    return lambda run: by_name[run.name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 100, 200, 400, 800])
    parser.add_argument("--share-lost", type=float, default=0.02)
    parser.add_argument("--start-s", type=float, default=30.0)
    parser.add_argument("--error", nargs="+", default=["none", "0.3", "0.7"])
    parser.add_argument("--spread", default="0.15", help="of the seeds of a name; none: each run takes its own time")
    parser.add_argument("--repeats", type=int, default=5, help="simulations with other times")
    args = parser.parse_args()
    print("runs   error  done    hours            busy, %           bound, %          queue, s")
    for seeds in args.seeds:
        for error in args.error:
            got = [
                simulate(
                    realistic_runs(), seeds, args.workers, share_lost=args.share_lost, start_s=args.start_s,
                    error=number(error), spread=number(args.spread), seed=seed,
                )
                for seed in range(args.repeats)
            ]  # fmt: skip
            print(line(error, got), flush=True)


def number(text: str) -> float | None:
    return None if text == "none" else float(text)


def line(error: str, got: Sequence[Simulated]) -> str:
    """Means, with the smallest and the largest of the simulations."""
    hours, busy, bound = (
        f"{statistics.fmean(values):.1f} ({min(values):.1f}-{max(values):.1f})"
        for values in (
            [one.hours for one in got],
            [100 * one.share_busy for one in got],
            [100 * one.bound for one in got],
        )
    )
    done = min(one.num_done for one in got)
    return (
        f"{got[0].num_runs:<6d} {error:6s} {done:<7d} {hours:16s} {busy:17s} {bound:17s} "
        f"{max(one.queue_s for one in got):.1f}"
    )


if __name__ == "__main__":
    main()
