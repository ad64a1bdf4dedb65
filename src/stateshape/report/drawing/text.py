"""Text as it is shown: control characters made visible, numbers rounded, missing ones as an en dash; escapes.

Everything a user or a model wrote passes through `visible` before it reaches a file. Does not know tables or pages.
"""

from __future__ import annotations

import json
import unicodedata

MISSING = "–"
MINUS = "\u2212"
ROUNDING_ERROR = 1e-12  # what floating-point sums leave of a zero; no measured quantity here is that small
SMALLEST_P = 0.001  # below this a p-value is shown as a bound: its digits carry nothing

_JOINERS = "\u200c\u200d\u00ad"  # invisible, but part of ordinary Persian, emoji and hyphenated text

_TEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",  # \textquotedbl needs an encoding the document may not have
    "[": "{[}",  # after a line break (two backslashes) it would be read as that command's argument
    "]": "{]}",
    "–": "--",
    "—": "---",
    MINUS: "$-$",
    "²": r"\textsuperscript{2}",
    "×": r"$\times$",
    "→": r"$\to$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "π": r"$\pi$",
    "θ": r"$\theta$",
    "β": r"$\beta$",
    "λ": r"$\lambda$",
}
_MARKDOWN = {"&": "&amp;", "<": "&lt;", ">": "&gt;"} | {c: "\\" + c for c in "\\`*_[]|~$#"}


def visible(text: str) -> str:
    r"""The text with control, bidirectional and unencodable characters written as escapes (\x1b); \n and \t stay."""
    return "".join(c if c.isascii() and c.isprintable() else _visible_character(c) for c in text)


def _visible_character(character: str) -> str:
    if character in "\n\t" + _JOINERS:
        return character
    is_hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    is_noncharacter = (ord(character) & 0xFFFE) == 0xFFFE  # not allowed in XML, and so not in SVG
    # escapes rather than U+2400's control pictures: many fonts lack those
    return character.encode("unicode_escape").decode("ascii") if is_hidden or is_noncharacter else character


def one_line(text: str) -> str:
    return visible(" ".join(text.split()))


def tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in one_line(text))


def markdown(text: str) -> str:
    return "".join(_MARKDOWN.get(c, c) for c in one_line(text))


def number(value: float | None, *, decimals: int = 3, is_signed: bool = False) -> str:
    """A rounded number with a true minus sign. One too small for `decimals` is given in powers of ten, not as zero."""
    if value is None:
        return MISSING
    if abs(value) < ROUNDING_ERROR:
        return f"{0:.{decimals}f}"
    sign = "+" if is_signed else ""
    if abs(value) < 0.5 * 10**-decimals:
        digits, exponent = f"{value:{sign}.0e}".split("e")
        shown = f"{digits}e{int(exponent)}"
    else:
        shown = f"{value:{sign},.{decimals}f}"
    return shown.replace("-", MINUS)


def p_value(value: float | None) -> str:
    if value is None:
        return f"p {MISSING}"
    return f"p < {SMALLEST_P}" if value < SMALLEST_P else f"p = {value:.3f}"


def interval(lo: float | None, hi: float | None, *, decimals: int = 3, is_signed: bool = False) -> str:
    """`[lo, hi]`, or nothing at all where there is no interval."""
    if lo is None and hi is None:
        return ""
    low = number(lo, decimals=decimals, is_signed=is_signed)
    return f"[{low}, {number(hi, decimals=decimals, is_signed=is_signed)}]"


def setting(value: object) -> str:
    """A setting or a provenance value as one readable string."""
    if isinstance(value, str):
        return value
    if value is None:
        return "none"
    return json.dumps(value, ensure_ascii=False)
