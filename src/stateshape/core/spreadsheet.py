"""Text in a CSV file that a spreadsheet would run as a formula is written so that it stays text. Torch-free.

A cell that begins with =, +, -, @, a tab or a line break and is not a number gets a single quote in front, which spreadsheets
take as "this is text" (OWASP, CSV Injection). Numbers stay numbers: -0.5, +3, 1e-4.
"""

from __future__ import annotations

import re
import unicodedata

STARTS = "=+-@\t\r\n"
NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def as_text(cell: str) -> str:
    """The cell as it is, or with a single quote in front. Wide forms of the signs (＝) count as the signs."""
    first = unicodedata.normalize("NFKC", cell[:1])
    if not first or first not in STARTS or NUMBER.fullmatch(cell):
        return cell
    return f"'{cell}"
