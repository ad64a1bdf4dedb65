"""Distribution of a run's training signal by origin of the token, depth in the response and the learner's own surprisal.

A square's area is a cell's share of the run's total mass, the mean over seeds; all runs share one scale. The same shares
as tables. Does not know what mass is (core/method.py, LossValue).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from stateshape.core.records import SupervisionMap
from stateshape.report.drawing import text
from stateshape.report.drawing.figure import Plot, finished
from stateshape.report.drawing.palette import Look, looks
from stateshape.report.drawing.svg import new_figure, plot_style
from stateshape.report.drawing.table import Cell, Column, Table
from stateshape.report.study_files import RunFiles, StudyFiles

Place = tuple[str, int, int]  # origin, depth, surprisal
_CELL_IN, _MARGIN_IN, _AROUND_IN = 0.19, 0.6, 0.75  # inches: a cell; beside the panels; above and below them
_MIN_IN = 2.4  # the scale's name needs so much
_FULL_SIDE = 0.94  # of a cell: the largest share's square


class Shares(NamedTuple):
    """A run's mean over seeds of each cell's share of the mass; the shares of a seed sum to 1.

    apart: mass of terms about other prompts than the run's, which is in no cell, as a share of that.
    """

    label: str
    name: str
    look: Look
    num_depths: int
    edges_nats: list[float]
    shares: dict[Place, float]
    apart: float = 0.0

    def origins(self) -> list[str]:
        return list(dict.fromkeys(origin for origin, _, _ in self.shares))


def supervision_shares(study: StudyFiles) -> list[Shares]:
    marks = looks(study.plan, [])
    found = [_shares(files, marks[files.run.name]) for files in study.runs]
    return [shares for shares in found if shares is not None]


def _shares(files: RunFiles, look: Look) -> Shares | None:
    maps = [seed.supervision for seed in files.seeds if seed.supervision is not None]
    alike = [m for m in maps if _mass(m) > 0 and _grid(m) == _grid(maps[0])]
    if not alike:
        return None
    sums: dict[Place, float] = {}
    for m in alike:
        for cell in m.cells:
            place = cell.origin, cell.depth, cell.surprisal
            sums[place] = sums.get(place, 0.0) + cell.mass / _mass(m) / len(alike)
    depths, edges = _grid(alike[0])
    apart = math.fsum(cell.mass / _mass(m) / len(alike) for m in alike for cell in m.apart)
    return Shares(files.run.label, files.run.name, look, depths, edges, sums, apart)


def _mass(m: SupervisionMap) -> float:
    return math.fsum(cell.mass for cell in m.cells)


def _grid(m: SupervisionMap) -> tuple[int, list[float]]:
    return m.num_depths, m.surprisal_edges_nats


def supervision_plots(runs: Sequence[Shares]) -> list[Plot]:
    largest = max((share for run in runs for share in run.shares.values()), default=0.0)
    return [_plot(run, largest) for run in runs] if largest > 0 else []


def _plot(run: Shares, largest: float) -> Plot:
    origins = run.origins()
    with plot_style():
        width = (len(run.edges_nats) + 1) * _CELL_IN * len(origins)
        figure = new_figure(max(_MIN_IN, _MARGIN_IN + width), _AROUND_IN + run.num_depths * _CELL_IN)
        panels = figure.subplots(1, len(origins), squeeze=False, sharey=True)[0]
        for axes, origin in zip(panels, origins):
            axes.set_title(text.one_line(origin), fontsize=8.5)
            _draw(axes, run, origin, largest)
        panels[0].set_ylabel("depth in the response")
        figure.supxlabel("learner surprisal from, nats", fontsize=8.5)
    described = "; ".join(
        f"{origin}: {100 * math.fsum(_of(run, origin).values()):.0f}% of the signal, {_peak(_of(run, origin), run)}"
        for origin in origins
    )
    return finished(f"supervision_{run.name}", run.label, "", described, figure)


def _of(run: Shares, origin: str) -> dict[tuple[int, int], float]:
    return {(depth, bin_): share for (o, depth, bin_), share in run.shares.items() if o == origin}


def _peak(shares: dict[tuple[int, int], float], run: Shares) -> str:
    depth, bin_ = max(shares, key=lambda at: shares[at])
    return f"most at depth {_depth(depth, run)}, surprisal {_bin(bin_, run)} nats"


def _draw(axes: Axes, run: Shares, origin: str, largest: float) -> None:
    num_bins = len(run.edges_nats)
    for (depth, bin_), share in _of(run, origin).items():
        side = _FULL_SIDE * math.sqrt(share / largest)
        corner = (bin_ + 0.5 - side / 2, depth + 0.5 - side / 2)
        axes.add_patch(Rectangle(corner, side, side, facecolor=run.look.colour, edgecolor="none"))
    axes.set_aspect("equal")
    axes.set_xlim(0, num_bins)
    axes.set_ylim(run.num_depths, 0)
    axes.set_xticks(range(num_bins), [f"{edge:g}" for edge in run.edges_nats], fontsize=6.5)
    axes.set_yticks([0, run.num_depths / 2, run.num_depths], ["0%", "50%", "100%"], fontsize=7)


def _depth(depth: int, run: Shares) -> str:
    return f"{100 * depth / run.num_depths:.0f}–{100 * (depth + 1) / run.num_depths:.0f}%"


def _bin(index: int, run: Shares) -> str:
    edges = run.edges_nats
    low = f"{edges[index]:g}" if index < len(edges) else str(index)
    return f"{low}–{edges[index + 1]:g}" if index + 1 < len(edges) else f"≥ {low}"


def share_table(run: Shares) -> Table:
    """Percent of the run's mass: a row per origin and depth, a column per bin of surprisal."""
    bins = range(len(run.edges_nats))
    columns = [
        Column(key="origin", heading="Origin"),
        Column(key="depth", heading="Depth"),
        *[Column(key=f"bin{i}", heading=f"{_bin(i, run)} nats", kind="number", decimals=1) for i in bins],
        Column(key="all", heading="All", kind="number", decimals=1),
    ]
    rows = []
    for origin in run.origins():
        shares = _of(run, origin)
        for depth in range(run.num_depths):
            found = [shares.get((depth, i)) for i in bins]
            cells = [Cell(value=None if s is None else 100 * s) for s in [*found, _sum(found)]]
            rows.append([Cell(text=origin), Cell(text=_depth(depth, run)), *cells])
    caption = f"{run.label}: share of the training signal, %, by origin, depth and learner surprisal."
    if run.apart > 0:
        caption += f" The term that protects another task is not in it; its mass is {100 * run.apart:.1f}% of this."
    return Table(name=f"supervision_{run.name}", caption=caption, columns=columns, rows=rows)


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None


def supervision_table(study: StudyFiles) -> Table:
    """Every cell of every seed, as it was recorded."""
    columns = [
        Column(key="run", heading="Run"),
        Column(key="seed", heading="Seed"),
        Column(key="origin", heading="Origin"),
        Column(key="depth", heading="Depth, tenth", kind="number", decimals=0),
        Column(key="surprisal_from_nats", heading="Surprisal from, nats", kind="number", decimals=2),
        Column(key="num_tokens", heading="Tokens", kind="number", decimals=0),
        Column(key="mass", heading="Mass", kind="number", decimals=3),
    ]
    rows = [
        [
            Cell(text=files.run.name),
            Cell(text=str(seed.seed)),
            Cell(text=c.origin),
            Cell(value=c.depth),
            Cell(value=m.surprisal_edges_nats[c.surprisal]),
            Cell(value=c.num_tokens),
            Cell(value=c.mass),
        ]
        for files in study.runs
        for seed in files.seeds
        if (m := seed.supervision) is not None
        for c in m.cells
    ]
    return Table(name="supervision", caption="Distribution of the training signal.", columns=columns, rows=rows)
