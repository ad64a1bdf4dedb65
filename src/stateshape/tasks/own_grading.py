"""How answers to a user's own problems are read and compared. Knows nothing of files, models or tokenizers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from stateshape.tasks import gsm8k
from stateshape.tasks.items import GenerationItem, Grade
from stateshape.tasks.task import Grades

NUMBER = re.compile(r"-?\$?([0-9][0-9,]*(\.[0-9]+)?|\.[0-9]+)\.?")
OUTER = " .,;:!?\"'"  # signs that do not count at the ends of an answer


class Answer(NamedTuple):
    """The text after the last "####" that has any: its first line, and all of it. `line` is empty if there is no mark."""

    line: str
    behind: str


def marked_answer(text: str) -> Answer:
    before, mark, behind = text.rpartition(gsm8k.ANSWER_MARK)
    while mark and not behind.strip():
        text = before
        before, mark, behind = text.rpartition(gsm8k.ANSWER_MARK)
    return Answer(behind.strip().splitlines()[0].strip(), behind.strip()) if mark else Answer("", "")


def normalise(text: str) -> str:
    """Numbers without ",", "$" and a trailing "."; other texts lower-case, blanks collapsed, outer .,;:!?"' dropped.

    A text made only of such signs is kept.
    """
    collapsed = " ".join(text.split())
    if NUMBER.fullmatch(collapsed):
        return gsm8k.clean_number(collapsed)
    return collapsed.casefold().strip(OUTER) or collapsed


def cut(completion: str, stops: Sequence[str]) -> str:
    """The completion up to the first stop text."""
    return completion[: min((at for stop in stops if (at := completion.find(stop)) >= 0), default=len(completion))]


def grade(completion: str, item: GenerationItem, *, stops: Sequence[str] = gsm8k.STOPS) -> Grades:
    """Exact match of normalised texts (see normalise), up to the first stop text.

    strict: the line after the last "####", or everything after it for an answer of several lines; the whole completion if it
    has no mark. flexible: for a numeric answer the last number of the completion; otherwise what strict reads, or the
    completion's last line.
    """
    text, gold = cut(completion, stops), item.gold or ""
    answer = marked_answer(text)
    ways = [answer.line, answer.behind] if answer.line else [text]
    strict = _matching(ways, gold)
    if NUMBER.fullmatch(gold):
        flexible = gsm8k.last_number(text)
    else:
        last_line = (text.strip().splitlines() or [""])[-1]
        flexible = _matching(ways if answer.line else [last_line, text], gold)
    return Grades(
        strict=Grade(prediction=strict, is_correct=strict == item.gold),
        flexible=Grade(prediction=flexible, is_correct=flexible == item.gold),
        text=text,
    )


def _matching(ways: Sequence[str], gold: str) -> str | None:
    """The reading that is the gold answer; else the first."""
    read = [normalise(way) for way in ways]
    return gold if gold in read else read[0] or None
