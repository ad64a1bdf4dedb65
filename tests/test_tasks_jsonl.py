"""A user's own JSONL file: both shapes, grading, and every kind of malformed row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stateshape.core.files import BadInput
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.load import load_task
from stateshape.tasks.own_grading import grade, normalise
from stateshape.tasks.task import ChoiceTask, GenerationTask


def load(tmp_path: Path, *rows: object, **options: int) -> GenerationTask | ChoiceTask:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return load_task(str(path), **options)


def test_generation_rows(tmp_path: Path) -> None:
    task = load(
        tmp_path,
        {"prompt": "2+2= ", "answer": 4, "solution": "Two and two make 4.", "split": "train", "id": "sum"},
        {"prompt": "Capital of France?", "answer": "Paris"},
        {"prompt": "3+3=", "answer": "so\n#### 1,006", "solution": "#### 6"},
    )
    assert isinstance(task, GenerationTask)
    assert task.name == "mine"
    assert [item.item_id for item in (*task.train, *task.test)] == ["sum", "mine/2", "mine/3"]
    assert task.train[0].prompt == "2+2="
    assert task.train[0].completion == " Two and two make 4.\n#### 4"
    assert [item.gold for item in task.test] == ["paris", "1006"]
    assert [item.completion for item in task.test] == [None, " #### 6"]
    assert task.grade(task.train[0].completion or "", task.train[0]).strict.is_correct


def test_choice_rows(tmp_path: Path) -> None:
    task = load(
        tmp_path,
        {"prompt": "Q: which?\nA: ", "options": ["one", " two", "three"], "answer": 2, "subject": "s"},
        {"prompt": "Q: which?\nA:", "options": ["one", "two"], "answer": [0, 1], "id": "x"},
    )
    assert isinstance(task, ChoiceTask)
    assert task.items[0].prompt == "Q: which?\nA:"
    assert task.items[0].options == (" one", " two", " three")
    assert [item.is_true for item in task.items] == [(False, False, True), (True, True)]
    assert (task.metric, task.is_lettered) == ("acc", False)
    assert task.chance == pytest.approx((1 / 3 + 1) / 2)
    lettered = load(tmp_path, {"prompt": "A. x\nB. y\nAnswer:", "options": ["A", "B"], "answer": 0})
    assert isinstance(lettered, ChoiceTask)
    assert lettered.is_lettered


# completion, gold as written, strict right, flexible right
@pytest.mark.parametrize(
    ("completion", "answer", "is_strict", "is_flexible"),
    [
        (" 25", "5", False, False),
        (" 5", "5", True, True),
        (" It is 5.", "5", False, True),
        (" first 3\n#### 5", "5", True, True),
        (" first 5\n#### 3", "5", False, False),
        (" $1,234.", "1234", True, True),
        (" Paris.", "paris", True, True),
        (" Not Paris", "Paris", False, False),
        (" Let me think.\nParis", "Paris", False, True),
        (" Let me think.\n#### Paris\nand more", "Paris", True, True),
        (" Parisian", "Paris", False, False),
        ("", "Paris", False, False),
        (" Paris\nQuestion: and of Spain?", "Paris", True, True),
    ],
)
def test_own_grading(completion: str, answer: str, is_strict: bool, is_flexible: bool) -> None:
    grades = grade(completion, GenerationItem(item_id="x", prompt="p", gold=normalise(answer)))
    assert (grades.strict.is_correct, grades.flexible.is_correct) == (is_strict, is_flexible)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{not json", "mine.jsonl:2: not valid JSON"),
        ("{}", "mine.jsonl:2: got '{}'; expected an object"),
        ("[1]", "mine.jsonl:2: got '\\[1\\]'; expected an object"),
        ({"prompt": "p"}, "mine.jsonl:2: answer: got None"),
        ({"prompt": " ", "answer": "x"}, "mine.jsonl:2: prompt: got ' '"),
        ({"prompt": "p", "answer": True}, "mine.jsonl:2: answer: got True"),
        ({"prompt": 5, "answer": "x"}, "mine.jsonl:2: prompt: got 5; expected a text"),
        ({"prompt": "p", "answer": "x", "solution": ["y"]}, "mine.jsonl:2: solution: got \\['y'\\]"),
        ({"prompt": "p", "answer": ["a"]}, "mine.jsonl:2: answer: got \\['a'\\]"),
        ({"prompt": "p", "answer": "x", "anwser": "y"}, "mine.jsonl:2: .*anwser"),
        ({"prompt": "p", "answer": "x", "split": "dev"}, "mine.jsonl:2: .*split"),
        ({"prompt": "p", "answer": "x", "id": "a"}, "id: got 'a' twice"),
        ({"prompt": "p", "options": ["a", "b"], "answer": 0}, "mine.jsonl:2: options: this row has options"),
    ],
)
def test_malformed_generation_rows(tmp_path: Path, bad: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load(tmp_path, {"prompt": "p", "answer": "x", "id": "a"}, bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"prompt": "p", "answer": "x"}, "mine.jsonl:3: options: this row has no options"),
        ({"prompt": "p", "options": "ab", "answer": 0}, "mine.jsonl:3: options: got 'ab'"),
        ({"prompt": "p", "options": ["a"], "answer": 0}, "mine.jsonl:3: options: got .*at least two"),
        ({"prompt": "p", "options": ["a", ""], "answer": 0}, "mine.jsonl:3: options: got '' among them"),
        (
            {"prompt": "p", "options": ["a", "b"], "answer": 2},
            "mine.jsonl:3: answer: got 2; expected an index from 0 to 1",
        ),
        ({"prompt": "p", "options": ["a", "b"], "answer": -1}, "mine.jsonl:3: answer: got -1"),
        ({"prompt": "p", "options": ["a", "b"], "answer": "a"}, "mine.jsonl:3: answer: got 'a'"),
        ({"prompt": "p", "options": ["a", "b"], "answer": []}, r"mine.jsonl:3: answer: got \[\]"),
        ({"prompt": "p", "options": ["a", 3], "answer": 0}, "mine.jsonl:3: options: got 3"),
        ({"prompt": "p", "options": ["a", "b"], "answer": 0, "split": "train"}, "mine.jsonl:3: .*split"),
    ],
)
def test_malformed_choice_rows(tmp_path: Path, bad: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):  # the blank line counts as a line and not as a row
        load(tmp_path, {"prompt": "p", "options": ["a", "b"], "answer": 0}, "", bad)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"mine\.jsonl: got no rows"):
        load(tmp_path, "")
