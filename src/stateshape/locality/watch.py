"""Observes a run while it trains, and records where its supervision is applied: locality.jsonl, supervision.json.

Every step: the supervision map and the teacher's graded continuations. Now and then: a probe (probe.py).
Implements core/watch.py's Watch. Changes nothing: it draws by its own seeds, and takes no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path

from stateshape.core import layout
from stateshape.core.files import append_jsonl, write_json
from stateshape.core.records import LocalityRecord
from stateshape.core.signals import Signal
from stateshape.core.watch import StepRead, StepUpdate
from stateshape.locality.budget import interval, is_probed, probe_work, step_work
from stateshape.locality.compared import Compared
from stateshape.locality.counts import StepCounts, kept, step_counts
from stateshape.locality.probe import Pending, begin_probe, end_probe, response_text
from stateshape.locality.recoverability import GradeCounts, Grader, count_grades, graded_teacher
from stateshape.locality.supervision import Tally, tally_of
from stateshape.policy.policy import Policy


class LocalityWatch:
    """Of one run. `seed`: the run's; `grader`: of the training items, None where they can't be graded.

    apart: names of terms about other prompts, whose states are not probed and whose supervision is counted apart.
    """

    phase = "locality"

    def __init__(
        self, compared: Compared, *, grader: Grader | None, folder: Path, seed: int, apart: Collection[str] = ()
    ) -> None:
        self.compared, self.grader, self.folder, self.seed, self.apart = compared, grader, folder, seed, apart
        self._begin_run()

    def _begin_run(self) -> None:
        self.every = self.compared.settings.every  # None: settled at the first step
        self.pending: Pending | None = None
        self.total, self.total_apart = Tally(), Tally()
        self._begin_interval()

    def _begin_interval(self) -> None:
        """What a probe reports of the steps since the one before it."""
        self.recent, self.teacher_grades = Tally(), GradeCounts()

    def resume(self, num_done: int) -> None:
        self._begin_run()
        last_probe = max(
            (record.step for record in kept(self.folder / layout.LOCALITY, LocalityRecord, num_done)), default=None
        )
        for counts in kept(self.folder / layout.SUPERVISION_STEPS, StepCounts, num_done):
            self.every = counts.every
            self._add(counts)
            if counts.step == last_probe:
                self._begin_interval()

    def _add(self, counts: StepCounts) -> None:
        tally = counts.tally()
        self.total, self.recent = self.total.plus(tally), self.recent.plus(tally)
        self.total_apart = self.total_apart.plus(counts.apart_tally())
        self.teacher_grades = self.teacher_grades.plus(counts.teacher_grades)

    def before_update(self, learner: Policy, read: StepRead) -> None:
        self.pending = None
        if self.every is None:
            self.every = self._affordable_interval(read)
        if is_probed(read.step, num_steps=read.num_steps, every=self.every):
            self.pending = begin_probe(
                learner, self._own(read), self.compared, self.grader, seed=self.seed, step=read.step
            )

    def _affordable_interval(self, read: StepRead) -> int:
        return interval(
            num_steps=read.num_steps,
            share=self.compared.settings.share,
            step_work=step_work(read.signals.values()),
            probe_work=probe_work(self.compared, self._own(read).values(), is_graded=self.grader is not None),
        )

    def after_update(self, learner: Policy, read: StepRead, update: StepUpdate) -> None:
        assert self.every is not None
        values = None if self.pending is None else end_probe(learner, self.pending)
        own, apart = self._tallies(read, update)
        counts = step_counts(read.step, self.every, own, apart, self._teacher_grades(learner, read))
        append_jsonl(self.folder / layout.SUPERVISION_STEPS, [counts])
        self._add(counts)
        if self.pending is not None and values is not None:
            append_jsonl(self.folder / layout.LOCALITY, [self._record(read.step, values, self.pending)])
            self.pending = None
            self._begin_interval()

    def _own(self, read: StepRead) -> dict[str, Signal]:
        return {name: signal for name, signal in read.signals.items() if name not in self.apart}

    def _tallies(self, read: StepRead, update: StepUpdate) -> tuple[Tally, Tally]:
        """Of the run's own terms, and of those apart."""
        own, apart = Tally(), Tally()
        for term, per_token in update.per_token.items():
            tally = tally_of(read.signals[term], per_token)
            own, apart = (own, apart.plus(tally)) if term in self.apart else (own.plus(tally), apart)
        return own, apart

    def _teacher_grades(self, learner: Policy, read: StepRead) -> GradeCounts:
        grader = self.grader
        if grader is None:
            return GradeCounts()
        signals = self._own(read).values()
        return count_grades(
            graded
            for signal in signals
            for graded in graded_teacher(signal, lambda ids: response_text(learner, ids), grader)
        )

    def _record(self, step: int, values: dict[str, float | None], pending: Pending) -> LocalityRecord:
        by_depth = {
            "teacher_recoverability": self.teacher_grades.by_quarter,
            "learner_recoverability": pending.learner_grades.by_quarter,
            "mass": self.recent.mass_by_depth(),
        }
        told = {**values, "teacher_recoverability": self.teacher_grades.share}
        # a run that is about to diverge may give none: the next step's own check says so
        finite = {name: value if value is not None and math.isfinite(value) else None for name, value in told.items()}
        return LocalityRecord(step=step, values=finite, by_depth=by_depth, num_prompts=pending.num_prompts)

    def finish(self, learner: Policy) -> None:
        """The whole run's map. A run that was finished before has no steps left to add up: its map stays."""
        steps = self.folder / layout.SUPERVISION_STEPS
        if steps.exists():
            write_json(self.folder / layout.SUPERVISION, self.total.as_map(self.total_apart))
            steps.unlink()
