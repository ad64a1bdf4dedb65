"""Graders of answers in free text: exact, numeric, choice, regex, math, or a function of the user's own.

    exact             the same text, or the same number as text (own_grading.py)
    numeric[:T]       the same number in any spelling, up to the relative tolerance T (numeric.py)
    choice            the same letter: B, (B), "The answer is B."
    regex             `answer` is a regular expression
    math              the same expression, by the library math-verify (the extra `math`)
    file.py:name      your own function (item, text) -> true or false, a score from 0 to 1, or None where it cannot tell; it may
                      ask a model of yours: a judge

All but exact read an answer where it is marked: in the last \\boxed{}, behind the last ####, behind the last "answer is". Their
strict reading wants a mark, or nothing but the answer; the flexible one takes the last number or letter of the text.
Knows no file and no model.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from stateshape.core.dotted import load_object
from stateshape.core.files import BadInput
from stateshape.core.wording import one_line, shown
from stateshape.tasks import own_grading
from stateshape.tasks.items import GenerationItem, Grade
from stateshape.tasks.numeric import Quantity, is_same, last_quantity, quantity
from stateshape.tasks.task import Grades

NAMES = ("exact", "numeric", "numeric:TOLERANCE", "choice", "regex", "math", "file.py:name")
IS_ANSWER = re.compile(r"answer(?:\s+is|\s*[:=])\s*:?\s*", re.IGNORECASE)
LETTER = re.compile(r"[\s*_]*(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z]))[\s*_]*(?:[).:,\]][\s\S]*)?")
LONE_LETTER = re.compile(
    r"\(([A-Z])\)|\*\*([A-Z])\*\*|(?:^|\n)\s*([A-Z])\s*(?:[.):]|$|\n)|\b(?:option|choice)\s+([A-Z])\b"
)
RIGHT = 0.5  # a score from here on is a right answer
Grading = Callable[[str, GenerationItem], Grades]


class Grader(NamedTuple):
    """metric: the reading that counts. check: why an answer can't be graded so, or None. is_own: the user's own code."""

    grade: Grading
    metric: Literal["strict", "flexible"]
    check: Callable[[str], str | None]
    is_own: bool = False

    def headline(self, text: str, item: GenerationItem) -> Grade:
        """The reading that counts."""
        grades = self.grade(text, item)
        return grades.strict if self.metric == "strict" else grades.flexible


def grader_of(name: str | None, *, stops: Sequence[str]) -> Grader:
    """A grader by its name. Raises BadInput."""
    kind, mark, detail = (name or "exact").partition(":")
    if kind == "exact" and not mark:
        return Grader(partial(own_grading.grade, stops=stops), "strict", lambda _: None)
    if kind == "numeric":
        graded = partial(numeric_grade, stops=stops, tolerance=tolerance_of(detail) if mark else 0.0)
        return Grader(graded, "flexible", lambda gold: None if quantity(gold) else "no number, alone or with a unit")
    if kind == "choice" and not mark:
        return Grader(partial(choice_grade, stops=stops), "flexible", lambda g: None if letter(g) else "no letter")
    if kind == "regex" and not mark:
        return Grader(partial(regex_grade, stops=stops), "flexible", pattern_fault)
    if kind == "math" and not mark:
        check_math()
        return Grader(partial(math_grade, stops=stops), "flexible", lambda _: None)
    if mark and kind and detail:
        own = load_object(str(name), what="grader")
        check_function(str(name), own)
        return Grader(partial(own_grade, stops=stops, name=str(name), own=own), "strict", lambda _: None, is_own=True)
    raise BadInput(f"grader: got {shown(name)}; expected one of {', '.join(NAMES)}")


def tolerance_of(text: str) -> float:
    try:
        tolerance = float(text)
    except ValueError:
        tolerance = -1.0
    if not 0 <= tolerance < 1:
        raise BadInput(f"grader: got {shown(f'numeric:{text}')}; expected a share of the answer, as in numeric:0.01")
    return tolerance


def marked(text: str) -> str | None:
    """What stands in the last \\boxed{}, else behind the last #### or the last "answer is", on its line; None without a
    mark."""
    if (inside := boxed(text)) is not None:
        return inside
    if line := own_grading.marked_answer(text).line:
        return line
    *_, last = [None, *IS_ANSWER.finditer(text)]
    if last is None:
        return None
    line = text[last.end() :].partition("\n")[0]
    return re.split(r"(?<=[^\s.])[.!?](?=\s|$)", line)[0].strip() or None


def boxed(text: str) -> str | None:
    """The inside of the last \\boxed{...} whose braces are closed."""
    starts = {match.end() for match in re.finditer(r"\\(?:boxed|fbox)\s{0,4}\{", text)}
    opened: list[int] = []
    found: tuple[int, int] | None = None
    for match in re.finditer(r"[{}]", text) if starts else ():
        if match[0] == "{":
            opened.append(match.end())
        elif opened and (start := opened.pop()) in starts and (found is None or start > found[0]):
            found = start, match.start()
    return None if found is None else text[found[0] : found[1]].strip()


def numeric_grade(completion: str, item: GenerationItem, *, stops: Sequence[str], tolerance: float) -> Grades:
    text = own_grading.cut(completion, stops)
    gold = quantity(item.gold or "")
    assert gold is not None, item.item_id
    where = marked(text)
    strict = quantity(text if where is None else where) or (last_quantity(where) if where else None)
    has_unit = bool(gold.unit)
    flexible = strict or last_quantity(text)
    return Grades(
        strict=_number_grade(strict, gold, tolerance, has_unit=has_unit),
        flexible=_number_grade(flexible, gold, tolerance, has_unit=has_unit),
        text=text,
    )


def _number_grade(read: Quantity | None, gold: Quantity, tolerance: float, *, has_unit: bool) -> Grade:
    if read is None:
        return Grade(prediction=None, is_correct=False)
    number = float(read.value) if read.value.denominator > 1 else read.value.numerator
    said = f"{number}{'%' if read.is_percent else f' {read.unit}' if read.unit and has_unit else ''}"
    return Grade(prediction=said, is_correct=is_same(read, gold, tolerance=tolerance, is_unit_read=has_unit))


def choice_grade(completion: str, item: GenerationItem, *, stops: Sequence[str]) -> Grades:
    text = own_grading.cut(completion, stops)
    gold = letter(item.gold or "")
    where = marked(text)
    strict = letter(text if where is None else where)
    lone = [next(filter(None, groups)) for groups in LONE_LETTER.findall(text)]
    flexible = strict or (lone[-1] if lone else None)
    return Grades(
        strict=Grade(prediction=strict, is_correct=strict == gold),
        flexible=Grade(prediction=flexible, is_correct=flexible == gold),
        text=text,
    )


def letter(text: str) -> str | None:
    """The letter that a text is: B, (B), "B) because ..."; "A dog" is none."""
    match = LETTER.fullmatch(text.strip())
    return next(filter(None, match.groups())).upper() if match else None


def regex_grade(completion: str, item: GenerationItem, *, stops: Sequence[str]) -> Grades:
    """strict: the marked answer, or the whole text, is a match; flexible: a match is anywhere."""
    text = own_grading.cut(completion, stops)
    pattern = re.compile(item.gold or "")
    read = (marked(text) or text).strip()
    found = pattern.search(text)
    return Grades(
        strict=Grade(prediction=read or None, is_correct=pattern.fullmatch(read) is not None),
        flexible=Grade(prediction=found[0] if found else None, is_correct=found is not None),
        text=text,
    )


def pattern_fault(gold: str) -> str | None:
    try:
        re.compile(gold)
    except (re.error, RecursionError, OverflowError) as error:
        return f"no regular expression ({error})"
    return None


def check_math() -> None:
    if importlib.util.find_spec("math_verify") is None:
        raise BadInput(
            "grader: got 'math', and the package 'math-verify' is not installed; expected it; pip install "
            "'stateshape[math]', or "
            "use numeric"
        )


def math_grade(completion: str, item: GenerationItem, *, stops: Sequence[str]) -> Grades:
    """By math-verify: equal as expressions. Its time limits need the main thread; elsewhere there are none."""
    import math_verify

    text = own_grading.cut(completion, stops)
    seconds = 5 if threading.current_thread() is threading.main_thread() else None
    gold = math_verify.parse(f"${(item.gold or '').strip('$')}$", parsing_timeout=seconds)

    def graded(read: str | None) -> Grade:
        answer = [] if read is None else math_verify.parse(read, parsing_timeout=seconds)
        is_right = bool(answer) and bool(math_verify.verify(gold, answer, timeout_seconds=seconds))
        return Grade(prediction=one_line(read, limit=200) if read is not None and answer else None, is_correct=is_right)

    where = marked(text)
    return Grades(strict=graded(None if where is None else f"${where.strip('$')}$"), flexible=graded(text), text=text)


def own_grade(completion: str, item: GenerationItem, *, stops: Sequence[str], name: str, own: Any) -> Grades:
    text = own_grading.cut(completion, stops)
    try:
        value = own(item, text)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = one_line(f"{type(error).__name__}: {error}", limit=120)
        raise BadInput(
            f"grader: {name!r} raised {reason} ({Path(place.filename).name}:{place.lineno}) for {item.item_id}; expected "
            "true or "
            "false, a score from 0 to 1, or None where it cannot tell; fix the function and run the same command again"
        ) from None
    if value is not None and (isinstance(value, str) or not hasattr(value, "__float__") or not 0 <= float(value) <= 1):
        raise BadInput(
            f"grader: {name!r} gave {shown(value)} for {item.item_id}; expected true or false, a score from 0 to 1, or "
            "None where "
            "it cannot tell"
        )
    read = None if value is None else one_line(text, limit=200)
    grade = Grade(prediction=read, is_correct=value is not None and float(value) >= RIGHT)
    return Grades(strict=grade, flexible=grade, text=text)


def check_function(name: str, own: Any) -> None:
    """Whether it can be called with an item and a text. Raises BadInput."""
    expected = "expected a function (item, text) -> true or false, a score from 0 to 1, or None"
    if not callable(own) or inspect.iscoroutinefunction(own) or inspect.isgeneratorfunction(own):
        raise BadInput(f"grader: got {name!r}, which is no plain function; {expected}")
    try:
        inspect.signature(own).bind("item", "text")
    except TypeError as error:
        raise BadInput(f"grader: got {name!r} ({error} when given two); {expected}") from None
    except ValueError:  # some built-in functions have no signature
        return
