"""How far a study is and about how long it still takes, for the line that is shown while it works.

What is left is the work of the runs that are not over (workload.py), at the pace of those done since the study was started;
so nothing is said of time before the first is over. Decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

NUM_NAMED = 4  # of the runs that are going


class Pace:
    """work: of each run and seed that is left, in any unit. num_slots: how many are done at a time.

    num_over: how many were complete before.
    """

    def __init__(
        self,
        work: Mapping[tuple[str, int], float],
        *,
        num_over: int,
        num_slots: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work, self._left = work, sum(work.values())
        self._num_begun, self._num_runs = num_over, num_over + len(work)
        self._num_slots, self._clock = num_slots, clock
        self._began: dict[tuple[str, int], float] = {}
        self._done_work = self._done_seconds = 0.0

    def begin(self, name: str, seed: int) -> None:
        if (name, seed) in self._work:
            self._num_begun += 1
            self._began[name, seed] = self._clock()

    def end(self, name: str, seed: int) -> None:
        if (name, seed) in self._began:
            self._done_seconds += self._clock() - self._began.pop((name, seed))
            self._done_work += self._work[name, seed]
            self._left -= self._work[name, seed]

    def told(self) -> dict[str, object]:
        """The number of the latest run, of how many; some of those that are going; seconds left, None where unknown."""
        running = [f"{name} seed {seed}" for name, seed in list(self._began)[:NUM_NAMED]]
        return {
            "running": running,
            "number": self._num_begun,
            "of": self._num_runs,
            "seconds_left": self.seconds_left(),
        }

    def seconds_left(self) -> float | None:
        if not self._done_work:
            return None
        per_work, now = self._done_seconds / self._done_work, self._clock()
        ahead = {run: max(0.0, self._work[run] * per_work - (now - began)) for run, began in self._began.items()}
        waiting = (self._left - sum(self._work[run] for run in self._began)) * per_work
        return max(max(ahead.values(), default=0.0), (waiting + sum(ahead.values())) / self._num_slots)
