"""The evaluated items of a whole study, lined up by item and training seed. Torch-free.

Read by reading.py; estimates.py makes contrasts between runs of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from stateshape.core.records import DriftRecord, KlRecord, LocalityRecord
from stateshape.core.study_records import BASE, PlanRecord, TaskRecord

EXTRACTIONS = ("strict", "flexible")  # of an answer in free text

SeedScores = dict[int, np.ndarray]  # training seed -> score per item, items in the task's common order


@dataclass(frozen=True, kw_only=True, slots=True)
class DosePoint:
    """A run after `step` completed steps: its distance from the base by measure (docs/dose.md), and its scores [N] by task."""

    step: int
    doses: dict[str, float]
    scores: dict[str, np.ndarray]
    secondary: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)  # by task and name


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyScores:
    """What a study folder holds. scores[run][task][seed] is aligned over all runs and seeds of a task."""

    plan: PlanRecord
    scores: dict[str, dict[str, SeedScores]]
    drift: dict[str, dict[int, DriftRecord]]  # by run and seed
    missing: list[str]
    secondary: dict[str, dict[str, dict[str, SeedScores]]] = field(default_factory=dict)  # by run, task and name
    locality: dict[str, dict[int, LocalityRecord]] = field(default_factory=dict)  # by run and seed, see probe_values.py
    locality_before: dict[str, dict[int, LocalityRecord]] = field(
        default_factory=dict
    )  # the probe before the first step
    warnings: list[str] = field(default_factory=list)
    drift_since_start: dict[str, dict[int, DriftRecord]] = field(default_factory=dict)  # by run and seed
    kl: dict[str, KlRecord] = field(default_factory=dict)  # by checkpoint
    along: dict[str, dict[int, list[DosePoint]]] = field(default_factory=dict)
    """By run and seed, the points measured on its way in the order of its steps; the base, at dose 0, is not among them."""
    counts: dict[str, dict[int, dict[str, float]]] = field(default_factory=dict)
    """By run and seed, what its training took: steps, supervised_tokens, sampled_tokens."""
    along_items: dict[str, np.ndarray] = field(default_factory=dict)
    """By task, which of its items were measured along runs; a task that is not there: all of them."""
    subjects: dict[str, list[str]] = field(default_factory=dict)
    """By task, the subject of each item; of tasks whose items have several."""

    def tasks(self) -> list[TaskRecord]:
        return [self.plan.target, *self.plan.retention]

    @property
    def measured_once(self) -> set[str]:
        """Runs without a training seed: the base, and checkpoints."""
        return {BASE, *(planned.name for planned in self.plan.runs if planned.checkpoint is not None)}

    def label(self, run: str) -> str:
        return next((planned.label for planned in self.plan.runs if planned.name == run), run)

    def common_seeds(self, runs: Sequence[str], tasks: Sequence[str]) -> list[int]:
        """Seeds that every run has for every task (none of no tasks); a run measured once has them all, alone its own."""
        held = {run: [set(self.scores.get(run, {}).get(task, {})) for task in tasks] for run in runs}
        if not tasks or any(not seeds for per_task in held.values() for seeds in per_task):
            return []
        once = {run for run in self.measured_once & held.keys() if all(len(seeds) == 1 for seeds in held[run])}
        bound = [seeds for run, per_task in held.items() if run not in once for seeds in per_task]
        return sorted(set.intersection(*(bound or next(iter(held.values())))))

    def matrix(self, run: str, task: str, seeds: Sequence[int]) -> np.ndarray:
        """[S, N] scores; those of a run measured once are repeated."""
        per_seed = self.scores[run][task]
        if run in self.measured_once and len(per_seed) == 1:
            return np.repeat(next(iter(per_seed.values()))[None, :], len(seeds), axis=0)
        return np.stack([per_seed[seed] for seed in seeds])
