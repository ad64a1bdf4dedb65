"""Each grader on what is right and on near misses: strict where an answer is marked or alone, flexible where it comes last."""

import json
from fractions import Fraction

import pytest

from stateshape.core.files import BadInput
from stateshape.tasks.graders import boxed, grader_of, letter, marked
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.load import load_task
from stateshape.tasks.numeric import Quantity, last_quantity, quantity, unit_of
from stateshape.tasks.reading import Reading


def graded(name, answer, text, stops=()):
    grades = grader_of(name, stops=stops).grade(text, GenerationItem(item_id="i", prompt="p", gold=answer))
    return grades.strict.is_correct, grades.flexible.is_correct


# Numbers


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("7", 7, ""),
        ("-7", -7, ""),
        ("\u22127", -7, ""),
        ("+7", 7, ""),
        ("1,234,567.50", Fraction(2469135, 2), ""),
        (".5", Fraction(1, 2), ""),
        ("$4", 4, ""),
        ("-$4", -4, ""),
        ("$-4", -4, ""),
        ("3/4", Fraction(3, 4), ""),
        ("1 1/2", Fraction(3, 2), ""),
        ("\\frac{3}{4}", Fraction(3, 4), ""),
        ("-\\dfrac{3}{4}", Fraction(-3, 4), ""),
        ("1e3", 1000, ""),
        ("1.5 x 10^3", 1500, ""),
        ("1.5 \\times 10^{-1}", Fraction(3, 20), ""),
        ("25%", 25, "%"),
        ("25\\%", 25, "%"),
        ("25 percent", 25, "%"),
        ("5 km", 5, "km"),
        ("5 kilometres", 5, "km"),
        ("5\\text{ km}", 5, "km"),
        ("**7**", 7, ""),
        ("$7$", 7, ""),
        ("7.", 7, ""),
        ("60 km/h", 60, "km/h"),
    ],
)
def test_a_number_as_people_write_it(text, value, unit):
    assert quantity(text) == Quantity(Fraction(value), unit)


@pytest.mark.parametrize(
    "text",
    ["", "seven", "v1.2.3", "1.234,5", "12,34", "7 or 8", "1-2", "3:30", "1/0", "x = 7", "1e999", "9" * 90, "--7"],
)
def test_what_is_no_single_number(text):
    assert quantity(text) is None


def test_the_last_number_of_a_text():
    assert last_quantity("first 3, then 25 and 7 km.") == Quantity(Fraction(7), "km")
    assert last_quantity("version 1.2.3 has none") is None
    assert last_quantity("12,34") is None


def test_units_have_one_spelling():
    assert unit_of("Metres") == unit_of("m") == "m"
    assert unit_of("feet") == unit_of("ft") != unit_of("f")
    assert unit_of("apples") == unit_of("apple")
    assert unit_of("ms") != unit_of("m")


@pytest.mark.parametrize(
    ("answer", "text", "is_strict", "is_flexible"),
    [
        ("7", "7", True, True),
        ("7", "The answer is 7.", True, True),
        ("7", "the final answer is: $7$", True, True),
        ("7", "3+4=7\n#### 7", True, True),
        ("7", "so \\boxed{7}, not 8", True, True),
        ("1/2", "\\boxed{\\frac{1}{2}}", True, True),
        ("1/2", "0.5", True, True),
        ("0.5", "1/2", True, True),
        ("1000", "$1,000.00", True, True),
        ("25%", "25", True, True),
        ("25%", "0.25", True, True),
        ("0.25", "25%", True, True),
        ("12 km", "12", True, True),
        ("12 km", "12 kilometers", True, True),
        ("12", "The answer is 12 apples.", True, True),
        ("960", "16 * 60 is 960", False, True),
        ("960", "16 * 60 = 960\nThe answer is 960.", True, True),
        # near misses
        ("7", "17", False, False),
        ("5", "25", False, False),
        ("3", "-3", False, False),
        ("7", "7 or 8", False, False),
        ("7", "\\boxed{8} and 7", False, False),
        ("7", "The answer is 8. It was 7.", False, False),
        ("0.25", "25", False, False),
        ("25", "0.25", False, False),
        ("12 km", "12 m", False, False),
        ("12 km", "12 miles", False, False),
        ("0.333", "1/3", False, False),
        ("7", "seven", False, False),
        ("7", "", False, False),
    ],
)
def test_numeric(answer, text, is_strict, is_flexible):
    assert graded("numeric", answer, text) == (is_strict, is_flexible)


