"""Drift compared with its null distribution, per run and seed, as plots and as a table.

The null is what the same distance gives when nothing differs: within-prompt label swaps (mean, sd), and base against
base. Nothing is averaged: a p-value belongs to one pair of samples. Does not know how a distance is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from stateshape.core.records import DriftValue
from stateshape.report.drawing import text
from stateshape.report.drawing.figure import Plot, finished, rows_only, short, write_above
from stateshape.report.drawing.palette import Look, looks
from stateshape.report.drawing.svg import INK, SHADE, new_figure, plot_style
from stateshape.report.drawing.table import Cell, Column, Table
from stateshape.report.study_files import StudyFiles

NAMES = {
    "mmd2_unbiased": "MMD², unbiased",
    "mmd2_biased": "MMD², biased (the paper's)",
    "centroid": "Centroid distance",
    "sliced_wasserstein": "Sliced Wasserstein",  # of older records
    "sliced_wasserstein_1": "Sliced Wasserstein, p = 1",
    "sliced_wasserstein_2": "Sliced Wasserstein, p = 2",
    "energy": "Energy distance",
    "jaccard": "Jaccard distance",
    "ruzicka": "Ruzicka distance",
    "c2st_auc": "Classifier AUC",
}
DECIMALS = 5  # MMD^2 values differ in the fifth decimal (the paper: .01093, .01092, .01098)
_NULL_SDS = 2.0  # half width of the null's bar: about 95% where it is near normal


class Measured(NamedTuple):
    """A distance of one run and seed."""

    label: str
    look: Look
    seed: int
    value: DriftValue


def measured(study: StudyFiles) -> dict[str, list[Measured]]:
    """By distance, in the order of the records; the plan's order of runs within."""
    marks = looks(study.plan, [])
    found: dict[str, list[Measured]] = {}
    for files in study.runs:
        for seed in files.seeds:
            for name, value in (seed.drift.distances if seed.drift else {}).items():
                row = Measured(files.run.label, marks[files.run.name], seed.seed, value)
                found.setdefault(name, []).append(row)
    return found


def drift_name(key: str) -> str:
    """A distance in words; the prefix of a known name gives the features or text it is computed on."""
    for known, name in NAMES.items():
        if key.endswith(known):
            prefix = key.removesuffix(known).rstrip("_").replace("_", " ")
            return f"{name}, {prefix}" if prefix else name
    return key.replace("_", " ")


def null_plots(study: StudyFiles) -> list[Plot]:
    """One plot per distance of the primary set (responses, lexical features); the table has the others as well."""
    plots = [_null_plot(key, rows) for key, rows in measured(study).items() if key in NAMES]
    return [plot for plot in plots if plot is not None]


def _null_plot(key: str, rows: Sequence[Measured]) -> Plot | None:
    rows = [row for row in rows if row.value.value is not None]
    if not rows:
        return None
    labels = list(dict.fromkeys(row.label for row in rows))
    with plot_style():
        figure = new_figure(3.6, 0.6 + 0.42 * len(labels))
        axes = figure.add_subplot()
        rows_only(axes, len(labels))
        placed: list[tuple[float, Measured]] = []
        for index, label in enumerate(labels):
            write_above(axes, index - 0.28, short(label))
            same = [row for row in rows if row.label == label]
            for place, row in enumerate(same):
                at = index + 0.42 * (place + 1) / (len(same) + 1)
                placed.append((at, row))
        _draw_nulls(axes, placed)
        _draw_values(axes, placed)
        axes.margins(x=0.06)
    described = "; ".join(f"{row.label}, seed {row.seed}: {_words(row.value)}" for row in rows)
    return finished(f"null_{key}", drift_name(key), "", described, figure)


