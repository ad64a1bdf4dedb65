"""Score and retention against the distance from the base, one line per run; and every run at the common dose, as a table.

What is drawn was computed before (core/dose_records.py). Does not know files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from stateshape.core.dose_records import DOSE_NAMES, DoseArm, DoseMean, DoseMeasure, DosePlace, DoseReport, SeedCurve
from stateshape.core.study_records import BASE, Estimate, PlanRecord
from stateshape.report.drawing import text
from stateshape.report.drawing.figure import Plot, finished, short
from stateshape.report.drawing.labels import Labelled, end_labels
from stateshape.report.drawing.palette import BASE_COLOUR, Look, looks
from stateshape.report.drawing.svg import INK, new_figure, plot_style
from stateshape.report.drawing.table import Cell, Column, Table, estimate_cell

AXIS = {  # what a measure is called below the plot
    "forward_kl_new_task_nats": "distance from the base: KL(base || run) on the base's own text, nats",
    "k3_distance": "distance from the base: root of the sampled KL (k3) on the base's own text",
    "update_frobenius": "size of the weight update: Frobenius norm",
}
SQUARED = ("forward_kl_new_task_nats",)  # grows with the square of a small change: its axis is a root's
PIECES = 12  # of a line between two measured points
TICK_GAP = 0.14  # of the axis, between two ticks: 0.005 beside 0.02 needs as much
LABELS = 30  # characters in a line of a run's name beside the plot
HEADROOM = 0.06  # of the data's range, above and below


class Panel(NamedTuple):
    """One of the two scores: how it is read from a seed's point and from a mean."""

    title: str
    of_place: Callable[[DosePlace], float | None]
    of_mean: Callable[[DoseMean], tuple[float | None, float | None, float | None]]
    base: float | None


def dose_plots(report: DoseReport, plan: PlanRecord) -> list[Plot]:
    drawable = [replace(one, arms=[arm for arm in one.arms if arm.means]) for one in report.measures]
    return [dose_plot(report, measure, plan) for measure in drawable if measure.arms]


def dose_plot(report: DoseReport, measure: DoseMeasure, plan: PlanRecord) -> Plot:
    """Target and mean retained score side by side."""
    panels, marks = panels_of(report), looks(plan, [arm.run for arm in measure.arms])
    with plot_style():
        figure = new_figure(7.6 if len(panels) > 1 else 5.0, 3.7)
        for number, panel in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), number + 1)
            axes.set_title(short(panel.title, limit=48), fontsize=9.5, loc="left", parse_math=False)
            _draw_base(axes, panel)
            for arm in measure.arms:
                _draw_arm(axes, panel, measure.measure, arm, report.curves.get(arm.run, []), marks[arm.run])
            _frame(axes, panel, report, measure)
            if number == 0:
                axes.set_ylabel("score")
                _write_names(axes, panel, measure)
        figure.supxlabel(_axis_label(measure.measure), fontsize=9, color=INK)
        ends = [Labelled(arm.reach, _end(arm, panels[-1]), arm.label) for arm in measure.arms]
        end_labels(axes, ends, [marks[arm.run].colour for arm in measure.arms], limit=LABELS, font_size=8.0)
    name = DOSE_NAMES.get(measure.measure, measure.measure)
    return finished(
        f"dose_{measure.measure}", f"Score and retention against {name}", _caption(report, measure), _described(measure), figure
    )  # fmt: skip


def panels_of(report: DoseReport) -> list[Panel]:
    target = Panel(
        f"Target: {text.one_line(report.target.label)}",
        lambda place: place.target,
        lambda mean: (mean.target, mean.target_lo, mean.target_hi),
        report.base_target,
    )
    if report.base_retained is None:
        return [target]
    kept = ", ".join(text.one_line(task.label) for task in report.retention)
    retained = Panel(
        f"Retained: mean of {kept}" if len(report.retention) > 1 else f"Retained: {kept}",
        lambda place: place.retained,
        lambda mean: (mean.retained, mean.retained_lo, mean.retained_hi),
        report.base_retained,
    )
    return [target, retained]


