"""Fonts for labels in any script: fallbacks where the machine has them, and which characters none has. Draws nothing."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib import font_manager

# After matplotlib's own font, which has Latin, Greek, Cyrillic, Arabic and Hebrew; the widest of each system first
FALLBACKS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK TC", "Noto Sans CJK KR", "Source Han Sans SC", "Source Han Sans CN",
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "PingFang SC", "Hiragino Sans GB", "Hiragino Sans",
    "Apple SD Gothic Neo", "Microsoft YaHei", "SimHei", "Yu Gothic", "MS Gothic", "Malgun Gothic", "Arial Unicode MS",
    "Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Symbols2", "Segoe UI Symbol",
)  # fmt: skip
MISSING_GLYPH = re.compile(r"Glyph (\d+) .*missing from")
MOST_SHOWN = 12  # characters in a note


@functools.cache
def fallbacks() -> list[str]:
    """Those of FALLBACKS that are installed: matplotlib complains of each name that is not."""
    there = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in FALLBACKS if name in there]


def without_fallbacks(drawing: str) -> str:
    """The SVG with the families it has everywhere: text stays text there, and who shows it has fonts of their own."""
    for name in fallbacks():
        drawing = drawing.replace(f", '{name}'", "")
    return drawing


@contextmanager
def missing_characters() -> Iterator[set[str]]:
    """Collects the characters that no font has, instead of a warning for each time one is drawn."""
    missing: set[str] = set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", message=MISSING_GLYPH.pattern)
        yield missing
    for one in caught:
        if match := MISSING_GLYPH.match(str(one.message)):
            missing.add(chr(int(match[1])))
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def note_on(characters: set[str]) -> list[str]:
    """The note about them in the report: at most one line."""
    if not characters:
        return []
    some = "".join(sorted(characters)[:MOST_SHOWN]) + ("…" if len(characters) > MOST_SHOWN else "")
    return [
        f"plots: no font on this machine has the characters {some}; the .png files show boxes instead, the .svg files and "
        "this page contain the text"
    ]
