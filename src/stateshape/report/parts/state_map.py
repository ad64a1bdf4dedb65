"""The state map: positions of base, learner, teacher and training states, with the text of each point.

On the page each run is a plane of radio buttons: hover, tap or arrow keys show a state's text, without a script. Points and
texts are bounded, so that the page stays small; state_map.json has all. Does not know how the coordinates were made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stateshape.core.records import Span
from stateshape.core.study_records import MapPoint, PlanRecord, StateMap
from stateshape.report.drawing.figure import Plot, finished, short
from stateshape.report.drawing.palette import BASE_COLOUR, looks
from stateshape.report.drawing.svg import RULE, new_figure, plot_style
from stateshape.report.drawing.table import Cell, Column, Table
from stateshape.report.study_files import spread

MAX_POINTS = 60  # of a run and kind, on the page and in the figure
MAX_PROMPT, MAX_RESPONSE = 160, 400  # characters of a point's text
KINDS = {
    "base": "sampled from the untrained base",
    "learner": "sampled from the trained model",
    "teacher": "sampled from the teacher",
    "training": "a state used in a training step",
}
_COLOURS = {"base": BASE_COLOUR, "learner": "#0072B2", "teacher": "#009E73", "training": "#D55E00"}
_MARKERS = {"base": "o", "learner": "o", "teacher": "D", "training": "s"}
_MARGIN = 0.04  # of the plane, on every side
_COLUMNS = 3
_CUT = "…"


class PointView(NamedTuple):
    kind: str
    left: str  # percent of the plane
    top: str
    label: str
    spans: list[Span]


class PanelView(NamedTuple):
    label: str
    colour: str
    points: list[PointView]
    cloud: str  # the base's points as an SVG path of dots, in percent of the plane; empty on the base's own plane
    counts: str  # in words


class _Panel(NamedTuple):
    label: str
    colour: str
    points: list[MapPoint]  # in the order in which keys walk through them
    num_points: int  # before the bound


def _panels(study_map: StateMap, plan: PlanRecord) -> list[_Panel]:
    """The base's plane, then one per run that has points, in the plan's order."""
    base = [p for p in study_map.points if p.kind == "base"]
    own = [p for p in study_map.points if p.kind != "base"]
    names = list(dict.fromkeys([*(run.name for run in plan.runs), *(p.run for p in own)]))
    marks, labels = looks(plan, names), {run.name: run.label for run in plan.runs}
    panels = [_Panel(labels.get("base", "Base"), BASE_COLOUR, _bounded(base), len(base))] if base else []
    for name in names:
        if points := [p for p in own if p.run == name]:
            panels.append(_Panel(labels.get(name, name), marks[name].colour, _bounded(points), len(points)))
    return panels


def _bounded(points: Sequence[MapPoint]) -> list[MapPoint]:
    """MAX_POINTS of each kind, spread evenly over seeds and steps."""
    found = []
    for kind in KINDS:
        same = sorted((p for p in points if p.kind == kind), key=lambda p: (p.seed, -1 if p.step is None else p.step))
        found += [same[i] for i in spread(len(same), MAX_POINTS)]
    return found


def map_views(study_map: StateMap, plan: PlanRecord) -> list[PanelView]:
    panels = _panels(study_map, plan)
    place = _Frame.around([p for panel in panels for p in panel.points])
    cloud = "".join("M{:.1f} {:.1f}h0".format(*place(p)) for panel in panels for p in panel.points if p.kind == "base")
    views = []
    for panel in panels:
        points = [
            PointView(p.kind, f"{x:.1f}", f"{y:.1f}", _said(p), cut_spans(p.spans))
            for p in panel.points
            for x, y in [place(p)]
        ]
        is_base = all(p.kind == "base" for p in panel.points)
        views.append(PanelView(panel.label, panel.colour, points, "" if is_base else cloud, _counts(panel)))
    return views


class _Frame(NamedTuple):
    """Coordinates as percent of a plane's width and height, y downward."""

    x0: float
    y0: float
    width: float
    height: float

    @classmethod
    def around(cls, points: Sequence[MapPoint]) -> _Frame:
        xs, ys = [p.x for p in points] or [0.0], [p.y for p in points] or [0.0]
        return cls(min(xs), min(ys), max(xs) - min(xs) or 1.0, max(ys) - min(ys) or 1.0)

    def __call__(self, p: MapPoint) -> tuple[float, float]:
        room = 1 - 2 * _MARGIN
        x, y = (p.x - self.x0) / self.width, 1 - (p.y - self.y0) / self.height
        return 100 * (_MARGIN + room * x), 100 * (_MARGIN + room * y)


