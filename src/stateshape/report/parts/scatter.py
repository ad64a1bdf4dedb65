"""Runs as points: gain against retention, and drift against forgetting.

A run has the same colour and marker everywhere. What is missing is not drawn, and a plot with nothing to draw does not
exist. Does not know files.
"""

from __future__ import annotations

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from stateshape.core.study_records import Comparison, Estimate, PlanRecord, RunComparison
from stateshape.report.drawing import text
from stateshape.report.drawing.figure import Plot, finished, short, whisker
from stateshape.report.drawing.labels import Labelled, Line, place_labels
from stateshape.report.drawing.outliers import Span, outer_fence
from stateshape.report.drawing.palette import Look, looks
from stateshape.report.drawing.svg import INK, SHADE, new_figure, plot_style
from stateshape.report.study_files import ordered_rows

DRIFT_PLOTS = {"mmd2_unbiased": "MMD² to base, unbiased", "mmd2_biased": "MMD² to base, biased (as in the paper)"}


class Point(NamedTuple):
    """A run in a plot; whiskers are (low, high)."""

    run: str
    label: str
    x: float
    y: float
    x_whisker: tuple[float, float] | None
    y_whisker: tuple[float, float] | None
    is_outside: bool = False  # drawn at the edge, hollow


def gain_plot(plan: PlanRecord, comparison: Comparison) -> Plot | None:
    """(a) Target score against mean retention, with 95% intervals; dashed: the base."""
    target = comparison.target
    rows = ordered_rows(plan, comparison)
    found = [(row, row.mean_retention, row.scores.get(target.name)) for row in rows if row.run != "base"]
    points = [
        Point(row.run, row.label, _value(x), _value(y), whisker(x), whisker(y))
        for row, x, y in found
        if _has_value(x) and _has_value(y)
    ]
    if not points:
        return None
    base = next((row.scores.get(target.name) for row in rows if row.run == "base"), None)
    with plot_style():
        figure = new_figure(6.4, 4.4)
        axes = figure.add_subplot()
        axes.margins(x=0.12, y=0.08)
        axes.set_xlabel("Mean retention (run / base)")
        axes.set_ylabel(f"{text.one_line(target.label)}: {text.one_line(target.metric)}")
        level = [_value(base)] if _has_value(base) else []
        # retention of the base is 1 by definition
        _draw(axes, points, looks(plan, [row.run for row in rows]), upright=[1.0], level=level)
    described = "; ".join(f"{p.label}: {text.number(p.y)} at retention {text.number(p.x)}" for p in points)
    caption = (
        "Up: better on the target; right: less forgetting. The base is where the dashed lines cross. "
        "Whiskers are 95% intervals: this study cannot distinguish points whose whiskers overlap widely."
    )
    return finished("gain_retention", f"{target.label} against mean retention", caption, described, figure)


def drift_plot(plan: PlanRecord, comparison: Comparison, *, distance: str) -> Plot | None:
    """(b) Mean forgetting against a drift distance, with the range that base against base covers."""
    rows = [row for row in ordered_rows(plan, comparison) if _has_drift(row, distance)]
    points = [_drift_point(row, distance) for row in rows if _has_value(row.mean_forgetting)]
    if not points:
        return None
    known = [null for row in rows if (null := row.drift[distance].base_vs_base) is not None]
    with plot_style():
        figure = new_figure(5.2, 3.9)
        axes = figure.add_subplot()
        axes.margins(x=0.12, y=0.08)
        axes.set_xlabel(DRIFT_PLOTS[distance])
        axes.set_ylabel("Mean forgetting (base − run)")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if known:
            axes.axvspan(min(known), max(known), facecolor=SHADE, edgecolor="none", zorder=0)
            axes.axvline(max(known), color=INK, alpha=0.6, linewidth=1.0, linestyle=(0, (1, 2)))
        shown = moved_inside(points, known)
        _draw(axes, shown, looks(plan, [row.run for row in rows]), upright=[], level=[0.0])
    described = "; ".join(
        f"{p.label}: drift {text.number(p.x, decimals=5)}, forgetting {text.number(p.y)}" for p in points
    )
    caption = (
        "Dotted line and grey band: the same distance between two base samples with different sampling seeds; a run there "
        "or to the left shows no measurable drift. Vertical whiskers: 95% intervals. Horizontal: range over seeds."
    )
    if shown != points:
        caption += " Hollow, with → or ←: the run is outside the plot range, at the value shown."
    return finished(f"drift_{distance}", f"Forgetting against {DRIFT_PLOTS[distance]}", caption, described, figure)


def _drift_point(row: RunComparison, distance: str) -> Point:
    seeds = list(row.drift_per_seed.get(distance, {}).values())
    x_whisker = (min(seeds), max(seeds)) if len(seeds) > 1 else None
    y = row.mean_forgetting
    return Point(row.run, row.label, _drift(row, distance), _value(y), x_whisker, whisker(y))


def moved_inside(points: list[Point], known: list[float]) -> list[Point]:
    """Runs far outside the others go to the edge with their value as text: one collapse must not hide the rest."""
    fence = outer_fence([p.x for p in points])
    inside = [p.x for p in points if not fence.excludes(p.x)]
    shown = Span(min([*inside, *known]), max([*inside, *known]))
    moved = []
    for p in points:
        if not fence.excludes(p.x):
            moved.append(p)
            continue
        label = f"{short(p.label)} {'→' if p.x > shown.high else '←'} {text.number(p.x, decimals=4)}"
        moved.append(p._replace(x=shown.at_edge(p.x), label=label, x_whisker=None, is_outside=True))
    return moved


def _has_value(estimate: Estimate | None) -> bool:
    return estimate is not None and estimate.value is not None


def _value(estimate: Estimate | None) -> float:
    assert estimate is not None
    assert estimate.value is not None
    return estimate.value


def _has_drift(row: RunComparison, distance: str) -> bool:
    return distance in row.drift and row.drift[distance].value is not None


def _drift(row: RunComparison, distance: str) -> float:
    value = row.drift[distance].value
    assert value is not None
    return value


def _draw(axes: Axes, points: list[Point], marks: dict[str, Look], *, upright: list[float], level: list[float]) -> None:
    """Points with whiskers and names; `upright` and `level` are the positions of the dashed lines of the base."""
    dashes = (0, (4, 3))
    for x in upright:
        axes.axvline(x, color=INK, linewidth=0.8, linestyle=dashes)
    for y in level:
        axes.axhline(y, color=INK, linewidth=0.8, linestyle=dashes)
    lines = []
    for p in points:
        # drawn as plain lines, not error bars: a percentile interval need not contain the point
        whiskers = [Line(p.x_whisker, (p.y, p.y))] if p.x_whisker else []
        whiskers += [Line((p.x, p.x), p.y_whisker)] if p.y_whisker else []
        look = marks[p.run]
        for line in whiskers:
            axes.plot(line.x, line.y, color=look.colour, linewidth=1.1, alpha=0.7)
        filled = "none" if p.is_outside else look.colour
        axes.plot([p.x], [p.y], color=look.colour, marker=look.marker, markersize=6.5, mfc=filled, linestyle="")
        lines += whiskers
    lines += [Line((x, x), axes.get_ylim()) for x in upright] + [Line(axes.get_xlim(), (y, y)) for y in level]
    place_labels(axes, [Labelled(p.x, p.y, short(p.label)) for p in points], lines=lines)
