"""One drawn plot: as files (SVG, PNG) and as inline SVG for the page, with a title and its numbers in words.

Does not know what is drawn.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stateshape.core.study_records import Estimate
from stateshape.report.drawing import text
from stateshape.report.drawing.svg import INK, file_png, file_svg, inline_svg

MAX_LABEL = 44  # characters of a run's label beside its point


class Plot(NamedTuple):
    name: str  # file name without suffix
    title: str
    caption: str  # how to read it
    svg: str  # for files
    png: bytes
    inline: str  # for pages


def finished(name: str, title: str, caption: str, described: str, figure: Figure) -> Plot:
    """`described`: what the plot shows, for those who do not see it."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name)
    drawing = file_svg(figure, title=text.one_line(title), description=text.one_line(described))
    return Plot(safe, title, caption, drawing, file_png(figure), inline_svg(drawing, name=safe))


def short(label: str, *, limit: int = MAX_LABEL) -> str:
    line = text.one_line(label)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def wrapped(label: str, *, limit: int, lines: int = 2) -> str:
    """In so many lines of `limit` characters at most; what does not fit is cut at the end."""
    return "\n".join(textwrap.wrap(text.one_line(label), limit, max_lines=lines, placeholder="…"))


def told_apart(labels: Sequence[str], *, limit: int) -> list[str]:
    """Each in one line, cut where it is too long: at the end, or in the middle where labels would be alike otherwise."""
    cut = [short(label, limit=limit) for label in labels]
    if len(set(cut)) == len(set(labels)):
        return cut
    head, full = limit // 3, [text.one_line(label) for label in labels]
    return [line if len(line) <= limit else f"{line[:head]}…{line[head + 1 - limit :]}" for line in full]


def whisker(estimate: Estimate | None) -> tuple[float, float] | None:
    if estimate is None or estimate.lo is None or estimate.hi is None:
        return None
    return estimate.lo, estimate.hi


def rows_only(axes: Axes, count: int) -> None:
    """An axis with `count` rows, the first on top, and nothing but the x scale around them."""
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(visible=True, axis="x")


def write_above(axes: Axes, row: float, label: str, *, size: float = 8.0) -> None:
    """A row's label, over the row, from the left edge: long ones have the whole width."""
    axes.text(
        0.0, row, label, transform=axes.get_yaxis_transform(), fontsize=size, color=INK, va="center", parse_math=False
    )
