"""Small pieces of HTML for notebooks: a table, and facts under a title. Self-contained: no scripts, no files, styles inline.

Everything is escaped here, so that a label or an answer never becomes markup. Does not know what is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

MAX_CELL = 300  # characters of one cell
MAX_ROWS = 50
BLOCK = '<div style="max-width:100%;overflow-x:auto">{}</div>'


def text(value: object) -> str:
    """The value as escaped text: a missing one as a dash, line breaks kept, long ones cut."""
    words = "–" if value is None else str(value)
    words = words if len(words) <= MAX_CELL else f"{words[: MAX_CELL - 1]}…"
    return escape(words).replace("\n", "<br>")


def table(
    headings: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str = "", notes: Iterable[str] = ()
) -> str:
    """Cells are texts; a line break inside one stays."""
    head = "".join(f'<th style="text-align:left">{text(one)}</th>' for one in headings)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left;vertical-align:top">{text(one)}</td>' for one in row) + "</tr>"
        for row in rows[:MAX_ROWS]
    )
    more = [f"{len(rows) - MAX_ROWS:,} more rows"] if len(rows) > MAX_ROWS else []
    above = f'<caption style="text-align:left"><b>{text(caption)}</b></caption>' if caption else ""
    below = "".join(f"<p><small>{text(one)}</small></p>" for one in (*more, *notes))
    return BLOCK.format(f"<table>{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}")


def facts(title: str, pairs: Iterable[tuple[str, object]], *, paragraphs: Iterable[str] = ()) -> str:
    """A title, sentences under it, and names with values; facts that are missing are left out."""
    said = "".join(f"<p>{text(one)}</p>" for one in paragraphs)
    rows = "".join(
        f'<tr><th style="text-align:left">{text(name)}</th><td style="text-align:left">{text(value)}</td></tr>'
        for name, value in pairs
        if value not in (None, "", [])
    )
    return BLOCK.format(f"<b>{text(title)}</b>{said}<table><tbody>{rows}</tbody></table>")
