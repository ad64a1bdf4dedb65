"""dose.json of a study: score and retention of its runs against their distance from the base. Torch-free.

A missing number is None, never zero. Does not know how any number is computed (analysis/dose_report.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stateshape.core.study_records import Estimate, TaskRecord

DOSE_NAMES = {
    "forward_kl_new_task_nats": "KL from the base",
    "k3_distance": "sampled distance from the base (k3)",
    "update_frobenius": "size of the weight update",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class DosePlace:
    """A measured point of one seed: means over the items."""

    step: int
    doses: dict[str, float]  # by measure
    target: float
    retained: float | None  # mean over the retention tasks; None: there are none


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedCurve:
    """One seed's points in the order of its steps. The base, at dose 0, is not among them."""

    seed: int
    places: list[DosePlace]


@dataclass(frozen=True, kw_only=True, slots=True)
class DoseMean:
    """The mean over seeds at one dose, with the band around it. lo, hi: None with one seed."""

    dose: float
    target: float
    target_lo: float | None
    target_hi: float | None
    retained: float | None
    retained_lo: float | None
    retained_hi: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DoseArm:
    """A run against one measure. means: from dose 0 to the largest that all its seeds reach."""

    run: str
    label: str
    reach: float  # the largest dose that all its seeds reach
    means: list[DoseMean]


Band = Literal["t interval over seeds", "range over seeds", "none: one seed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DoseRow:
    """A run at the common dose, or the base at dose 0."""

    run: str
    label: str
    scores: dict[str, Estimate]  # by task
    gain: Estimate | None  # on the target: run minus base; None: the base
    retained: Estimate | None  # on the mean of the retention tasks: run minus base
    reach: float  # the largest dose that all its seeds reach
    first: float  # the least dose at which one of its seeds was measured: below it, scores are on a line from the base


@dataclass(frozen=True, kw_only=True, slots=True)
class DoseMeasure:
    """All runs against one measure of distance. common: the largest dose that every seed of every run reaches."""

    measure: str
    common: float | None
    arms: list[DoseArm]
    rows: list[DoseRow]
    limited_by: str | None  # the label of the run that reaches least


@dataclass(frozen=True, kw_only=True, slots=True)
class DoseReport:
    """dose.json."""

    target: TaskRecord
    retention: list[TaskRecord]
    base_target: float
    base_retained: float | None
    num_items: dict[str, int]  # by task, at a point
    band: Band
    curves: dict[str, list[SeedCurve]]  # by run
    measures: list[DoseMeasure]
