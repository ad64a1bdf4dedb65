"""A word problem in the making: it draws numbers, collects question sentences, and works each step out.

Knows nothing of splits or stories. A story function fills one draft; every equation's result is computed here, so a
worked solution cannot disagree with its arithmetic.
"""

from __future__ import annotations

import random

from stateshape.embedded.records import Equation

HE_NAMES = (
    "Tom", "Omar", "Leo", "Ivan", "Raj", "Ben", "Carlos", "Hugo", "Noah", "Felix", "Kenji", "Paul", "Sam", "Luis",
    "Adam", "Victor", "Jamal", "Oscar", "Pete", "Milo",
)  # fmt: skip
SHE_NAMES = (
    "Mia", "Ana", "Lucy", "Zoe", "Nina", "Priya", "Rosa", "Emma", "Fatima", "Clara", "Yuki", "Ruth", "Ella", "Sofia",
    "Grace", "Hana", "Irene", "Julia", "Kate", "Wanda",
)  # fmt: skip


class Person:
    """A name with its pronouns."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.he, self.him, self.his = ("he", "him", "his") if name in HE_NAMES else ("she", "her", "her")
        self.He, self.His = self.he.capitalize(), self.his.capitalize()

    def __str__(self) -> str:
        return self.name


class Draft:
    """Mutable only while a story fills it; `arithmetic.py` freezes it into an ArithmeticProblem."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.sentences: list[str] = []
        self.equations: list[Equation] = []
        self.numbers: list[int] = []
        self._names = list(HE_NAMES + SHE_NAMES)

    def person(self) -> Person:
        """A person not yet in this problem."""
        return Person(self._names.pop(self.rng.randrange(len(self._names))))

    def number(self, low: int, high: int) -> int:
        """A number of the problem, low..high inclusive; its value takes part in the split."""
        value = self.rng.randint(low, high)
        self.numbers.append(value)
        return value

    def multiple(self, of: int, low: int, high: int) -> int:
        """A number of the problem that `of` divides: of*low .. of*high."""
        value = of * self.rng.randint(low, high)
        self.numbers.append(value)
        return value

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def pick(self, *options: str) -> str:
        return self.rng.choice(options)

    def say(self, *wordings: str) -> None:
        """Add one of the wordings to the question."""
        self.sentences.append(self.rng.choice(wordings))

    def step(self, text: str, left: int, operator: str, right: int) -> int:
        """Work one equation out; `text` holds "{eq}" where it goes. Division must be exact."""
        if operator == "+":
            result = left + right
        elif operator == "-":
            result = left - right
        elif operator == "*":
            result = left * right
        else:
            result, rest = divmod(left, right)
            assert operator == "/", operator
            assert rest == 0, f"inexact: {left}/{right}"
        assert result >= 0, f"negative: {left}{operator}{right}"
        assert "{eq}" in text, text
        self.equations.append(Equation(text=text, left=left, operator=operator, right=right, result=result))
        return result
