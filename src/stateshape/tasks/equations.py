"""Finds the equations in a text and decides whether each holds.

Numbers: 12, 1,234, 0.05, .5, $4, 20%, 1/3, the mixed 1 1/2. Operators: + - * / x × · ÷ and brackets, 2(3 + 4). A chain
`a = b = c` is compared side by side; a running total (`2 + 3 = 5 + 1 = 6`) is right where the next side begins with the
value so far.

If a text can be read in two ways (1 1/2 as a mixed number or as a 1 before a half, 20% as 0.2 or as 20, a hyphen as a
minus or as a list's mark, 6 / 1/3 from the left or by a third), an equation holds if either reading does. Text that can't
be read (algebra, words between numbers) is not an equation. Knows nothing of tasks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

DIGITS = r"\d{1,3}(?:,\d{3})+(?![\d,]*\d)|\d+"
NUMBER = rf"[$€£¥]?(?:(?:{DIGITS})(?:\.\d+)?|\.\d+)%?"
# no part of a longer number, of a word, of a time (3:30) or a version (1.2.3); "5A" and "5y" are algebra, "5x" may be a product
BEFORE, BEHIND = r"(?<![^\Wx])(?<!\d[.:,])", r"(?!\d|[.,:]\d|(?!x(?![^\W\d_]))[^\W\d_](?![^\W\d_]))"
TOKEN = re.compile(
    rf"(?P<number>{BEFORE}{NUMBER}{BEHIND})|(?P<times>(?<![^\W\d])x(?![^\W\d_]))|(?P<operator>[-+*/×·÷−–])|(?P<bracket>[()])"
    r"|(?P<equals>=)|(?P<blank>[ \t\u00a0]+|\s*\n\s*(?==))|(?P<word>\w+)|(?P<other>.|\n)"
)
AND_A_FRACTION = re.compile(r"(?<=\d) and (?=\d+/\d)")  # "1 and 1/4"
SIGNS = {"x": "*", "×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"}
ROUNDING = Fraction(1, 100)  # a printed result may be rounded by this much, or by less than one of its own last decimal
MAX_DIGITS, MAX_TOKENS = 40, 200  # longer ones are sampling noise, and slow


class Token(NamedTuple):
    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


class Equation(NamedTuple):
    start: int
    is_right: bool


class _Unreadable(Exception):
    pass


def equations(text: str) -> Iterator[Equation]:
    """Equations that can be read and have an operator, in order. A chain gives one per equals sign."""
    for run in _runs(text):
        sides = _sides(run)
        is_sure = False  # a bare number in front may belong to the words before it: "Day 1 = 5 dollars"
        for at, (left, right) in enumerate(pairwise(sides)):
            is_sure = is_sure or any(token.kind in ("operator", "times") for token in left)
            if not is_sure or not left or not right:
                continue
            lefts = _leading(left, text) if at == 0 else _values(left)
            rights = _values(right)
            if at < len(sides) - 2 and right[0].kind == "number":  # a running total
                rights = rights and [*rights, *_values(right[:1])]
            if lefts and rights:
                unit = _last_decimal(right)
                yield Equation(left[0].start, any(_is_near(a, b, unit) for a in lefts for b in rights))


def values_of(expression: str) -> list[Fraction]:
    """Every value an expression may have; none if it is not arithmetic or divides by zero."""
    tokens = [token for token in _tokens(expression) if token.kind != "blank"]
    return _values(tokens) if tokens and len(tokens) <= MAX_TOKENS else []


# From text to sides


def _tokens(text: str) -> Iterator[Token]:
    for match in TOKEN.finditer(text):
        assert match.lastgroup is not None
        yield Token(match.lastgroup, match[0], match.start())


def _runs(text: str) -> Iterator[list[Token]]:
    """Stretches of numbers, operators, brackets and equals signs, with at least one equals sign. "**" is bold in Markdown."""
    run: list[Token] = []
    depth = 0
    plain = AND_A_FRACTION.sub(" " * len(" and "), text.replace("**", "  "))
    for token in _tokens(plain):
        if token.kind == "blank":
            continue
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if token.kind in ("word", "other") or depth < 0:
            yield from _kept(run)
            run, depth = [], 0
        else:
            run.append(token)
    yield from _kept(run)


def _kept(run: list[Token]) -> Iterator[list[Token]]:
    if any(token.kind == "equals" for token in run) and len(run) <= MAX_TOKENS:
        yield run


def _sides(run: Sequence[Token]) -> list[list[Token]]:
    sides: list[list[Token]] = [[]]
    for token in run:
        if token.kind == "equals":
            sides.append([])
        else:
            sides[-1].append(token)
    opened = [token.text for token in sides[0]]
    while opened.count("(") > opened.count(")") and opened[0] == "(":  # "(3 + 4 = 7)": the brackets are the sentence's
        sides[0], opened = sides[0][1:], opened[1:]
    return sides


def _leading(side: Sequence[Token], text: str) -> list[Fraction]:
    """Values of a run's first side: words may come before it."""
    first, *others = side
    before = text[: first.start].rstrip(" \t")
    if first.kind in ("operator", "times"):
        if before and before[-1] not in "\n:.;,":
            return []  # the left operand is a word
        return _values(others) + (_values(side) if first.text in ("-", "−") else [])  # or a bullet of a list
    values = _values(side)
    if len(others) == 3 and others[1].text == "/" and others[0].kind == "number":  # "In week 2 3/4 = 0.75"
        values = [*values, *_values(others)]
    is_range = [token.text for token in others[:1]] == ["-"] and len(others) == 2 and others[1].start == first.end + 1
    return [value for value in values if value >= 0] if is_range else values  # "weeks 1-2"


