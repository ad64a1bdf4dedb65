"""A run's way as one number per seed: is its score a line in the distance from the base, and how high does it come. Torch-free.

The distance is k3_distance (docs/dose.md), the root of a KL; the score is the target's mean over the items measured along
runs. The line is fitted by least squares to the base and the first half of the points. Source: arXiv:2609.32722 (there over the
first 30 checkpoints, up to 580 updates).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stateshape.analysis.dose import base_scores
from stateshape.analysis.scores import DosePoint, StudyScores

MEASURE = "k3_distance"
NAMES = {
    "line_r2": "R² of the score as a line in the distance",
    "line_slope": "slope of the score in the distance",
    "peak": "peak of the score on the way",
}
MIN_POINTS = 3  # a line through two points fits whatever they are


class Line(NamedTuple):
    """slope: score per root of a nat. r2: share of the scores' variance on the line."""

    slope: float
    r2: float


def values_along(study: StudyScores, run: str, name: str) -> dict[int, float]:
    """By seed: line_r2, line_slope or peak. Seeds without enough points are absent."""
    found = {}
    for seed, points in study.along.get(run, {}).items():
        value = _value(study, seed, points, name)
        if value is not None:
            found[seed] = value
    return found


def _value(study: StudyScores, seed: int, points: Sequence[DosePoint], name: str) -> float | None:
    task = study.plan.target.name
    scored = [point for point in points if task in point.scores]
    if name == "peak":
        return max((float(point.scores[task].mean()) for point in scored), default=None)
    base = base_scores(study, seed).get(task)
    first = [point for point in scored[: -(-len(scored) // 2)] if MEASURE in point.doses]
    if base is None:
        return None
    line = line_through(
        [0.0, *(point.doses[MEASURE] for point in first)],
        [float(base.mean()), *(float(point.scores[task].mean()) for point in first)],
    )
    return None if line is None else line.r2 if name == "line_r2" else line.slope


def line_through(distances: Sequence[float], scores: Sequence[float]) -> Line | None:
    """By least squares, with an intercept. None for fewer than three points, or where all distances or all scores are one."""
    x, y = np.array(distances, np.float64), np.array(scores, np.float64)
    if len(x) < MIN_POINTS:
        return None
    x, y = x - x.mean(), y - y.mean()
    xx, yy = float(x @ x), float(y @ y)
    if xx == 0 or yy == 0:
        return None
    return Line(slope=float(x @ y) / xx, r2=float(x @ y) ** 2 / (xx * yy))
