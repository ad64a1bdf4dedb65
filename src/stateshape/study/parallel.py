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
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import torch

from stateshape.core.files import BadInput
from stateshape.core.locks import release_all
from stateshape.core.progress import Reporter
from stateshape.study.plan import AnySpec
from stateshape.study.run_queue import Queue, RunDied

OpenWorker = Callable[[], Callable[[AnySpec, int], list[str]]]
"""Called once in each process: loads what runs share, and gives what does one of them and returns its warnings. Must be
picklable."""

_run: Callable[[AnySpec, int], list[str]]


def run_parallel(open_worker: OpenWorker, runs: list[AnySpec], seeds: list[int], jobs: int, reporter: Reporter) -> None:
    """Does every run for every seed, those that others name first.

    The others go on without a run that died. Raises whatever else a run raised; the others are stopped then.
    """
    queue = Queue(runs, seeds, reporter)
    running: dict[Future[list[str]], tuple[AnySpec, int]] = {}
    tick = reporter.track(f"runs, {jobs} at a time", "runs")
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),  # a fork would inherit torch's threads as they stand
        initializer=_start,
        initargs=(open_worker, max(1, torch.get_num_threads() // jobs), os.getpid()),
    )
    try:
        while queue.waiting or running:
            for spec, seed in queue.ready()[: jobs - len(running)]:
                queue.begin(spec, seed)
                running[pool.submit(_work, spec, seed)] = spec, seed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                spec, seed = running.pop(future)
                try:
                    warnings = future.result()
                except RunDied as error:
                    queue.died(spec, seed, error)
                else:
                    queue.done(spec, seed, warnings)
                    reporter.say(f"{spec.label}, seed {seed}: done, {queue.num_over} of {queue.num_runs}")
                tick(queue.num_over, queue.num_runs)
    except BrokenProcessPool:
        raise BadInput(
            f"jobs: got {jobs} runs at a time, and one of the processes died (out of memory?); expected memory for "
            "all; use a smaller --jobs and run the same command again"
        ) from None
    finally:
        if queue.waiting or running:
            for child in multiprocessing.active_children():
                child.terminate()  # every file is whole at any time, so a run can be cut off anywhere
        pool.shutdown(cancel_futures=True)


def _start(open_worker: OpenWorker, num_threads: int, parent: int) -> None:
    global _run
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(num_threads)
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
