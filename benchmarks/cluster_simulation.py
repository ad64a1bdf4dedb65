"""How busy the study's queue keeps a thousand workers: the real queue and its driver, simulated workers and a simulated clock.

    python -m benchmarks.cluster_simulation --workers 1000 --seeds 200

Each seed has 5 teachers, 9 students of each, and 5 runs that go on from a student. A run takes 10 minutes to 4 hours; a share
of them loses its worker somewhere on the way and begins again where it was. The time a scheduler takes to start a job is
given as a number. No run is done, and nothing is said about file systems.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import time
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from stateshape.core.progress import Silent
from stateshape.study.executor import WorkerLost, drive
from stateshape.study.run_queue import Queue


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
    """50 students, 5 teachers before them, 5 runs after."""
    teachers = [Run(f"teacher{t}") for t in range(5)]
    students = [Run(f"student{t}_{s}", (f"teacher{t}",)) for t in range(5) for s in range(9)]
    after = [Run(f"after{t}", (f"student{t}_0",)) for t in range(5)]
    return [*teachers, *students, *after]


class Workers:
    """An Executor whose clock jumps from one end of a run to the next."""

    def __init__(self, num_workers: int, *, share_lost: float, start_s: float, retries: int, seed: int) -> None:
        self.num_slots, self.retries = num_workers, retries
        self.now_s = self.busy_s = 0.0
        self._share_lost, self._start_s, self._random = share_lost, start_s, random.Random(seed)
        self._ends: list[tuple[float, int]] = []
        self._lost: dict[int, bool] = {}
        self._left_s: dict[tuple[str, int], float] = {}
        self._number = 0
        self._worked: list[tuple[float, float]] = []  # from, to
        self.last_start_s = 0.0

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

    def busy_until_s(self, until_s: float) -> float:
        """Seconds worked before then, by all workers."""
        return sum(max(0.0, min(to, until_s) - start) for start, to in self._worked)

    def _begin(self, run: str, seed: int) -> int:
        """Durations spread evenly on a logarithmic scale. A lost run keeps its finished steps."""
        left_s = self._left_s.get((run, seed)) or math.exp(self._random.uniform(math.log(600), math.log(14_400)))
        is_lost = self._random.random() < self._share_lost
        worked_s = left_s * self._random.random() if is_lost else left_s
        self._left_s[run, seed] = left_s - worked_s
        self.busy_s += worked_s
        self._number += 1
        self.last_start_s = self.now_s
        self._worked.append((self.now_s + self._start_s, self.now_s + self._start_s + worked_s))
        self._lost[self._number] = is_lost
        heapq.heappush(self._ends, (self.now_s + self._start_s + worked_s, self._number))
        return self._number


class Simulated(NamedTuple):
    num_runs: int
    num_done: int
    hours: float
    share_busy: float  # of all workers, from the first start to the last end
    share_busy_before_tail: float  # likewise, up to when the last run was handed out
    queue_s: float  # real seconds that queue and driver took


def simulate(
    runs: Sequence[Run], seeds: int, workers: int, *, share_lost: float, start_s: float, retries: int = 3, seed: int = 0
) -> Simulated:
    failed: list[Any] = []
    queue = Queue(
        runs, range(seeds), Silent(), lambda all_failed: failed.__setitem__(slice(None), all_failed), chains_first=True
    )  # type: ignore[arg-type]
    executor = Workers(workers, share_lost=share_lost, start_s=start_s, retries=retries, seed=seed)
    began = time.perf_counter()
    drive(queue, executor, "simulated", Silent())
    took = time.perf_counter() - began
    return Simulated(
        queue.num_runs,
        queue.num_runs - len(failed),
        executor.now_s / 3600,
        executor.busy_s / workers / executor.now_s,
        executor.busy_until_s(executor.last_start_s) / workers / executor.last_start_s,
        took,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 50, 100, 200, 400])
    parser.add_argument("--share-lost", type=float, default=0.02)
    parser.add_argument("--start-s", type=float, default=30.0)
    args = parser.parse_args()
    print("runs    done    hours   busy    before the tail  real seconds of the queue")
    for seeds in args.seeds:
        got = simulate(realistic_runs(), seeds, args.workers, share_lost=args.share_lost, start_s=args.start_s)
        busy = f"{got.share_busy:<7.1%} {got.share_busy_before_tail:<16.1%}"
        print(f"{got.num_runs:<7d} {got.num_done:<7d} {got.hours:<7.1f} {busy} {got.queue_s:.1f}", flush=True)


if __name__ == "__main__":
    main()
