"""An Executor on a Ray cluster: a task for each run. Needs the package ray.

Ray keeps a worker process for the next task where no GPU is asked for, so that a small model is loaded once per process. Knows
no study: what a task does is executor.work.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Sequence
from typing import Any

from stateshape.study.execute_choice import ExecuteChoice
from stateshape.study.executor import MOST_AT_A_TIME, OpenWorker, WorkerLost, work
from stateshape.study.run_queue import Item


class RayWorkers:
    """Uses the cluster of RAY_ADDRESS or of this machine; where there is none, starts one on this machine."""

    def __init__(self, open_worker: OpenWorker, choice: ExecuteChoice, jobs: int | None) -> None:
        import ray

        self._ray = ray
        self.num_slots = jobs or MOST_AT_A_TIME
        self.retries = choice.retries
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            ray.init(log_to_driver=False)
        cpus = choice.cpus or 1
        asked: dict[str, Any] = {"num_cpus": cpus, "max_retries": 0}  # drive retries, and says so
        if choice.gpus is not None:
            asked["num_gpus"] = choice.gpus
        if choice.memory_gb is not None:
            asked["memory"] = int(choice.memory_gb * 1e9)
        self._task = ray.remote(**asked)(work)
        self._opening = ray.put(pickle.dumps(open_worker))
        self._cpus = cpus

    def submit(self, items: Sequence[Item]) -> list[Any]:
        return [self._task.remote(self._opening, self._cpus, spec, seed) for spec, seed in items]

    def wait(self, handles: Collection[Any]) -> Collection[Any]:
        first, rest = self._ray.wait(list(handles), num_returns=1)
        more, _ = self._ray.wait(rest, num_returns=len(rest), timeout=0) if rest else ([], [])
        return [*first, *more]

    def result(self, handle: Any) -> list[str]:
        try:
            outcome = self._ray.get(handle)
        except self._ray.exceptions.RayError as error:  # the run's own errors come as values
            raise WorkerLost(type(error).__name__) from None
        given: list[str] = outcome.given()
        return given

    def close(self, running: Collection[Any]) -> None:
        for handle in running:
            self._ray.cancel(handle, force=True)  # every file is whole at any time
        if self._is_ours:
            self._ray.shutdown()
