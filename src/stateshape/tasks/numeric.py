"""Numbers as people write answers: 1,234.50, $4, 25%, 3/4, 1 1/2, 1e3, 1.5 x 10^3, \\frac{3}{4}, and a unit behind them.

Exact arithmetic: 0.5 and 1/2 are one number. A number in another spelling of thousands (1.234,5) or in words is none. Knows no
task.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
SIGN = r"[-+\u2212]?\s?"
POWER = r"(?:[eE][-+]?\d+|\s?(?:x|\*|\u00d7|\\times|\\cdot)\s?10\^\{?[-+]?\d+\}?)"
PLAIN = rf"(?:{DIGITS}){POWER}?"
FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*([-+]?[\d.,]+)\s*\}\s*\{\s*([\d.,]+)\s*\}")
NUMBER = re.compile(
    rf"(?<![\w.,])(?P<sign>{SIGN})[$\u20ac\u00a3\u00a5]?\s?(?P<sign2>[-\u2212]?)"
    rf"(?:(?P<whole>\d+)\s(?P<top2>\d+)/(?P<bottom2>\d+)|(?P<top>{PLAIN})\s?/\s?(?P<bottom>{PLAIN})|(?P<plain>{PLAIN}))(?![\d/]|[.,]\d)"
)
UNIT = re.compile(r"\s{0,2}(\\?%|percent\b|°[CF]?|[^\W\d_]+(?:[/^*·][\w^*/·-]+|[²³])?)")
MARKUP = re.compile(
    r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}|\\[,;!: ]|\\left|\\right|\*\*|(?<!\\)\$(?=\s|$)|\\\(|\\\)|\\\[|\\\]"
)
MOST_DIGITS = 60  # of one number; longer ones are sampling noise, and slow
MOST_POWER = 60
SAME_UNITS = (
    {"percent", "%"}, {"m", "meter", "metre"}, {"km", "kilometer", "kilometre"}, {"cm", "centimeter", "centimetre"},
    {"mm", "millimeter", "millimetre"}, {"g", "gram"}, {"kg", "kilogram"}, {"s", "sec", "second"}, {"min", "minute"},
    {"h", "hr", "hour"}, {"l", "liter", "litre"}, {"ft", "foot", "feet"}, {"in", "inch", "inche"}, {"mi", "mile"},
    {"lb", "pound"}, {"mph", "miles/hour"}, {"dollar", "usd", "buck"}, {"cent", "¢"}, {"°", "degree", "deg"},
)  # fmt: skip


class Quantity(NamedTuple):
    """unit: in one spelling, empty where none is written; "%" where it is a share of a hundred."""

    value: Fraction
    unit: str

    @property
    def is_percent(self) -> bool:
        return self.unit == "%"


def quantity(text: str) -> Quantity | None:
    """The number that a text is, alone or with its unit; None if it is anything else."""
    plain = _plain(text).strip(" \"'").rstrip(" .,;:!?")
    match = NUMBER.match(plain)
    if match is None:
        return None
    behind = plain[match.end() :]
    unit = UNIT.fullmatch(behind) if behind.strip() else None
    value = _value(match)
    if value is None or (behind.strip() and unit is None):
        return None
    return Quantity(value, "" if unit is None else unit_of(unit[1]))


def last_quantity(text: str) -> Quantity | None:
    """The last number in a text, with the word behind it as its unit."""
    plain = _plain(text)
    for match in reversed(list(NUMBER.finditer(plain))):
        value = _value(match)
        if value is not None:
            unit = UNIT.match(plain, match.end())
            return Quantity(value, "" if unit is None else unit_of(unit[1]))
    return None


def unit_of(word: str) -> str:
    """A unit in one spelling: km for kilometres."""
    bare = word.strip().lstrip("\\").casefold()
    for known in SAME_UNITS:
        if bare in known or (len(bare) > 2 and bare.removesuffix("s") in known):
            return "%" if "%" in known else min(known, key=len)
    return bare.removesuffix("s") if len(bare) > 3 else bare


def is_same(read: Quantity, gold: Quantity, *, tolerance: float = 0.0, is_unit_read: bool = True) -> bool:
    """Whether the values agree up to `tolerance` (relative to gold), and the units, where both have one.

    A share of a hundred may be written as 25%, 25 or 0.25 where one of the two has the sign. is_unit_read False: what stands
    behind the number may be any word.
    """
    if read.unit and gold.unit and read.unit != gold.unit and is_unit_read:
        return False
    ways = [(read.value, gold.value)]
    if read.is_percent != gold.is_percent and not (read.is_percent and gold.unit):
        ways.append((read.value / 100, gold.value) if read.is_percent else (read.value, gold.value / 100))
    return any(abs(a - b) <= abs(b) * Fraction(tolerance) for a, b in ways)


def _plain(text: str) -> str:
    """Without LaTeX's and Markdown's dress."""
    bare = FRACTION.sub(r" \1/\2 ", text)
    return MARKUP.sub(lambda match: f" {match[1]} " if match[1] else "", bare).replace("\\%", "%").replace("\u202f", "")


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match[0]) > MOST_DIGITS:
        return None
    try:
        if match["whole"] is not None:
            value = Fraction(match["whole"]) + Fraction(int(match["top2"]), int(match["bottom2"]))
        elif match["top"] is not None:
            top, bottom = _number(match["top"]), _number(match["bottom"])
            if top is None or bottom is None:
                return None
            value = top / bottom
        else:
            number = _number(match["plain"])
            if number is None:
                return None
            value = number
    except ZeroDivisionError:
        return None
    if match["sign"].strip() and match["sign2"]:
        return None
    is_negative = any(sign in match["sign"] + match["sign2"] for sign in "-\u2212")
    return -value if is_negative else value


def _number(text: str) -> Fraction | None:
    power = re.search(rf"{POWER}$", text)
    digits = text[: power.start()] if power else text
    exponent = int(re.sub(r".*?([-+]?\d+)\}?$", r"\1", power[0])) if power else 0
    if power and "^" in power[0]:
        exponent = int(power[0].rpartition("^")[2].strip("{}"))
    return None if abs(exponent) > MOST_POWER else Fraction(digits.replace(",", "")) * Fraction(10) ** exponent