def _said(p: MapPoint) -> str:
    step = "" if p.step is None else f", step {p.step}"
    return f"{p.kind}, seed {p.seed}{step}"


def _counts(panel: _Panel) -> str:
    numbers = [(kind, sum(p.kind == kind for p in panel.points)) for kind in KINDS]
    shown = ", ".join(f"{count} {kind}" for kind, count in numbers if count)
    return shown if panel.num_points == len(panel.points) else f"{shown}; {panel.num_points} in total"


def cut_spans(spans: Iterable[Span]) -> list[Span]:
    """The prompt's beginning, and the first MAX_RESPONSE characters of the rest; a cut is marked."""
    room = {True: MAX_PROMPT, False: MAX_RESPONSE}
    found = []
    for span in spans:
        is_prompt = span.origin == "prompt"
        left = room[is_prompt]
        if left <= 0:
            continue
        words = span.text if len(span.text) <= left else span.text[:left] + _CUT
        found.append(Span(origin=span.origin, text=words, is_supervised=span.is_supervised))
        room[is_prompt] = left - len(span.text)
    return found


def map_plot(study_map: StateMap, plan: PlanRecord) -> Plot | None:
    """The same planes as a figure, for files; on paper and where no text can be shown."""
    panels = _panels(study_map, plan)
    if not panels:
        return None
    base = [p for panel in panels for p in panel.points if p.kind == "base"]
    num_rows = -(-len(panels) // _COLUMNS)
    with plot_style():
        figure = new_figure(2.3 * min(_COLUMNS, len(panels)), 2.1 * num_rows + 0.3)
        grid = figure.subplots(num_rows, min(_COLUMNS, len(panels)), squeeze=False, sharex=True, sharey=True)
        for axes, panel in zip(grid.flat, panels):
            axes.set_title(short(panel.label, limit=32), fontsize=8.5)
            axes.plot([p.x for p in base], [p.y for p in base], color=RULE, marker=".", markersize=3, linestyle="")
            for kind in KINDS:
                same = [p for p in panel.points if p.kind == kind]
                axes.plot(
                    [p.x for p in same], [p.y for p in same], color=_COLOURS[kind], marker=_MARKERS[kind],
                    markersize=3.5, alpha=0.8, linestyle="", label=kind, mfc="none" if kind == "base" else _COLOURS[kind],
                )  # fmt: skip
            axes.tick_params(labelbottom=False, labelleft=False, length=0)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        handles = {h.get_label(): h for axes in grid.flat[: len(panels)] for h in axes.lines if len(h.get_xdata())}
        kinds = [kind for kind in KINDS if kind in handles]
        figure.legend([handles[kind] for kind in kinds], kinds, loc="outside lower center", ncols=len(KINDS))
    described = "; ".join(f"{panel.label}: {_counts(panel)}" for panel in panels)
    return finished("state_map", "State map", "", described, figure)


def map_summary(study_map: StateMap, plan: PlanRecord) -> Table:
    """Number of points and mean position per run and kind."""
    columns = [
        Column(key="label", heading="Run"),
        Column(key="kind", heading="States"),
        Column(key="points", heading="Points", kind="number", decimals=0),
        Column(key="x", heading="Mean x", kind="number"),
        Column(key="y", heading="Mean y", kind="number"),
    ]
    labels = {run.name: run.label for run in plan.runs}
    groups: dict[tuple[str, str], list[MapPoint]] = {}
    for p in study_map.points:
        groups.setdefault((p.run, p.kind), []).append(p)
    rows = [
        [
            Cell(text=labels.get(run, run)),
            Cell(text=kind),
            Cell(value=len(same)),
            Cell(value=sum(p.x for p in same) / len(same)),
            Cell(value=sum(p.y for p in same) / len(same)),
        ]
        for (run, kind), same in groups.items()
    ]
    return Table(name="state_map_means", caption="Mean position per run and kind of state.", columns=columns, rows=rows)


def map_table(study_map: StateMap) -> Table:
    """Every point with its whole text."""
    keys = ("run", "seed", "kind", "step")
    columns = [Column(key=key, heading=key.capitalize()) for key in keys]
    columns += [Column(key=key, heading=key, kind="number") for key in ("x", "y")]
    columns.append(Column(key="text", heading="Text"))
    rows = [
        [
            Cell(text=p.run),
            Cell(text=str(p.seed)),
            Cell(text=p.kind),
            Cell(text=None if p.step is None else str(p.step)),
            Cell(value=p.x),
            Cell(value=p.y),
            Cell(text="".join(span.text for span in p.spans)),
        ]
        for p in study_map.points
    ]
    return Table(name="state_map", caption="Every point of the state map.", columns=columns, rows=rows)
