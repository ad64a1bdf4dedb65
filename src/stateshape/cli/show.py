"""How results look on stdout: as wide as the terminal, or wide enough for tables in a pipe; a dash for what is missing."""

from __future__ import annotations

import sys

from rich.console import Console

PIPED_WIDTH = 160  # columns where stdout is not a terminal
MISSING = "-"


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)


def number(value: float | None, form: str) -> str:
    """The number in a format such as ".4g"; a dash where it is missing."""
    return MISSING if value is None else format(value, form)
