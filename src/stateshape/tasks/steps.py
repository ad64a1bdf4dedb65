"""The first wrong step of a worked solution: the first equation that does not hold, or a wrong final answer.

Reads equations such as `12 + 7 = 19`, `<<48/2=24>>` or `3 x $4 = $12` (equations.py says which). Knows nothing of tokens or
models, and does not judge words: text that cannot be read is not an error.
"""

from __future__ import annotations

import re
from fractions import Fraction

from stateshape.tasks.equations import NUMBER, equations, values_of

MARKED = re.compile(r"####[ \t]*([^\n]*)")
LEADING = re.compile(rf"-?{NUMBER}(?![.)]\s*\S|\w)")  # "#### 1. Add" is a heading and no answer


def first_error(text: str, gold: str) -> int | None:
    """Where the first wrong equation begins, or the wrong final answer after ####; None if neither is there."""
    wrong = next((equation.start for equation in equations(text) if not equation.is_right), None)
    if wrong is not None:
        return wrong
    expected = values_of(gold)
    for mark in MARKED.finditer(text) if expected else ():
        leading = LEADING.match(mark[1])
        answers = values_of(mark[1].strip().rstrip(".")) or (values_of(leading[0]) if leading else [])
        if answers:
            return None if set(answers) & set(expected) else mark.start()
    return None


def value_of(expression: str) -> Fraction | None:
    """The exact value of + - * / on numbers; None if it is anything else or divides by zero."""
    return next(iter(values_of(expression)), None)