def _draw_base(axes: Axes, panel: Panel) -> None:
    if panel.base is not None:
        axes.axhline(panel.base, color=BASE_COLOUR, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.plot([0], [panel.base], color=BASE_COLOUR, marker="*", markersize=11, clip_on=False, zorder=5)


def _draw_arm(axes: Axes, panel: Panel, measure: str, arm: DoseArm, seeds: Sequence[SeedCurve], look: Look) -> None:
    """Seeds thin, with a dot at each measured point and a ring at the last; their mean thick, with its band."""
    for curve in seeds:
        xs, ys = seed_line(panel, measure, curve)
        axes.plot(*finer(xs, ys), color=look.colour, linewidth=0.7, alpha=0.45)
        axes.plot(xs[1:], ys[1:], color=look.colour, marker=".", markersize=3.5, alpha=0.55, linestyle="")
        axes.plot(xs[-1:], ys[-1:], color=look.colour, marker="o", markersize=6, mfc="none", mew=0.9, linestyle="")
    means = [(mean.dose, *panel.of_mean(mean)) for mean in arm.means]
    known = [(dose, at, lo, hi) for dose, at, lo, hi in means if at is not None]
    banded = [(dose, lo, hi) for dose, _, lo, hi in known if lo is not None and hi is not None]
    if banded:
        doses, los, his = zip(*banded)
        axes.fill_between(doses, los, his, color=look.colour, alpha=0.13, linewidth=0)
    if not known:
        return
    axes.plot([dose for dose, *_ in known], [at for _, at, *_ in known], color=look.colour, linewidth=1.9)
    axes.plot([known[-1][0]], [known[-1][1]], color=look.colour, marker=look.marker, markersize=6, linestyle="")


def seed_line(panel: Panel, measure: str, curve: SeedCurve) -> tuple[list[float], list[float]]:
    """From the base on."""
    points = [(0.0, panel.base)] + [
        (place.doses[measure], panel.of_place(place)) for place in curve.places if measure in place.doses
    ]
    known = [(dose, value) for dose, value in points if value is not None]
    return [dose for dose, _ in known], [value for _, value in known]


def finer(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    """The same line with points between: what is straight in the dose is curved on an axis of roots."""
    pairs = list(zip(xs, ys))
    found = [
        (x0 + share * (x1 - x0), y0 + share * (y1 - y0))
        for (x0, y0), (x1, y1) in pairwise(pairs)
        for share in np.linspace(0, 1, PIECES, endpoint=False)
    ] + pairs[-1:]
    return [x for x, _ in found], [y for _, y in found]


def _frame(axes: Axes, panel: Panel, report: DoseReport, measure: DoseMeasure) -> None:
    """The range of what was measured; bands may leave it."""
    lines = [
        seed_line(panel, measure.measure, curve) for arm in measure.arms for curve in report.curves.get(arm.run, [])
    ]
    values = [value for _, ys in lines for value in ys] or [panel.base or 0.0]
    farthest = max((dose for xs, _ in lines for dose in xs), default=0.0)
    room = HEADROOM * ((max(values) - min(values)) or 1.0)
    axes.set_ylim(min(values) - room, max(values) + room)
    axes.yaxis.set_major_locator(MaxNLocator(6))
    if measure.measure in SQUARED and farthest > 0:
        axes.set_xscale("function", functions=(_root, np.square))
        axes.set_xticks(root_ticks(farthest))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_locator(MaxNLocator(1))
    axes.set_xlim(0, farthest * 1.02 if farthest > 0 else 1.0)
    if measure.common is not None:
        axes.axvline(measure.common, color=INK, linewidth=1.0, linestyle=(0, (1, 2)), alpha=0.75)


def _write_names(axes: Axes, panel: Panel, measure: DoseMeasure) -> None:
    """What the dashed and the dotted line are: once, in the first panel."""
    if panel.base is not None:
        axes.annotate(
            "base", (1, panel.base), xycoords=axes.get_yaxis_transform(), xytext=(-3, 3), textcoords="offset points",
            ha="right", fontsize=7.5, color=INK, alpha=0.8,
        )  # fmt: skip
    if measure.common is not None:
        is_left = axes.transAxes.inverted().transform(axes.transData.transform((measure.common, 0)))[0] < 0.5
        axes.annotate(
            "common dose", (measure.common, 0), xycoords=axes.get_xaxis_transform(), xytext=(4 if is_left else -4, 4),
            textcoords="offset points", ha="left" if is_left else "right", fontsize=7.5, color=INK, alpha=0.8,
        )  # fmt: skip


def _root(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(values, 0.0))


def root_ticks(farthest: float) -> list[float]:
    """0, and those of 1, 2, 5 x 10^k up to `farthest` that have room on an axis of roots."""
    highest = math.floor(math.log10(farthest))
    nice = [m * 10.0**k for k in range(highest, highest - 4, -1) for m in (5, 2, 1)]
    chosen: list[float] = []
    for tick in [tick for tick in nice if tick <= farthest]:
        place = math.sqrt(tick / farthest)
        last = math.sqrt(chosen[-1] / farthest) if chosen else math.inf
        if last - place >= TICK_GAP and place >= TICK_GAP:
            chosen.append(tick)
    return [0.0, *reversed(chosen)]


def _axis_label(measure: str) -> str:
    label = AXIS.get(measure, measure.replace("_", " "))
    return f"{label} (square-root scale)" if measure in SQUARED else label


def _end(arm: DoseArm, panel: Panel) -> float:
    value = panel.of_mean(arm.means[-1])[0]
    return math.nan if value is None else value


def _caption(report: DoseReport, measure: DoseMeasure) -> str:
    bands = {
        "t interval over seeds": "band: 95% t interval over training seeds",
        "range over seeds": "band: lowest to highest seed, since fewer than 3 seeds give no useful interval",
        "none: one seed": "one seed each, so no band",
    }
    counts = sorted(set(report.num_items.values()))
    items = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    common = "" if measure.common is None else f" Dotted line: the common dose, {text.number(measure.common)}."
    return (
        "Compare runs at the same place on the horizontal axis: higher is better. Star and dashed line: the untrained base. "
        f"Thick: mean over seeds at equal distance, as far as all seeds come ({bands[report.band]}). Thin: single seeds, "
        f"measured at the dots on {items} items per task; ring: where the run ended, which may be on its way back.{common}"
    )


def _described(measure: DoseMeasure) -> str:
    return "; ".join(
        f"{arm.label}: target {text.number(arm.means[-1].target)}, retained {text.number(arm.means[-1].retained)} at "
        f"{text.number(arm.reach)}"
        for arm in measure.arms
    )


def dose_tables(report: DoseReport, plan: PlanRecord) -> list[Table]:
    """Every run at the common dose, for each measure that has one."""
    return [dose_table(report, measure, plan) for measure in report.measures if measure.rows]


def dose_table(report: DoseReport, measure: DoseMeasure, plan: PlanRecord) -> Table:
    assert measure.common is not None
    marks = looks(plan, [row.run for row in measure.rows])
    tasks = [report.target, *report.retention]
    columns = [
        Column(key="label", heading="Run"),
        *[Column(key=task.name, heading=task.label, kind="estimate") for task in tasks],
        Column(key="gain", heading="Δ target", kind="estimate", is_signed=True),
        Column(key="retained", heading="Δ mean retained", kind="estimate", is_signed=True),
        Column(key="seeds", heading="Seeds", kind="number", decimals=0),
        Column(key="reach", heading="Largest dose", kind="number"),
    ]
    rows = [
        [
            Cell(text=row.label, colour=marks[row.run].colour),
            *[estimate_cell(row.scores.get(task.name)) for task in tasks],
            estimate_cell(row.gain),
            estimate_cell(row.retained),
            Cell(value=_seeds(row.scores.get(report.target.name))),
            Cell(value=None if row.run == BASE else row.reach),
        ]
        for row in measure.rows
    ]
    name = DOSE_NAMES.get(measure.measure, measure.measure)
    before = [f"{row.label} ({text.number(row.first)})" for row in measure.rows if row.first > measure.common]
    notes = [
        f"The common dose is as far as every seed of every run comes; {measure.limited_by} comes least far. Scores are "
        "interpolated linearly between measured points, on the items measured there. Δ: minus the base, paired; 95% intervals "
        "over seeds and items, wider on both sides by what interpolation may be off."
    ]
    if before:
        notes.append(
            f"The common dose lies before the first measured point of {', '.join(before)}: these rows are on a straight line "
            "from the base, their intervals are too narrow, and they say little. More points, or fewer runs, would help."
        )
    return Table(
        name=f"dose_{measure.measure}",
        caption=f"All runs at the common dose: {name} {text.number(measure.common)}.",
        columns=columns,
        rows=rows,
        notes=notes,
    )


def _seeds(estimate: Estimate | None) -> float | None:
    return None if estimate is None else float(estimate.n_seeds)
