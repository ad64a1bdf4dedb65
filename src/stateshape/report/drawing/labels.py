"""Labels next to points: each label goes to the free place nearest its point, with a thin line where that is not close.

Greedy, and measured with the canvas's own font; the same points give the same places. Does not know what is plotted.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from stateshape.report.drawing.figure import told_apart, wrapped
from stateshape.report.drawing.svg import INK, settle

_RADII_PT = (7.0, 13.0, 21.0, 31.0, 44.0, 60.0)  # tried nearest first
_NUM_ANGLES = 16
_LEADER_FROM_PT = 12.0  # a label this far away needs a line to its point
_POINT_HALF_PX = 6.0  # what a marker covers
_OUTSIDE_COST = 10.0  # leaving the axes is worse than covering anything inside
_CROSSING_COST = 0.12  # a label on a thin line is still legible, and better than one far from its point
_DISTANCE_COST = 0.004  # per point of radius, in units of label areas covered
_LINE_HEIGHT = 1.15  # of the font size


class Labelled(NamedTuple):
    x: float
    y: float
    text: str


class Line(NamedTuple):
    """A horizontal or vertical line in data coordinates that labels should not overlap."""

    x: tuple[float, float]
    y: tuple[float, float]


class _Scene(NamedTuple):
    """Pixels: what must not be covered, what should not be crossed, where there is room."""

    taken: list[Bbox]
    strokes: list[Bbox]
    inside: Bbox


def place_labels(axes: Axes, points: list[Labelled], *, lines: list[Line], font_size: float = 8.5) -> None:
    """Writes every point's text. Call after the limits are set: places are found in pixels."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    assert isinstance(figure.canvas, FigureCanvasAgg)
    settle(figure)
    renderer = figure.canvas.get_renderer()
    per_point = figure.dpi / 72
    inside = axes.get_window_extent()
    pixels = [tuple(axes.transData.transform((p.x, p.y))) for p in points]
    taken = [Bbox.from_bounds(x - _POINT_HALF_PX, y - _POINT_HALF_PX, *(2 * _POINT_HALF_PX,) * 2) for x, y in pixels]
    strokes = [_pixels(axes, line) for line in lines]
    for point, (x, y) in sorted(zip(points, pixels), key=lambda pair: (-pair[1][1], pair[1][0])):
        text = axes.annotate(
            point.text,
            (point.x, point.y),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=font_size,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": INK, "shrinkA": 0, "shrinkB": 4, "alpha": 0.6},
        )
        size = text.get_window_extent(renderer)
        offset, box = _best_place((x, y), (size.width, size.height), _Scene(taken, strokes, inside), per_point)
        text.set_position(offset)
        text.set_horizontalalignment("left")
        text.set_verticalalignment("bottom")
        if text.arrow_patch and _gap(box, x, y) < _LEADER_FROM_PT * per_point:
            text.arrow_patch.set_visible(False)
        taken.append(box)


def _best_place(
    at: tuple[float, float], size: tuple[float, float], scene: _Scene, per_point: float
) -> tuple[tuple[float, float], Bbox]:
    """The cheapest of the candidate places: (offset in points of the text's lower left corner, its box in pixels)."""
    best: tuple[float, tuple[float, float], Bbox] | None = None
    for radius in _RADII_PT:
        for step in range(_NUM_ANGLES):
            angle = 2 * math.pi * step / _NUM_ANGLES
            dx, dy = radius * per_point * math.cos(angle), radius * per_point * math.sin(angle)
            # the text's nearest edge, not its centre, lies on the circle
            left = dx - size[0] * (0.5 - 0.5 * math.cos(angle))
            bottom = dy - size[1] * (0.5 - 0.5 * math.sin(angle))
            box = Bbox.from_bounds(at[0] + left, at[1] + bottom, *size)
            cost = _cost(box, scene) + _DISTANCE_COST * radius
            if best is None or cost < best[0]:
                best = cost, (left / per_point, bottom / per_point), box
    assert best is not None
    return best[1], best[2]


def _cost(box: Bbox, scene: _Scene) -> float:
    """Share of the label's area that covers something, with everything outside the axes counted heavily."""
    area = box.width * box.height
    covered = sum(_overlap(box, other) for other in scene.taken)
    crossed = sum(box.x0 < s.x1 and s.x0 < box.x1 and box.y0 < s.y1 and s.y0 < box.y1 for s in scene.strokes)
    return (covered + _OUTSIDE_COST * (area - _overlap(box, scene.inside))) / area + _CROSSING_COST * crossed


def _pixels(axes: Axes, line: Line) -> Bbox:
    """The line's place on the canvas, one pixel wider on every side than its data."""
    (x0, y0), (x1, y1) = (axes.transData.transform((line.x[i], line.y[i])) for i in (0, 1))
    return Bbox.from_extents(min(x0, x1) - 1, min(y0, y1) - 1, max(x0, x1) + 1, max(y0, y1) + 1)


def _overlap(a: Bbox, b: Bbox) -> float:
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(0.0, width) * max(0.0, height)


def _gap(box: Bbox, x: float, y: float) -> float:
    """Pixels from the point to the nearest edge of its label."""
    return math.hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1))


def end_labels(axes: Axes, ends: list[Labelled], colours: list[str], *, limit: int, font_size: float = 7.0) -> None:
    """Names to the right of the axes, each at its line's last point or as near as the others leave room for.

    limit: characters in a line. A longer name takes two lines, or is cut where there is no room for that.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    names = [wrapped(end.text, limit=limit) for end in ends]
    texts = [
        axes.annotate(
            name, (1, 0.5), xycoords="axes fraction", xytext=(14, 0), textcoords="offset points",
            fontsize=font_size, va="center", color=INK, annotation_clip=False, parse_math=False, linespacing=1.0,
        )
        for name in names
    ]  # fmt: skip
    settle(figure)
    inside = axes.get_window_extent()
    line = _LINE_HEIGHT * font_size * figure.dpi / 72
    height = line * max(name.count("\n") + 1 for name in names)
    if height * len(names) > inside.height:
        height = line
        for text, name in zip(texts, told_apart([end.text for end in ends], limit=limit)):
            text.set_text(name)
    pixels = [axes.transData.transform((end.x, end.y)) for end in ends]
    places = spaced([float(y) for _, y in pixels], gap=height, low=inside.y0 + height / 2, high=inside.y1 - height / 2)
    for (x, y), place, text, colour in zip(pixels, places, texts, colours):
        height = (place - inside.y0) / inside.height
        text.xy = (1, height)
        start = axes.transAxes.inverted().transform((x, y))
        axes.plot(
            [start[0], 1, 1 + 12 * figure.dpi / 72 / inside.width], [start[1], start[1], height],
            transform=axes.transAxes, color=colour, linewidth=0.8, linestyle=(0, (1, 1)), clip_on=False,
        )  # fmt: skip


def spaced(places: list[float], *, gap: float, low: float, high: float) -> list[float]:
    """The places moved as little as keeps their order and `gap` between them; inside [low, high] where all fit."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    gap = min(gap, (high - low) / max(1, len(places) - 1))
    moved = [min(max(places[i], low), high) for i in order]
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    ceiling = high
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - gap
    placed = [0.0] * len(places)
    for rank, i in enumerate(order):
        placed[i] = moved[rank]
    return placed
