"""A plot of a study's report, as the report has drawn it, inline in a notebook. Draws nothing."""

from __future__ import annotations

from pathlib import Path

from stateshape.core import html, layout
from stateshape.core.decoding import read_text
from stateshape.core.files import BadInput
from stateshape.core.wording import shown
from stateshape.report.drawing.svg import RULE, SHADE, inline_svg, title_of

PAGE = "background:#fff;color:#1b1c1d;padding:.5em;max-width:60em;--rule:{rule};--shade:{shade}"


class Figure:
    """A plot. `svg`: as the report's file has it."""

    def __init__(self, name: str, svg: str) -> None:
        self.name = name
        self.svg = svg

    def __repr__(self) -> str:
        return f"<Figure {self.name}: {title_of(self.svg)}>"

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str:
        style = PAGE.format(rule=RULE, shade=SHADE)
        return f'<div style="{style}">{inline_svg(self.svg, name=self.name)}<br><b>{html.text(title_of(self.svg))}</b></div>'


def figure_names(folder: Path) -> list[str]:
    """Plots that the report of a study's folder has drawn."""
    return sorted(path.stem for path in (folder / layout.PLOTS).glob("*.svg"))


def read_figure(folder: Path, name: str) -> Figure:
    """Raises BadInput for a plot that the report does not have."""
    names = figure_names(folder)
    if name not in names:
        known = ", ".join(names) or "none yet: stateshape report draws them"
        raise BadInput(f"figure: got {shown(name)}; expected one of {known}")
    return Figure(name, read_text(folder / layout.PLOTS / f"{name}.svg"))
