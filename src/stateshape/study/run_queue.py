"""Which runs of a study can begin: those whose teachers and states are there. One that died takes those that need it along."""

from __future__ import annotations

from collections.abc import Sequence

from stateshape.core.files import BadInput
from stateshape.core.progress import Reporter
from stateshape.study.checkpoints import CheckpointSpec
from stateshape.study.plan import AnySpec


class RunDied(BadInput):
    """A run cannot continue, e.g. because its loss is not a number. The study's other runs can."""


class Queue:
    """Every run for every seed, seeds first; a checkpoint once. Needs are the study's own runs of the same seed."""

    def __init__(self, runs: Sequence[AnySpec], seeds: Sequence[int], reporter: Reporter) -> None:
        self.waiting = [
            (spec, seed) for seed in seeds for spec in runs if not isinstance(spec, CheckpointSpec) or seed == seeds[0]
        ]
        self.num_runs = len(self.waiting)
        self.num_over = 0  # done, failed or skipped
        self._names = {spec.name for spec in runs}
        self._once = {
            spec.name: seeds[0] for spec in runs if isinstance(spec, CheckpointSpec)
        }  # for which seed they are done
        self._done: set[tuple[str, int]] = set()
        self._reporter = reporter

    def ready(self) -> list[tuple[AnySpec, int]]:
        return [
            (spec, seed)
            for spec, seed in self.waiting
            if all((name, self._once.get(name, seed)) in self._done for name in spec.needs() if name in self._names)
        ]

    def begin(self, spec: AnySpec, seed: int) -> None:
        self.waiting.remove((spec, seed))

    def done(self, spec: AnySpec, seed: int, warnings: Sequence[str] = ()) -> None:
        """Repeats the run's warnings."""
        self._done.add((spec.name, seed))
        self.num_over += 1
        for warning in warnings:
            self._reporter.warn(f"{spec.label}, seed {seed}: {warning}")

    def died(self, spec: AnySpec, seed: int, error: RunDied) -> None:
        """Says so, and leaves out the runs that need it."""
        self.num_over += 1
        self._reporter.say(f"{spec.label}, seed {seed}: failed; {error}")
        for other in [run for run, at in self.waiting if at == seed and spec.name in run.needs()]:
            self.begin(other, seed)
            self.died(other, seed, RunDied(f"it needs {spec.name}"))
