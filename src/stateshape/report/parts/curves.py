"""Curves: loss, what is optimised, and gradient norm of a run; the same measure of several runs against the step, or the depth.

Thin lines are training seeds, the thick one is their mean. A gap is a step without a number. A lone point far outside is drawn
at the edge with its value as text. Does not know files, or what a measure means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from stateshape.core.records import StepRecord
from stateshape.core.step_values import optimised, reward_parts
from stateshape.report.drawing import text
from stateshape.report.drawing.figure import Plot, finished, short
from stateshape.report.drawing.labels import Labelled, end_labels, place_labels
from stateshape.report.drawing.outliers import EVERYTHING, Span, range_without_spikes
from stateshape.report.drawing.palette import Look
from stateshape.report.drawing.svg import new_figure, plot_style, settle
from stateshape.report.study_files import RunFiles

MAX_CURVE_POINTS = 300  # longer curves are averaged in bins: finer detail is below the width of a line
MAX_END_LABEL = 26  # characters in a line, beside a small plot
OUTSIDE_FONT = 7.0  # points, of the value of what is outside a plot
MAX_PANEL_LABEL = 20  # characters, along the height of a panel
Value = Callable[[StepRecord], float | None]
_SEED_WIDTH, _SEED_ALPHA, _MEAN_WIDTH = 0.7, 0.45, 1.6


class Curve(NamedTuple):
    xs: list[float]
    ys: list[float]  # nan: a gap


class Series(NamedTuple):
    """One measure of one run."""

    label: str
    look: Look
    seeds: list[Curve]


def curve_plot(files: RunFiles, look: Look) -> Plot | None:
    """Loss, what the method optimises, the parts of a summed reward, and gradient norm against the step."""
    seeds = [seed.steps for seed in files.seeds if seed.steps]
    if not seeds:
        return None
    records = [record for steps in seeds for record in steps]
    aims = optimised(records) | reward_parts(records)
    panels = [
        ("loss", _loss),
        *((heading, _stat(name)) for name, heading in aims.items()),
        ("gradient norm", _grad_norm),
    ]
    with plot_style():
        figure = new_figure(3.6, 0.4 + 1.35 * len(panels))
        first = None
        for number, (heading, value) in enumerate(panels, 1):
            axes = figure.add_subplot(len(panels), 1, number, sharex=first)
            first = first or axes
            _draw(axes, Series("", look, [curve(steps, value) for steps in seeds]), has_markers=False)
            axes.set_ylabel(short(heading, limit=MAX_PANEL_LABEL))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.tick_params(labelbottom=number == len(panels))
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        settle(figure)
    described = "; ".join([f"seeds: {len(seeds)}", *(_last_words(seeds, *panel) for panel in panels[:-1])])
    return finished(f"curves_{files.run.name}", files.run.label, "", described, figure)


def _last_words(seeds: Sequence[Sequence[StepRecord]], heading: str, value: Value) -> str:
    ends = [last for steps in seeds if (last := value(steps[-1])) is not None]
    return f"last {heading} {', '.join(text.number(end) for end in ends) or 'missing'}"


def _loss(record: StepRecord) -> float | None:
    return record.loss


def _grad_norm(record: StepRecord) -> float | None:
    return record.grad_norm


def _stat(name: str) -> Value:
    return lambda record: record.stats.get(name)


def series_plot(name: str, title: str, caption: str, series: Sequence[Series], *, x_label: str) -> Plot | None:
    """One measure of several runs, each named at the end of its line. None where no number is known."""
    drawn = [s for s in series if any(not math.isnan(y) for seed in s.seeds for y in seed.ys)]
    if not drawn:
        return None
    with plot_style():
        figure = new_figure(3.6, 2.7)
        axes = figure.add_subplot()
        lines = [_lines(s) for s in drawn]
        inside = range_without_spikes([one[0].ys for one in lines], [seed.ys for one in lines for seed in one[1:]])
        ends, described, beyond = [], [], []
        for s in drawn:
            last = _draw(axes, s, has_markers=True, inside=inside)
            ends.append(Labelled(*last, s.label))
            described.append(f"{s.label}: {text.number(last[1])} at {x_label} {last[0]:g}")
            beyond += _mark_outside(axes, s, inside)
        axes.set_xlabel(x_label)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        end_labels(axes, ends, [s.look.colour for s in drawn], limit=MAX_END_LABEL)
        place_labels(axes, beyond, lines=[], font_size=OUTSIDE_FONT)
    if beyond:
        caption = f"{caption} Hollow, with ↑ or ↓: the point is outside the plot range, at the value shown.".strip()
    return finished(name, title, caption, "; ".join(described), figure)


def _lines(series: Series) -> list[Curve]:
    """What is drawn: the mean, and the seeds where there are several."""
    return [mean_curve(series.seeds), *(series.seeds if len(series.seeds) > 1 else [])]


def _draw(axes: Axes, series: Series, *, has_markers: bool, inside: Span = EVERYTHING) -> tuple[float, float]:
    """Seeds and their mean, as far as they are inside; returns the mean's last known point."""
    look, (mean, *seeds) = series.look, _lines(series)
    for seed in seeds:
        # a single step has no line; a dot shows it
        marker, ys = "." if len(seed.xs) == 1 else "", [inside.at_edge(y) for y in seed.ys]
        axes.plot(seed.xs, ys, color=look.colour, marker=marker, linewidth=_SEED_WIDTH, alpha=_SEED_ALPHA)
    axes.plot(
        mean.xs,
        [inside.at_edge(y) for y in mean.ys],
        color=look.colour,
        linewidth=_MEAN_WIDTH,
        marker=look.marker if has_markers else "." if len(mean.xs) == 1 else "",
        markersize=4.5,
        markevery=[i for i in range(0, len(mean.ys), max(1, len(mean.ys) // 6)) if not inside.excludes(mean.ys[i])],
    )
    known = [(x, y) for x, y in zip(mean.xs, mean.ys) if not math.isnan(y)]
    return known[-1] if known else (math.nan, math.nan)


def _mark_outside(axes: Axes, series: Series, inside: Span) -> list[Labelled]:
    """A hollow marker at the edge for each point outside, and its value as a label: the mean's, else the farthest seed's."""
    mean, *seeds = _lines(series)
    of_seeds = [(x, y) for seed in seeds for x, y in zip(*seed) if inside.excludes(y)]
    of_mean = [(x, y) for x, y in zip(*mean) if inside.excludes(y)]
    labels = []
    for x, y in dict([*sorted(of_seeds, key=lambda point: abs(point[1])), *of_mean]).items():
        axes.plot(
            [x], [inside.at_edge(y)], color=series.look.colour, marker=series.look.marker, mfc="none", markersize=5.5
        )
        value = text.number(y, decimals=0 if abs(y) >= 100 else 2)
        labels.append(Labelled(x, inside.at_edge(y), f"{'↑' if y > inside.high else '↓'} {value}"))
    return labels


def mean_curve(seeds: Sequence[Curve]) -> Curve:
    """The mean over seeds at every x that some seed has; a gap where none has a number."""
    at: dict[float, list[float]] = {}
    for seed in seeds:
        for x, y in zip(seed.xs, seed.ys):
            at.setdefault(x, []).append(y)
    xs = sorted(at)
    return Curve(xs, [_mean_or_gap([None if math.isnan(y) else y for y in at[x]]) for x in xs])


def curve(steps: Sequence[StepRecord], value: Value) -> Curve:
    """Step and value, averaged in bins where there are very many; a bin without a number is a gap."""
    size = math.ceil(len(steps) / MAX_CURVE_POINTS)
    bins = [steps[i : i + size] for i in range(0, len(steps), size)]
    xs = [sum(step.step for step in group) / len(group) for group in bins]
    return Curve(xs, [_mean_or_gap([value(step) for step in group]) for group in bins])


def _mean_or_gap(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan
