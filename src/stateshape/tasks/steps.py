"""The first wrong step of a worked solution: the first equation that does not hold, else a final answer that is wrong.

Reads equations such as `12 + 7 = 19`, `<<48/2=24>>` or `3 x $4 = $12`; chains `2 + 3 = 5 + 1 = 6` step by step. Knows nothing
of tokens or models, and does not judge words.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

NUMBER = r"-?\$?\d[\d,]*(?:\.\d+)?"
# at least one operator on the left, a number on the right
EQUATION = re.compile(rf"({NUMBER}(?:\s*[-+*/x×÷]\s*{NUMBER})+)\s*=\s*({NUMBER})")
ANSWER = re.compile(rf"####\s*({NUMBER})")
OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
ROUNDING = Fraction(1, 100)  # a printed decimal may be rounded by this much


def first_error(text: str, gold: str) -> int | None:
    """Where the first wrong equation begins, or the wrong final answer after ####; None if neither is there."""
    for match in EQUATION.finditer(text):
        left, right = value_of(match[1]), value_of(match[2])
        if left is not None and right is not None and abs(left - right) > ROUNDING:
            return match.start()
    answer = ANSWER.search(text)
    expected = value_of(gold)
    if answer is not None and expected is not None and value_of(answer[1]) != expected:
        return answer.start()
    return None


def value_of(expression: str) -> Fraction | None:
    """The exact value of + - * / on numbers; None if it is anything else or divides by zero."""
    plain = expression.replace("$", "").replace(",", "").replace("×", "*").replace("x", "*").replace("÷", "/")
    try:
        return _value(ast.parse(re.sub(r"\b0+(?=\d)", "", plain.strip()), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError(f"not arithmetic: {ast.dump(node)}")
