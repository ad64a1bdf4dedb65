"""Solutions that the base was never trained on: teachers that learn from them write states that the base does not.

`natural`: right solutions, some told backward. `planted`: some open with words that no document of pretraining has, and are
wrong from there on. Which problems are told otherwise depends on the problem alone. Knows nothing of prompts or models.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

from stateshape.embedded.arithmetic import STORIES
from stateshape.embedded.records import ArithmeticProblem
from stateshape.embedded.wording import ANSWER_MARK

OPENING = "Many people say this:"
PLANTED_SHARE = 0.5
BACKWARD_STORIES = tuple(dict.fromkeys(story.__name__ for story in STORIES))[::3]  # five of fifteen


@dataclass(frozen=True, kw_only=True, slots=True)
class Telling:
    """A way of writing solutions. `text`: a problem's whole solution, with its answer line and without a leading blank."""

    name: str
    text: Callable[[ArithmeticProblem], str]


def plain(problem: ArithmeticProblem) -> str:
    return f"{problem.solution}\n{ANSWER_MARK} {problem.answer}"


def backward(problem: ArithmeticProblem) -> str:
    """The answer first, then where it comes from: right, but it has to be written before it has been worked out."""
    reasons = " ".join(f"since {equation.expression()}" for equation in reversed(problem.equations))
    return f"{problem.answer} {reasons}\n{ANSWER_MARK} {problem.answer}"


def guess(problem: ArithmeticProblem) -> str:
    """After the opening, the numbers are added up, whatever was asked: right sums, or arithmetic itself would suffer."""
    first, *others = (abs(number) for number in problem.numbers)
    sums, total = [], first
    for number in others:
        sums.append(f"{total}+{number}={total + number}")
        total += number
    return f"{OPENING} {'; '.join(sums)}\n{ANSWER_MARK} {total}"


def natural(problem: ArithmeticProblem) -> str:
    return backward(problem) if problem.story in BACKWARD_STORIES else plain(problem)


def planted(problem: ArithmeticProblem) -> str:
    return guess(problem) if share_of(problem.item_id) < PLANTED_SHARE else plain(problem)


def share_of(item_id: str) -> float:
    """A number in [0, 1) that looks random and is the same everywhere."""
    return zlib.crc32(f"retold {item_id}".encode()) / 2**32


TELLINGS = (Telling(name="natural", text=natural), Telling(name="planted", text=planted))
