"""Several runs of a study at a time, each in a process with its share of the threads.

A run needs the runs it names (its teacher, its states) and nothing else; what a process leaves is the run's folder, as ever.
Worth it where one run can't keep the cores busy, as with a model of few parameters. Knows no method and no measurement.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

import torch

from stateshape.core.files import BadInput
from stateshape.core.locks import release_all
from stateshape.core.progress import Reporter
from stateshape.study.executor import OpenWorker, drive
from stateshape.study.gpus import VISIBLE
from stateshape.study.run_queue import Item, Queue
from stateshape.study.threads import take_threads

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

    from stateshape.study.run_spec import AnySpec

_run: Callable[[AnySpec, int], list[str]]


def run_parallel(
    open_worker: OpenWorker,
    runs: list[AnySpec],
    seeds: list[int],
    jobs: int,
    reporter: Reporter,
    gpus: Sequence[str] = (),
) -> None:
    """Does every run for every seed in `jobs` processes. Raises as executor.drive, and BadInput where a process died."""
    drive(Queue(runs, seeds, reporter), Processes(open_worker, jobs, gpus), f"runs, {jobs} at a time", reporter)


class Processes:
    """An Executor. A process that dies ends the study: on one machine the next one would find as little memory.

    gpus: names that the processes take in turn, one each (gpus.py); empty: all work on the study's device.
    """

    retries = 0

    def __init__(self, open_worker: OpenWorker, jobs: int, gpus: Sequence[str] = ()) -> None:
        self.num_slots = jobs
        spawning = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads as they stand
        names: SimpleQueue[str] = spawning.SimpleQueue()
        for number in range(jobs if gpus else 0):
            names.put(gpus[number % len(gpus)])
        self._pool = ProcessPoolExecutor(
            jobs,
            mp_context=spawning,
            initializer=_start,
            initargs=(open_worker, max(1, torch.get_num_threads() // jobs), os.getpid(), names if gpus else None),
        )

    def submit(self, items: Sequence[Item]) -> list[Future[list[str]]]:
        try:
            return [self._pool.submit(_work, spec, seed) for spec, seed in items]
        except BrokenProcessPool:
            raise self._died() from None

    def wait(self, handles: Collection[Future[list[str]]]) -> Collection[Future[list[str]]]:
        return wait(handles, return_when=FIRST_COMPLETED).done

    def result(self, handle: Future[list[str]]) -> list[str]:
        try:
            return handle.result()
        except BrokenProcessPool:
            raise self._died() from None

    def close(self, running: Collection[Future[list[str]]]) -> None:
        if not all(handle.done() for handle in running) or self._is_broken:
            for child in multiprocessing.active_children():
                child.terminate()  # every file is whole at any time, so a run can be cut off anywhere
        self._pool.shutdown(cancel_futures=True)

    _is_broken = False

    def _died(self) -> BadInput:
        self._is_broken = True
        return BadInput(
            f"jobs: got {self.num_slots} runs at a time, and one of the processes died (out of memory?); expected memory "
            "for all; use a smaller --jobs and run the same command again"
        )


def _start(open_worker: OpenWorker, num_threads: int, parent: int, gpus: SimpleQueue[str] | None) -> None:
    global _run
    if gpus is not None:
        os.environ[VISIBLE] = gpus.get()  # read when CUDA is first used
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    take_threads(num_threads)
    _run = open_worker()


def _work(spec: AnySpec, seed: int) -> list[str]:
    return _run(spec, seed)


def _end(*_: object) -> None:
    """At once: every file is whole at any time. Only the lock of the run is given back."""
    release_all()
    os._exit(1)


def _end_with(parent: int) -> None:
    """A parent that was killed can't stop its processes: they look for themselves."""
    while os.getppid() == parent:
        time.sleep(1)
    _end()
