"""Which runs of a study can begin: those whose teachers and states are there. One that died takes those that need it along.

Knows neither processes nor machines; see executor.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from stateshape.core.files import BadInput
from stateshape.core.progress import Reporter
from stateshape.core.study_records import FailedRun
from stateshape.study.checkpoints import CheckpointSpec

if TYPE_CHECKING:  # plans read models and recipes; a process that starts needs none of them to take a run
    from stateshape.study.run_spec import AnySpec

Item: TypeAlias = "tuple[AnySpec, int]"
"""A run and its seed."""


class RunDied(BadInput):
    """A run cannot continue, e.g. because its loss is not a number. The study's other runs can."""


class Queue:
    """Every run for every seed, seeds first; a checkpoint once. Needs are the study's own runs of the same seed.

    work: about how much work a run is, in any unit. Where given, those come first that have the longest chain of work before
    them, their own and that of runs that need them, whatever their seed: with many workers, the study does not end with a
    chain on which all wait.
    Each event costs what the run's own needs and followers do, so that ten thousand runs are no burden.
    """

    def __init__(
        self,
        runs: Sequence[AnySpec],
        seeds: Sequence[int],
        reporter: Reporter,
        on_failed: Callable[[list[FailedRun]], None] = lambda failed: None,
        *,
        work: Callable[[AnySpec], float] | None = None,
    ) -> None:
        self._items: list[Item] = [
            (spec, seed) for seed in seeds for spec in runs if not isinstance(spec, CheckpointSpec) or seed == seeds[0]
        ]
        self.num_runs = len(self._items)
        self.num_over = 0  # done, failed or skipped
        self._place = {(spec.name, seed): place for place, (spec, seed) in enumerate(self._items)}
        self._waiting = set(range(self.num_runs))
        self._missing: list[set[int]] = []
        self._followers: list[list[int]] = [[] for _ in self._items]
        once = {
            spec.name: seeds[0] for spec in runs if isinstance(spec, CheckpointSpec)
        }  # for which seed they are done
        for place, (spec, seed) in enumerate(self._items):
            needed = (self._place.get((name, once.get(name, seed))) for name in spec.needs())
            self._missing.append({other for other in needed if other is not None})
            for other in self._missing[place]:
                self._followers[other].append(place)
        self._rank = (
            [(0.0, place) for place in range(self.num_runs)]
            if work is None
            else self._ranks({spec.name: work(spec) for spec in runs})
        )
        self._ready = sorted(self._rank[place] for place in range(self.num_runs) if not self._missing[place])
        self._reporter = reporter
        self._failed: list[FailedRun] = []
        self._on_failed = on_failed

    def _ranks(self, work: Mapping[str, float]) -> list[tuple[float, int]]:
        """Minus the longest chain of work that begins with each run, and its place. Followers have later places: teachers come
        first."""
        behind = [work[spec.name] for spec, _ in self._items]
        for place in reversed(range(self.num_runs)):
            behind[place] += max((behind[follower] for follower in self._followers[place]), default=0.0)
        return [(-chain, place) for place, chain in enumerate(behind)]

    @property
    def waiting(self) -> int:
        """How many have not begun."""
        return len(self._waiting)

    def ready(self, limit: int) -> list[Item]:
        """The first ones that can begin, `limit` at most."""
        return [self._items[place] for _, place in self._ready[:limit]]

    def begin(self, spec: AnySpec, seed: int) -> None:
        place = self._place[spec.name, seed]
        self._waiting.discard(place)
        if not self._missing[place]:
            self._ready.remove(self._rank[place])

    def done(self, spec: AnySpec, seed: int, warnings: Sequence[str] = ()) -> None:
        """Repeats the run's warnings."""
        place = self._place[spec.name, seed]
        self.num_over += 1
        for follower in self._followers[place]:
            self._missing[follower].discard(place)
            if not self._missing[follower] and follower in self._waiting:
                insort(self._ready, self._rank[follower])
        for warning in warnings:
            self._reporter.warn(f"{spec.label}, seed {seed}: {warning}")

    def died(self, spec: AnySpec, seed: int, error: RunDied) -> None:
        """Says so, and leaves out the runs that need it."""
        self._leave_out(spec, seed, error)
        self._on_failed(self._failed)

    def _leave_out(self, spec: AnySpec, seed: int, error: RunDied) -> None:
        self.num_over += 1
        self._failed.append(FailedRun(run=spec.name, seed=seed, reason=str(error)))
        self._reporter.say(f"{spec.label}, seed {seed}: failed; {error}")
        for place in self._followers[self._place[spec.name, seed]]:
            if place in self._waiting:
                self.begin(*self._items[place])
                self._leave_out(*self._items[place], RunDied(f"it needs {spec.name}"))
