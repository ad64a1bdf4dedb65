"""Matplotlib figures as SVG text: deterministic, self-contained, safe to put inside a page and to read in dark mode.

Uses the object API only (no pyplot, no global figure). `file_svg` is a file as matplotlib draws it; `inline_svg` is the
same drawing with its ids made unique, its global style rule removed and its ink following the page's colours. Does not
know what is drawn.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from stateshape.report.fonts import fallbacks, without_fallbacks

INK, RULE, SHADE = "#1b1c1d", "#d3d4d5", "#e9eaeb"  # text and axes; grid lines; bands
_PAGE_COLOURS = {INK: "currentColor", RULE: "var(--rule)", SHADE: "var(--shade)"}
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_BACKGROUND = "patch_1"  # matplotlib's name for the figure's white sheet
# matplotlib's style rule is for "*" and would reach the whole page; its metadata says nothing
_NOT_INLINE = (f"{{{_SVG}}}style", f"{{{_SVG}}}metadata")
_PNG_DPI = 150
_REFERENCE = re.compile(r"url\(#([^)]+)\)")

_STYLE: dict[Any, Any] = {  # matplotlib types its keys one by one
    "svg.fonttype": "none",  # text stays text: searchable, and small
    "svg.hashsalt": "stateshape",  # ids follow from the content alone
    "text.parse_math": False,  # labels are the user's: a dollar sign is a dollar sign
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.unicode_minus": True,
    "figure.facecolor": "white",
    "axes.facecolor": "none",
    "legend.frameon": False,
}


@contextmanager
def plot_style() -> Iterator[None]:
    """The report's look, whatever matplotlibrc the user has; restored afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        matplotlib.rcParams["font.family"] = ["sans-serif", *fallbacks()]
        yield


def new_figure(width: float, height: float) -> Figure:
    """Inches. Carries an Agg canvas, so that text can be measured."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def settle(figure: Figure) -> None:
    """Fixes the layout where it is: positions in pixels stay true, and every file shows the same."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")


def file_svg(figure: Figure, *, title: str = "", description: str = "") -> str:
    """`title` and `description` are read by screen readers in place of the drawing."""
    out = io.StringIO()
    with plot_style():
        settle(figure)
        # not savefig: it draws everything once more, to find the layout
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None})
    drawing = without_fallbacks(out.getvalue())
    start = drawing.index(">", drawing.index("<svg")) + 1
    words = [f"<{tag}>{escape(said)}</{tag}>" for tag, said in (("title", title), ("desc", description)) if said]
    return drawing[:start] + "".join(f"\n {word}" for word in words) + drawing[start:]


def file_png(figure: Figure) -> bytes:
    out = io.BytesIO()
    with plot_style():
        settle(figure)
        figure.set_dpi(_PNG_DPI)
        FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})
    return out.getvalue()


def inline_svg(drawing: str, *, name: str) -> str:
    """`file_svg`'s drawing as an <svg> element for a page.

    Ids get `name` as a prefix: matplotlib gives every figure the same ones, and a page holds several.
    """
    root = ElementTree.fromstring(drawing)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in _NOT_INLINE or child.get("id") == _BACKGROUND:
                parent.remove(child)
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            element.set(key, _inline_attribute(key, value, name))
    width, height = root.get("width", ""), root.get("height", "")
    root.attrib.pop("width", None)
    root.attrib.pop("height", None)
    root.set("role", "img")
    for tag, refers in (("title", "aria-labelledby"), ("desc", "aria-describedby")):
        said = root.find(f"{{{_SVG}}}{tag}")
        if said is not None:
            said.set("id", f"{name}-{tag}")
            root.set(refers, f"{name}-{tag}")
    root.set("style", f"stroke-linejoin:round;stroke-linecap:butt;max-width:{width};max-height:{height}")
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def title_of(drawing: str) -> str:
    """What `file_svg` was given as the title."""
    found = ElementTree.fromstring(drawing).find(f"{{{_SVG}}}title")
    return (found.text or "") if found is not None else ""


def _inline_attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == f"{{{_XLINK}}}href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    if key == "clip-path":
        return _REFERENCE.sub(rf"url(#{name}-\1)", value)
    if key == "style":
        for ink, page in _PAGE_COLOURS.items():
            value = value.replace(ink, page)
        return re.sub(r"font:\s*([\d.]+px)[^;]*", r"font: \1 system-ui, sans-serif", value)
    return value
