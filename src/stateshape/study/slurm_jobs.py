"""An Executor on SLURM: a job for each run, those that begin together as one array. Needs the package submitit.

A job that is preempted or reaches its time limit is put back in line by submitit and resumes. Knows no study: what a job
does is executor.work.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from stateshape.core import layout
from stateshape.study.execute_choice import ExecuteChoice
from stateshape.study.executor import MOST_AT_A_TIME, OpenWorker, Outcome, WorkerLost, work
from stateshape.study.run_queue import Item
from stateshape.study.run_spec import AnySpec

POLL_S = 1.0  # between two looks at the jobs; submitit itself asks SLURM less often


class SlurmJobs:
    """folder: the study's, on a file system that the machines share. `choice.is_local`: jobs are processes of this machine."""

    def __init__(
        self, open_worker: OpenWorker, choice: ExecuteChoice, jobs: int | None, folder: Path, name: str
    ) -> None:
        import submitit

        self._submitit = submitit
        self.num_slots = jobs or MOST_AT_A_TIME
        self.retries = choice.retries
        self._opening, self._cpus = pickle.dumps(open_worker), choice.cpus or 1
        self._executor = submitit.AutoExecutor(folder / layout.JOBS, cluster="local" if choice.is_local else "slurm")
        self._executor.update_parameters(**_parameters(choice, name))

    def submit(self, items: Sequence[Item]) -> list[Any]:
        with self._executor.batch():
            return [self._executor.submit(Job(), self._opening, self._cpus, spec, seed) for spec, seed in items]

    def wait(self, handles: Collection[Any]) -> Collection[Any]:
        while True:
            if over := [job for job in handles if job.done()]:
                return over
            time.sleep(POLL_S)

    def result(self, handle: Any) -> list[str]:
        try:
            outcome: Outcome = handle.result()
        except self._submitit.core.utils.UncompletedJobError:
            raise WorkerLost(f"job {handle.job_id} left no result; see {handle.paths.stderr}") from None
        except self._submitit.core.utils.FailedJobError:
            raise WorkerLost(f"job {handle.job_id} could not begin; see {handle.paths.stderr}") from None
        return outcome.given()

    def close(self, running: Collection[Any]) -> None:
        for job in running:
            job.cancel()  # every file is whole at any time


class Job:
    """What submitit runs, and runs again after a preemption."""

    def __call__(self, opening: bytes, num_threads: int, spec: AnySpec, seed: int) -> Outcome:
        return work(opening, num_threads, spec, seed)

    def checkpoint(self, opening: bytes, num_threads: int, spec: AnySpec, seed: int) -> Any:
        import submitit

        return submitit.helpers.DelayedSubmission(self, opening, num_threads, spec, seed)


def _parameters(choice: ExecuteChoice, name: str) -> dict[str, Any]:
    """Of submitit's AutoExecutor: those that start with slurm_ are for SLURM alone."""
    asked: dict[str, Any] = {"name": name, "cpus_per_task": choice.cpus or 1, "slurm_array_parallelism": MOST_AT_A_TIME}
    if choice.gpus is not None:
        asked["gpus_per_node"] = int(choice.gpus)
    if choice.memory_gb is not None:
        asked["mem_gb"] = choice.memory_gb
    if choice.minutes is not None:
        asked["timeout_min"] = choice.minutes
    if choice.partition is not None:
        asked["slurm_partition"] = choice.partition
    if choice.account is not None:
        asked["slurm_account"] = choice.account
    return asked