@pytest.mark.parametrize(
    ("tolerance", "answer", "text", "is_right"),
    [
        ("0.01", "100", "101", True),
        ("0.01", "100", "101.1", False),
        ("0.01", "100", "99", True),
        ("0.01", "1/3", "0.333", True),
        ("0.01", "-100", "100", False),
        ("0.01", "0", "0.001", False),
        ("0.5", "0", "0", True),
    ],
)
def test_a_tolerance_is_relative_to_the_answer(tolerance, answer, text, is_right):
    assert graded(f"numeric:{tolerance}", answer, text) == (is_right, is_right)


# Marks


def test_what_is_marked():
    assert marked("a \\boxed{1} b \\boxed{2 {3}}") == "2 {3}"
    assert marked("\\boxed{1") is None
    assert boxed("no box") is None
    assert marked("#### 7\nmore") == "7"
    assert marked("The answer is 3.5. Or not") == "3.5"
    assert marked("The answer is 3. The answer is 4.") == "4"
    assert marked("an answer is hard to find") == "hard to find"
    assert marked("nothing") is None


# Choices


@pytest.mark.parametrize(
    ("answer", "text", "is_strict", "is_flexible"),
    [
        ("B", "B", True, True),
        ("B", "(B)", True, True),
        ("(B)", "b", True, True),
        ("B", "B) because", True, True),
        ("B", "**B**", True, True),
        ("B", "The answer is (B).", True, True),
        ("B", "Answer: B. Paris", True, True),
        ("B", "\\boxed{B}", True, True),
        ("B", "I take option B here", False, True),
        ("C", "First (A), then (C)", False, True),
        # near misses
        ("A", "A dog barks", False, False),
        ("B", "Bob", False, False),
        ("I", "I think so", False, False),
        ("A", "A good answer is B.", False, False),
        ("B", "", False, False),
        ("A", "(A) or (B)", False, False),
    ],
)
def test_choice(answer, text, is_strict, is_flexible):
    assert graded("choice", answer, text) == (is_strict, is_flexible)


def test_a_word_is_no_letter():
    assert letter("AB") is None
    assert letter("[c]") == "C"


# Patterns


@pytest.mark.parametrize(
    ("answer", "text", "is_strict", "is_flexible"),
    [
        ("(?i)paris", "Paris", True, True),
        ("(?i)paris", "It is Paris.", False, True),
        (r"\b7\b", "17", False, False),
        ("7", "17", False, True),
        ("a|b", "The answer is b.", True, True),
    ],
)
def test_regex(answer, text, is_strict, is_flexible):
    assert graded("regex", answer, text) == (is_strict, is_flexible)


# Expressions


@pytest.mark.parametrize(
    ("answer", "text", "is_right"),
    [
        ("\\frac{1}{2}", "so \\boxed{0.5}", True),
        ("x + 1", "\\boxed{1 + x}", True),
        ("\\sqrt{8}", "\\boxed{2\\sqrt{2}}", True),
        ("x + 1", "\\boxed{x - 1}", False),
        ("7", "\\boxed{17}", False),
    ],
)
def test_math(answer, text, is_right):
    pytest.importorskip("math_verify")
    assert graded("math", answer, text) == (is_right, is_right)


def test_math_without_its_library_is_refused(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"grader: got 'math', and the package 'math-verify' is not installed"):
        grader_of("math", stops=())