def _last_decimal(side: Sequence[Token]) -> Fraction:
    """One of the last decimal of a single printed number, else 0."""
    number = side[0].text.rstrip("%") if len(side) == 1 else ""
    return Fraction(1, 10 ** len(number.partition(".")[2])) if "." in number else Fraction(0)


def _is_near(a: Fraction, b: Fraction, unit: Fraction) -> bool:
    return abs(a - b) <= ROUNDING or abs(a - b) < unit


# From a side to its values


def _values(tokens: Sequence[Token]) -> list[Fraction]:
    has_percent = any(token.text.endswith("%") for token in tokens)
    has_fraction = sum(token.text == "/" for token in tokens) > 1
    values = []
    for percent in (Fraction(1, 100), Fraction(1)) if has_percent else (Fraction(1),):
        for is_tight in (False, True) if has_fraction else (False,):
            try:
                values.append(_Reader(tokens, percent, is_tight=is_tight).whole())
            except (_Unreadable, ZeroDivisionError, RecursionError):
                continue
    return values


class _Reader:
    """Recursive descent: sum = product (+|- product)*, product = factor (*|/ factor)*; "2(3 + 4)" is a product.

    is_tight: "25 / 1/3" divides by a third, since there are no blanks around the second slash.
    """

    def __init__(self, tokens: Sequence[Token], percent: Fraction, *, is_tight: bool) -> None:
        pairs = zip(tokens, tokens[1:], tokens[2:])
        self.tight = {
            at for at, (a, b, c) in enumerate(pairs) if is_tight and b.text == "/" and a.end == b.start == c.start - 1
        }
        self.tokens = [SIGNS.get(token.text, token.text) for token in tokens]
        self.kinds = [token.kind for token in tokens]
        self.percent = percent
        self.at = 0

    def whole(self) -> Fraction:
        value = self.sum()
        if self.at < len(self.tokens):
            raise _Unreadable
        return value

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def taken(self, *wanted: str) -> str:
        upcoming = self.peek()
        if not upcoming or upcoming not in wanted:
            return ""
        self.at += 1
        return upcoming

    def sum(self) -> Fraction:
        value = self.product()
        while sign := self.taken("+", "-"):
            other = self.product()
            value = value + other if sign == "+" else value - other
        return value

    def product(self) -> Fraction:
        value = self.factor()
        while True:
            is_letter = self.at < len(self.kinds) and self.kinds[self.at] == "times"
            sign = "*" if self.peek() == "(" else self.taken("*", "/")
            if not sign:
                return value
            if is_letter and self.peek() in ("-", "+"):  # "3x - 5" is algebra
                raise _Unreadable
            other = self.factor()
            value = value * other if sign == "*" else value / other

    def factor(self) -> Fraction:
        if self.taken("-"):
            return -self.factor()
        if self.taken("("):
            value = self.sum()
            if not self.taken(")"):
                raise _Unreadable
            return value
        return self.mixed()

    def mixed(self) -> Fraction:
        """A number, or a whole number and the fraction behind it."""
        whole = self.number()
        if self.at - 1 in self.tight:
            self.at += 1
            return whole / self.number()
        following = self.kinds[self.at : self.at + 3] == ["number", "operator", "number"]
        if not following or self.tokens[self.at + 1] != "/" or whole.denominator != 1:
            return whole
        top = self.number()
        self.at += 1
        return whole + top / self.number()

    def number(self) -> Fraction:
        if self.at >= len(self.kinds) or self.kinds[self.at] != "number":
            raise _Unreadable
        text = self.tokens[self.at].strip("$€£¥").replace(",", "")
        self.at += 1
        if len(text) > MAX_DIGITS:
            raise _Unreadable
        return Fraction(text.rstrip("%")) * (self.percent if text.endswith("%") else 1)
