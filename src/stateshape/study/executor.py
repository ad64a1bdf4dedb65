"""Who does the runs that the queue says can begin: processes here, or workers of a cluster. The folder is what they share.

An executor is handed runs and says when one is over; what came of a run is in its folder, as ever. Here is what all executors
have in common; parallel, ray_workers and slurm_jobs are the three. Knows no method, no measurement and no machine.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from stateshape.core.progress import Reporter
from stateshape.study.pace import Pace
from stateshape.study.run_queue import Item, Queue, RunDied

if TYPE_CHECKING:
    from stateshape.study.run_spec import AnySpec

OpenWorker: TypeAlias = "Callable[[], Callable[[AnySpec, int], list[str]]]"
"""Called once in each process: loads what runs share, and gives what does one of them and returns its warnings. Must be
picklable."""
MOST_AT_A_TIME = 1_000  # runs that a cluster is asked for, where --jobs does not say


class WorkerLost(Exception):
    """The process that did a run is gone, and the run did not say why: a dead machine, a job at its limit, no memory."""


class Executor(Protocol):
    """Does runs elsewhere. A handle stands for one run that was submitted."""

    num_slots: int
    retries: int

    def submit(self, items: Sequence[Item]) -> list[Any]:
        """One handle for each run."""
        ...

    def wait(self, handles: Collection[Any]) -> Collection[Any]:
        """Those that are over; at least one."""
        ...

    def result(self, handle: Any) -> list[str]:
        """The warnings of a run that is over. Raises WorkerLost, or what the run raised."""
        ...

    def close(self, running: Collection[Any]) -> None:
        """Stops what still runs."""
        ...


def drive(queue: Queue, executor: Executor, what: str, reporter: Reporter, pace: Pace | None = None) -> None:
    """Has every run of the queue done, those that others name first. pace: where given, told of and reported.

    The others go on without a run that died. Raises whatever else a run raised; the others are stopped then. A run whose
    worker was lost is submitted again, `executor.retries` times.
    """
    running: dict[Any, Item] = {}
    lost: Counter[tuple[str, int]] = Counter()
    tick = reporter.track(what, "runs")
    tick(0, queue.num_runs)

    def submit(items: Sequence[Item]) -> None:
        if items:
            running.update(zip(executor.submit(items), items, strict=True))

    try:
        while queue.waiting or running:
            ready = queue.ready(executor.num_slots - len(running))
            for item in ready:
                queue.begin(*item)
            submit(ready)
            if pace is not None:
                for spec, seed in ready:
                    pace.begin(spec.name, seed)
                reporter.event("pace", pace.told())
            again = []
            for handle in executor.wait(running):
                spec, seed = running.pop(handle)
                try:
                    warnings = executor.result(handle)
                except RunDied as error:
                    queue.died(spec, seed, error)
                except WorkerLost as error:
                    lost[spec.name, seed] += 1
                    times = lost[spec.name, seed]
                    if times > executor.retries:
                        queue.died(spec, seed, RunDied(f"its worker was lost {times} times; the last time: {error}"))
                    else:
                        reporter.say(f"{spec.label}, seed {seed}: its worker was lost ({error}); submitted again")
                        again.append((spec, seed))
                else:
                    queue.done(spec, seed, warnings)
                    reporter.say(f"{spec.label}, seed {seed}: done, {queue.num_over} of {queue.num_runs}")
                tick(queue.num_over, queue.num_runs)
                if pace is not None and (spec, seed) not in again:
                    pace.end(spec.name, seed)
            submit(again)
    finally:
        executor.close(running)


class Outcome(NamedTuple):
    """What a worker of a cluster sends back. A run's exception travels as a value: libraries wrap those that are raised."""

    warnings: list[str]
    error: BaseException | None

    def given(self) -> list[str]:
        if self.error is not None:
            raise self.error
        return self.warnings


_opened: dict[bytes, Callable[[AnySpec, int], list[str]]] = {}  # of this process: the last study that it worked for


def work(opening: bytes, num_threads: int, spec: AnySpec, seed: int) -> Outcome:
    """Does one run in a worker process, which keeps what runs of the study share for the next one.

    opening: a pickled OpenWorker.
    """
    from stateshape.study.threads import take_threads

    take_threads(num_threads)
    try:
        if opening not in _opened:
            _opened.clear()
            _opened[opening] = pickle.loads(opening)()
        return Outcome(_opened[opening](spec, seed), None)
    except Exception as error:
        return Outcome([], _sendable(error))


def _sendable(error: Exception) -> Exception:
    """The error itself where it survives pickling."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
