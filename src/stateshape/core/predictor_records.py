"""What predicts forgetting, as a study writes it down (predictors.json). Torch-free. Does not know how a number is computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stateshape.core.records import Estimate

By = Literal["run", "configuration"]  # what is left out at a time: a run, or all seeds of a configuration


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictorRow:
    """One trained run. run: its configuration's name. values: what was measured of it; what is missing is not there.

    Names begin with their file, drift. or locality.; without in records of older versions, where c2st_auc is locality's.
    """

    run: str
    seed: int
    forgetting: float  # mean over retention tasks, base minus run
    values: dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldoutScore:
    """R^2 on held-out runs. p: chance of as good a value if forgetting were dealt anew to the configurations."""

    name: str
    predictors: list[str]
    by: By
    r2: Estimate
    p: float | None
    num_left_out: int  # runs that lack a predictor


@dataclass(frozen=True, kw_only=True, slots=True)
class Gain:
    """R^2 of one set minus that of another, on the runs that have both."""

    name: str
    versus: str
    by: By
    difference: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlation:
    predictor: str
    kind: Literal["Pearson", "Spearman"]
    value: Estimate
    p: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictorReport:
    """predictors.json."""

    study: str
    scores: list[HeldoutScore]
    gains: list[Gain]
    correlations: list[Correlation]
    rows: list[PredictorRow]
    notes: list[str] = field(default_factory=list)