def _draw_nulls(axes: Axes, placed: Sequence[tuple[float, Measured]]) -> None:
    """All in one stroke of each kind, as below: a study of a thousand runs has thousands of marks."""
    nulls = [(at, row.value.null_mean, row.value.null_sd) for at, row in placed]
    known = [(at, mean, _NULL_SDS * sd) for at, mean, sd in nulls if mean is not None and sd is not None]
    if known:
        ats, means, half = zip(*known, strict=True)
        low, high = ([m + sign * h for m, h in zip(means, half, strict=True)] for sign in (-1, 1))
        axes.hlines(ats, low, high, color=SHADE, linewidth=5, zorder=1)
        axes.plot(means, ats, color=INK, marker="|", markersize=5, linestyle="", zorder=2)
    floors = [(row.value.base_vs_base, at) for at, row in placed if row.value.base_vs_base is not None]
    if floors:
        axes.plot(*zip(*floors, strict=True), color=INK, marker="x", markersize=3.5, linestyle="", zorder=2)


def _draw_values(axes: Axes, placed: Sequence[tuple[float, Measured]]) -> None:
    """With their intervals, in the looks of their runs."""
    for look in dict.fromkeys(row.look for _, row in placed):
        same = [(at, row.value) for at, row in placed if row.look == look]
        intervals = [(at, v.lo, v.hi) for at, v in same if v.lo is not None and v.hi is not None]
        if intervals:
            axes.hlines(*zip(*intervals, strict=True), color=look.colour, linewidth=1.3, zorder=3)
        ats, values = [at for at, _ in same], [v.value or 0.0 for _, v in same]
        axes.plot(values, ats, color=look.colour, marker=look.marker, markersize=4.5, linestyle="", zorder=4)


def _words(v: DriftValue) -> str:
    value = text.number(v.value, decimals=DECIMALS)
    if v.null_mean is None:
        return f"{value}, base vs base {text.number(v.base_vs_base, decimals=DECIMALS)}"
    return f"{value}, null mean {text.number(v.null_mean, decimals=DECIMALS)}, {text.p_value(v.p)}"


def smallest_p(study: StudyFiles) -> str:
    counts = {seed.drift.num_permutations for files in study.runs for seed in files.seeds if seed.drift} - {0}
    return f" The smallest possible p is {1 / (min(counts) + 1):.4f}." if len(counts) == 1 else ""


def drift_table(study: StudyFiles) -> Table:
    columns = [
        Column(key="label", heading="Run"),
        Column(key="distance", heading="Distance"),
        Column(key="seed", heading="Seed"),
        Column(key="value", heading="Value", kind="estimate", decimals=DECIMALS),
        Column(key="null_mean", heading="Null mean", kind="number", decimals=DECIMALS),
        Column(key="null_sd", heading="Null sd", kind="number", decimals=DECIMALS),
        Column(key="z", heading="z", kind="number", decimals=2),
        Column(key="p", heading="p", kind="number", decimals=4),
        Column(key="base_vs_base", heading="Base vs base", kind="number", decimals=DECIMALS),
        Column(key="floor", heading="Expected floor", kind="number", decimals=DECIMALS),
        Column(key="num_states", heading="States per side", kind="number", decimals=0),
        Column(key="note", heading="Note"),
    ]
    rows = [
        [
            Cell(text=row.label, colour=row.look.colour),
            Cell(text=drift_name(key)),
            Cell(text=str(row.seed)),
            Cell(value=v.value, lo=v.lo, hi=v.hi),
            Cell(value=v.null_mean),
            Cell(value=v.null_sd),
            Cell(value=v.z),
            Cell(value=v.p),
            Cell(value=v.base_vs_base),
            Cell(value=v.floor),
            Cell(value=v.num_states),
            Cell(text=v.note),
        ]
        for key, found in measured(study).items()
        for row in found
        for v in [row.value]
    ]
    notes = [
        "In brackets: 95% intervals over prompts. Null: labels swapped within prompts; z and the one-sided p compare the value "
        f"with it.{smallest_p(study)} p-values are not corrected for the number of rows in this table."
    ]
    return Table(
        name="drift", caption="Drift compared with its null distribution.", columns=columns, rows=rows, notes=notes
    )
