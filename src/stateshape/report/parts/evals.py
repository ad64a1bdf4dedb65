"""Evaluations while runs trained, as curves against the step.

Each task's first metric, the loss on a neutral text, and the distance from the base. Means over seeds are all that is
computed. Does not know how a score is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from stateshape.core.records import EvalStep
from stateshape.report.drawing.figure import Plot
from stateshape.report.drawing.palette import looks
from stateshape.report.parts.curves import Curve, Series, series_plot
from stateshape.report.study_files import RunFiles, StudyFiles

Value = Callable[[EvalStep], float | None]
NEUTRAL = "Change of the mean cross-entropy per token of a text that no task is about. Above 0: forgotten."
DISTANCE = "Root of the k3 estimate of KL(base || run) at texts that the base writes. 0: the base."


def eval_plots(study: StudyFiles) -> list[Plot]:
    marks = looks(study.plan, [])
    plots = [
        series_plot(
            f"while_training_{name}",
            title,
            caption,
            [Series(f.run.label, marks[f.run.name], over_steps(f, value)) for f in study.runs],
            x_label="step",
        )
        for name, title, caption, value in panels(study)
    ]
    return [plot for plot in plots if plot is not None]


def panels(study: StudyFiles) -> list[tuple[str, str, str, Value]]:
    """Name, title, caption and value of each plot; none where no run was evaluated while it trained."""
    records = [record for f in study.runs for seed in f.seeds for record in seed.evals]
    if not records:
        return []
    found: dict[str, tuple[str, int]] = {}
    for record in records:
        for task, scores in record.scores.items():
            found.setdefault(task, (next(iter(scores)), record.num_items[task]))
    tasks = [
        (task, f"{task} ({metric})", f"On the same {num} items each time.", score_of(task, metric))
        for task, (metric, num) in found.items()
    ]
    return [
        *tasks,
        ("neutral_change", "Forgetting of neutral text, nats", NEUTRAL, lambda record: record.neutral_change),
        ("k3_distance", "Distance from the base", DISTANCE, lambda record: record.distances.get("k3_distance")),
    ]


def score_of(task: str, metric: str) -> Value:
    return lambda record: record.scores.get(task, {}).get(metric)


def over_steps(files: RunFiles, value: Value) -> list[Curve]:
    """A curve per seed."""
    return [
        Curve([float(r.step) for r in seed.evals], [math.nan if (y := value(r)) is None else y for r in seed.evals])
        for seed in files.seeds
        if seed.evals
    ]