# Functions of one's own


JUDGE = """
asked = []
def judge(item, text):
    asked.append((item.item_id, item.gold, text))
    return {"yes": True, "no": False, "most": 0.5, "less": 0.4, "unknown": None}[text]
def odd(item, text): return 2
def wrong(item, text): raise KeyError("k")
def many(item, text, finish): return 1
async def later(item, text): return 1
value = 3
"""


@pytest.fixture
def judge(tmp_path):
    path = tmp_path / "judge.py"
    path.write_text(JUDGE)
    return str(path)


@pytest.mark.parametrize(
    ("text", "is_right"), [("yes", True), ("no", False), ("most", True), ("less", False), ("unknown", False)]
)
def test_a_function_decides(judge, text, is_right):
    assert graded(f"{judge}:judge", "7", text) == (is_right, is_right)


def test_a_function_that_cannot_tell_is_told_apart_from_no(judge):
    grade = grader_of(f"{judge}:judge", stops=()).grade
    item = GenerationItem(item_id="i", prompt="p", gold="7")
    assert grade("unknown", item).strict.prediction is None
    assert grade("no", item).strict.prediction == "no"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("odd", "gave 2 for i; expected true or false, a score from 0 to 1"),
        ("wrong", "raised KeyError: 'k' (judge.py:7) for i"),
        ("many", "when given two"),
        ("later", "which is no plain function"),
        ("value", "which is no plain function"),
        ("none", "can't be imported"),
    ],
)
def test_a_function_that_does_not_fit_is_one_line(judge, name, message):
    with pytest.raises(BadInput) as caught:
        graded(f"{judge}:{name}", "7", "yes")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["fuzzy", "numeric:x", "numeric:-1", "numeric:2", "exact:1", ":x"])
def test_an_unknown_grader_is_refused(name):
    with pytest.raises(BadInput, match="grader: got"):
        grader_of(name, stops=())


# In a file


def task(tmp_path, grader, *rows):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_task(str(path), reading=Reading(grader=grader))


def test_a_files_answers_are_ones_that_its_grader_knows(tmp_path):
    row = {"prompt": "a", "answer": "Paris"}
    for grader, message in (
        (
            "numeric",
            "mine.jsonl:1: answer: got 'Paris', no number, alone or with a unit; expected one for the grader numeric",
        ),
        ("choice", "mine.jsonl:1: answer: got 'Paris', no letter"),
    ):
        with pytest.raises(BadInput) as caught:
            task(tmp_path, grader, row)
        assert message in str(caught.value)
    with pytest.raises(BadInput, match=r"mine.jsonl:1: answer: got '\('.*no regular expression"):
        task(tmp_path, "regex", {"prompt": "a", "answer": "("})


def test_the_flexible_reading_counts_where_numbers_are_graded(tmp_path):
    found = task(tmp_path, "numeric", {"prompt": "a", "answer": "12 Km", "solution": "so 12 km", "split": "train"})
    (item,) = found.train
    assert (item.gold, item.completion) == ("12 Km", " so 12 km")  # neither folded nor marked
    assert found.is_right("that makes 12", item) is True
    assert found.is_right("that makes 13", item) is False
    exact = task(tmp_path, None, {"prompt": "a", "answer": "12", "split": "train"})
    assert exact.is_right("that makes 12", exact.train[0]) is False


def test_solutions_that_the_grader_calls_wrong_are_counted(tmp_path, caplog, judge):
    row = {"prompt": "a", "answer": "12", "solution": "so 13"}
    task(tmp_path, "numeric", {**row, "solution": "so 12 it is"})
    assert not caplog.text
    task(tmp_path, "numeric", row)
    assert "solution: 1 of 1 are graded wrong by this task's own grader" in caplog.text
    caplog.clear()
    task(tmp_path, f"{judge}:odd", row)  # code of the user's is not run on what is only read
    assert "solution" not in caplog.text
