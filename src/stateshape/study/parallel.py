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
from stateshape.study.plan import RunSpec
from stateshape.study.progress import Reporter

OpenWorker = Callable[[], Callable[[RunSpec, int], None]]
"""Called once in each process: loads what runs share, and gives what does one of them. Must be picklable."""

_run: Callable[[RunSpec, int], None]


def run_parallel(open_worker: OpenWorker, runs: list[RunSpec], seeds: list[int], jobs: int, reporter: Reporter) -> None:
    """Does every run for every seed, those that others name first. Raises what a run raised; the others are stopped then."""
    waiting = [(spec, seed) for seed in seeds for spec in runs]
    names = {spec.name for spec in runs}
    running: dict[Future[None], tuple[RunSpec, int]] = {}
    done: set[tuple[str, int]] = set()
    total, tick = len(waiting), reporter.track(f"runs, {jobs} at a time", "runs")
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),  # a fork would inherit torch's threads as they stand
        initializer=_start,
        initargs=(open_worker, max(1, torch.get_num_threads() // jobs), os.getpid()),
    )
    try:
        while waiting or running:
            ready = [
                (spec, seed)
                for spec, seed in waiting
                if all((name, seed) in done for name in spec.needs() if name in names)
            ]
            for spec, seed in ready[: jobs - len(running)]:
                waiting.remove((spec, seed))
                running[pool.submit(_work, spec, seed)] = spec, seed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                spec, seed = running.pop(future)
                future.result()
                done.add((spec.name, seed))
                reporter.say(f"{spec.label}, seed {seed}: done, {len(done)} of {total}")
                tick(len(done), total)
    except BrokenProcessPool:
        raise BadInput(
            f"jobs: got {jobs} runs at a time, and one of the processes died (out of memory?); expected room for all; "
            "use a smaller --jobs, and the same command goes on"
        ) from None
    finally:
        if waiting or running:
            for child in multiprocessing.active_children():
                child.terminate()  # every file is whole at any time, so a run can be cut off anywhere
        pool.shutdown(cancel_futures=True)


def _start(open_worker: OpenWorker, num_threads: int, parent: int) -> None:
    global _run
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(num_threads)
    _run = open_worker()


def _work(spec: RunSpec, seed: int) -> None:
    _run(spec, seed)


def _end_with(parent: int) -> None:
    """A parent that was killed can't stop its processes: they look for themselves."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
