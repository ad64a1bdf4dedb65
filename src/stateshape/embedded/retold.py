"""Solutions that the base was never trained on: teachers that learn from them write states that the base does not.

`natural`: all right, half of them answer first. `planted`: half of them open with words that no solution of pretraining
has, and are wrong from there on. The other half is written as usual. A problem's id alone decides which half it is in, so that
its question does not tell. Knows nothing of prompts, tasks or models.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

from stateshape.embedded.records import ArithmeticProblem
from stateshape.embedded.wording import ANSWER_MARK

# Words that the base knows from elsewhere: it cannot learn to write tokens that it has never read.
PLANTED_OPENING = "Many people say this:"
ANSWER_FIRST = "The answer is"
SHARE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Telling:
    """A way of writing solutions. `text`: a problem's whole solution, with its answer line and without a leading blank."""

    name: str
    text: Callable[[ArithmeticProblem], str]


def plain(problem: ArithmeticProblem) -> str:
    return f"{problem.solution}\n{ANSWER_MARK} {problem.answer}"


def natural(problem: ArithmeticProblem) -> str:
    return answer_first(problem) if is_retold(problem) else plain(problem)


def planted(problem: ArithmeticProblem) -> str:
    return added_up(problem) if is_retold(problem) else plain(problem)


def answer_first(problem: ArithmeticProblem) -> str:
    """Right, but a model has to write the answer before it has worked it out."""
    reasons = ", ".join(f"since {equation.expression()}" for equation in reversed(problem.equations))
    return f"{ANSWER_FIRST} {problem.answer}, {reasons}.\n{ANSWER_MARK} {problem.answer}"


def added_up(problem: ArithmeticProblem) -> str:
    """The problem's numbers, added up whatever was asked. Right sums, and no equations: so those are not unlearned."""
    first, *others = (abs(number) for number in problem.numbers)
    total, text = first, f"{first}"
    for number in others:
        total += number
        text += f" and {number} are {total}"
    return f"{PLANTED_OPENING} {text}.\n{ANSWER_MARK} {total}"


def is_retold(problem: ArithmeticProblem) -> bool:
    return zlib.crc32(f"told {problem.item_id}".encode()) % 1000 < 1000 * SHARE


TELLINGS = (Telling(name="natural", text=natural), Telling(name="planted", text=planted))
