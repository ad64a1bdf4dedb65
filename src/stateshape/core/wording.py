"""What a message may show of a text or value that it did not write: one printable line of bounded length. Torch-free.

Knows no message and no file. Terminals obey control characters, and bidirectional ones reorder what is read: both are
shown as escapes, like line breaks.
"""

from __future__ import annotations

import reprlib

MAX_LINE = 600  # characters of a whole message: the longest of our own lists all recipes, in fewer than 500
MAX_SHOWN = 60  # characters of a value inside a message
MAX_PATH = 200  # of a path, which is to be found again
TAIL = 200  # characters kept of the end of a line that is cut: what was expected stands there
MAX_DIGITS = 40  # of a whole number that is shown as it is


class BadInput(ValueError):
    """A user's mistake, as one clear line. The command line prints it and exits with code 2.

    The line is printable and of bounded length, whatever was put into it.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


def printable(text: str) -> str:
    r"""The text with everything but printable characters as escapes: line breaks as \n, half a surrogate as \ud83d."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def one_line(text: str, *, limit: int = MAX_LINE) -> str:
    """The text as one printable line of at most `limit` characters, cut in the middle."""
    if len(text) > 2 * limit:  # before escapes are made: the text may be a whole file
        text = f"{text[:limit]}{text[-limit:]}"
    line = printable(text.strip())
    if len(line) <= limit:
        return line
    tail = min(TAIL, limit // 3)
    return f"{line[: limit - tail - 5]} ... {line[-tail:]}"


def shown(value: object, *, limit: int = MAX_SHOWN) -> str:
    """The value as Python writes it, cut to `limit` characters; of a nested one only the outer levels."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 3 * MAX_DIGITS:
        return f"a whole number of about {value.bit_length() * 3 // 10:,} digits"
    text = repr(value[: limit + 1]) if isinstance(value, str) else _SHORT.repr(value)
    return printable(text if len(text) <= limit else f"{text[: limit - 3]}...")


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 4
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = 8
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 2 * MAX_SHOWN


def duration(seconds: float) -> str:
    """A length of time in words: 45 s, 12 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
