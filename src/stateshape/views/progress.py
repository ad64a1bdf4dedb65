"""Progress in a notebook: one line per piece of work that updates in its place, gone once the work is done.

By IPython's own display, without widgets: it works wherever a notebook does, and leaves no state in the file. Knows nothing
about the work itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stateshape.core import html
from stateshape.core.progress import Reporter, Silent, Tick

if TYPE_CHECKING:
    from stateshape.core.meter import Meter

EVERY_S = 0.2  # between two updates of a line
SHOW_AFTER_S = 0.5  # shorter work needs no line
BAR = '<progress value="{done}" max="{total}"></progress> {words}'


def default_reporter() -> Reporter:
    """What long calls report to where nothing else is named: the notebook they run in, or nothing in a plain script."""
    return Notebook() if in_notebook() else Silent()


def in_notebook() -> bool:
    """Whether this code runs in the kernel of a notebook (Jupyter, Colab, VS Code), not in a terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class Line:
    """A place in the output of a cell whose content can be changed."""

    def __init__(self, markup: str) -> None:
        display: Any = sys.modules["IPython"].display
        self.markup = markup
        self.handle = display.display(self, display_id=True)

    def show(self, markup: str) -> None:
        self.markup = markup
        self.handle.update(self)

    def __repr__(self) -> str:
        return ""

    def _repr_html_(self) -> str:
        return self.markup


class Notebook:
    """A Reporter whose lines are part of the cell's output."""

    def __init__(self) -> None:
        self.open: list[Line] = []

    def say(self, text: str) -> None:
        print(text)

    def warn(self, text: str) -> None:
        print(f"warning: {text}")

    def event(self, name: str, values: Mapping[str, object]) -> None: ...

    def track(self, what: str, unit: str, meter: Meter | None = None) -> Tick:
        began = shown = time.monotonic()
        lines: list[Line] = []

        def tick(done: int, total: int, values: Mapping[str, float] | None = None, /) -> None:
            nonlocal shown
            now = time.monotonic()
            if done >= total:
                for line in lines:
                    line.show("")
                    self.open.remove(line)
                lines.clear()
            elif now - shown > EVERY_S and now - began > SHOW_AFTER_S:
                shown = now
                markup = BAR.format(done=done, total=total, words=words(what, unit, done, total, values, now - began))
                if lines:
                    lines[0].show(markup)
                else:
                    lines.append(Line(markup))
                    self.open.append(lines[0])

        return tick

    def stop(self) -> None:
        """Takes away lines that were left behind by work that broke off."""
        for line in self.open:
            line.show("")
        self.open.clear()


def words(what: str, unit: str, done: int, total: int, values: Mapping[str, float] | None, seconds: float) -> str:
    """'train sft: 12 of 60 steps, loss 0.31, about 20 s left'."""
    said = [f"{what}: {done:,} of {total:,} {unit}"]
    said += [f"{heading} {value:.3g}" for heading, value in (values or {}).items()]
    said += [f"about {seconds / done * (total - done):.0f} s left"] if done else []
    return html.text(", ".join(said))
