"""A user's own rows: what is added to them and what is not, how numbers are spelt, what is refused, what is said."""

import json
import logging
from pathlib import Path

import pytest

from stateshape.core.files import BadInput
from stateshape.study.plan_checksum import plan_sha256
from stateshape.study.study_file import StudyFile, TaskChoice
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.joining import default_delimiter, prompt_text
from stateshape.tasks.load import check_evaluable, load_task
from stateshape.tasks.own_grading import grade, normalise
from stateshape.tasks.own_rows import number_text

SUM = {"prompt": "3+4=", "answer": "7", "split": "train"}
COLOUR = {"prompt": "Q: what colour is the sky?\nA:", "options": ["green", "blue"], "answer": 1}


def load(tmp_path, *rows, **options):
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return load_task(str(path), **options)


def refusal(tmp_path, *rows):
    with pytest.raises(BadInput) as caught:
        load(tmp_path, *rows)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500 + len(str(tmp_path))
    return message


# Pairs


def test_a_pair_is_compared_as_it_is_written(tmp_path):
    """Nothing that would tell the sides apart is added to one of them; what is trained on alone still has its answer."""
    (item,) = load(tmp_path, {**SUM, "solution": "3+4=7", "rejected": "3+4=8"}).train
    assert (item.preferred, item.rejected) == (" 3+4=7", " 3+4=8")
    assert item.completion == " 3+4=7\n#### 7"
    (same,) = load(tmp_path, {**SUM, "solution": "3+4=7", "rejected": "3+4=7 "}).train
    assert same.preferred == same.rejected


@pytest.mark.parametrize(
    ("solution", "rejected", "lacks"), [("x\n#### 7", "y", "rejected"), ("x", "y\n#### 8", "solution")]
)
def test_a_mark_on_one_side_of_a_pair_is_refused(tmp_path, solution, rejected, lacks):
    assert f"mine.jsonl:1: {lacks}: got no ####" in refusal(
        tmp_path, {**SUM, "solution": solution, "rejected": rejected}
    )


def test_equal_pairs_are_counted(tmp_path, caplog):
    rows = [{**SUM, "solution": "a", "rejected": "b"}, {**SUM, "solution": "a", "rejected": "a"}]
    load(tmp_path, *rows)
    assert "rejected: 1 of 2 are the same text as their solution (line 2 is the first)" in caplog.text


# Numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [(7, "7"), (7.0, "7"), (1e6, "1000000"), (1e16, "10000000000000000"), (1e23, "1" + "0" * 23), (0.1, "0.1"),
     (2.50, "2.5"), (1e-7, "0.0000001"), (-0.0, "0"), (-3.0, "-3"), (10.0, "10"), ("7.0", "7.0"), ("1e3", "1e3")],
)  # fmt: skip
def test_a_number_in_json_has_one_spelling(value, text):
    assert number_text(value) == text


def test_a_number_is_graded_as_people_write_it(tmp_path):
    task = load(tmp_path, {"prompt": "p", "answer": 7.0}, {"prompt": "q", "answer": 1e6})
    for item, written in zip(task.test, (" #### 7", " #### 1,000,000")):
        assert task.grade(written, item).strict.is_correct


@pytest.mark.parametrize("row", [{**SUM, "answer": float("nan")}, {**COLOUR, "answer": float("inf")}])
def test_a_gap_in_a_table_is_no_answer(tmp_path, row):
    assert f"mine.jsonl:1: answer: got {row['answer']}; expected a finite number" in refusal(tmp_path, row)
    assert "mine.jsonl:1: tag: got nan" in refusal(tmp_path, {**SUM, "tag": float("nan")})


def test_nulls_say_the_same_as_leaving_out_and_whole_numbers_are_labels(tmp_path):
    given = {**SUM, "solution": None, "rejected": None, "tag": 3, "id": 17}
    (item,) = load(tmp_path, given).train
    assert (item.item_id, item.tag, item.completion) == ("17", "3", None)
    assert load(tmp_path, {"prompt": "p", "answer": "x", "id": None, "split": None}).test[0].item_id == "mine/1"
    assert load(tmp_path, {**COLOUR, "answer": 1.0, "subject": None, "id": 4.0}).items[0].is_true == (False, True)
    assert "id: got '17' twice (also" in refusal(tmp_path, {**SUM, "id": 17}, {**SUM, "id": "17"})


def test_a_point_in_front_is_part_of_the_number():
    assert (normalise(".5"), normalise("-.5."), normalise("$.50")) == (".5", "-.5", ".50")
    assert not grade(" #### 5", GenerationItem(item_id="x", prompt="p", gold=normalise(".5"))).strict.is_correct


# Solutions and their answers


@pytest.mark.parametrize(
    ("answer", "solution", "completion"),
    [
        ("7", "3 + 4 = 7", " 3 + 4 = 7\n#### 7"),
        ("7", "#### Step 1: add\n3 + 4 = 7\n#### Step 2: conclude\n7 pens.", None),
        ("7", "#### Step 1: add\n3 + 4 = 7 pens", None),
        ("7", "so\n#### 7", " so\n#### 7"),
        ("7", "so\n####7", " so\n####7"),
        ("1,234", "so\n#### 1234", " so\n#### 1234"),
        ("line one\nline two", "Two lines.", " Two lines.\n#### line one\nline two"),
        ("line one\nline two", "Two lines.\n#### line one\nline two", " Two lines.\n#### line one\nline two"),
        ("def f():\n    return 7", "Code.", " Code.\n#### def f():\n    return 7"),
        ("...", "nothing to say", " nothing to say\n#### ..."),
        ("#### 7", "3 + 4 = 7", " 3 + 4 = 7\n#### 7"),
        ("so\n#### 7", "3 + 4 = 7", " 3 + 4 = 7\n#### 7"),
        ("7\r\n", "3 + 4 = 7\r\n", " 3 + 4 = 7\n#### 7"),
        ("I think it is 7.", "I think it is 7.", " I think it is 7."),
    ],
)
def test_a_given_solution_is_graded_right(tmp_path, caplog, answer, solution, completion):
    task = load(tmp_path, {**SUM, "answer": answer, "solution": solution})
    (item,) = task.train
    assert item.completion == (completion or f" {solution}\n#### {answer}")
    grades = task.grade(item.completion, item)
    assert grades.strict.is_correct and grades.flexible.is_correct, grades
    assert not caplog.text


@pytest.mark.parametrize(
    ("answer", "solution", "read"),
    [("7", "3 + 4 = 8\n#### 8", "8"), ("50", "half\n#### 50%", "50%"), ("1/2", "x\n#### \\frac{1}{2}", "frac"),
     ("7", "Question: what is it?", "None"), ("7", "</s> 7\n#### 7", "None")],
)  # fmt: skip
def test_solutions_that_the_grader_calls_wrong_are_counted(tmp_path, caplog, answer, solution, read):
    load(tmp_path, {**SUM, "solution": "so 7"}, {**SUM, "answer": answer, "solution": solution})
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING and "graded wrong" in one.message]
    assert (
        "solution: 1 of 2 are graded wrong by this task's own grader (line 2 is the first: it reads" in record.message
    )
    assert read in record.message


def test_the_official_and_the_embedded_solutions_are_graded_right():
    task = load_task("arithmetic")
    assert all(task.grade(item.completion, item).strict.is_correct for item in (*task.train, *task.test))
    assert not task.notes


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "Question: what?"}, "answer: got 'Question: what?', which contains the stop text 'Question:'"),
        ({"answer": "x < y </s>"}, "answer: got 'x < y </s>', which contains the stop text '</s>'"),
        ({"answer": "####"}, "answer: got '####', with nothing after its ####"),
        ({"solution": "7<|im_end|>"}, "solution: got '<|im_end|>' at its end"),
        ({"solution": "7", "rejected": "8 </s>\n"}, "rejected: got '</s>' at its end"),
    ],
)
def test_what_no_completion_can_be_is_refused(tmp_path, row, message):
    assert message in refusal(tmp_path, {**SUM, **row})


def test_the_last_mark_with_an_answer_counts():
    item = GenerationItem(item_id="x", prompt="p", gold="7")
    assert grade(" #### Step 1\n3+4\n#### 7\n####", item).strict.is_correct
    assert not grade(" #### 7\n#### 8", item).strict.is_correct
    assert not grade(" #### 77", item).strict.is_correct


# What stands between prompt and text


@pytest.mark.parametrize(
    ("prompt", "delimiter"),
    [("Q: x\nA:", " "), ("2+2=", " "), ("<|im_start|>assistant\n", ""), ("def f():\n    ", ""), ("答案：", ""), ("答案:", ""),
     ("答えは「", ""), ("问题：2+2=？\n答案：", ""), ("Translate 蓝色\nAnswer:", " "), ("정답:", " "), ("Ответ:", " ")],
)  # fmt: skip
def test_the_default_delimiter(prompt, delimiter):
    assert default_delimiter(prompt) == delimiter


def test_a_prompt_loses_the_blanks_at_its_end_but_no_indentation():
    assert prompt_text("A:  ") == "A:"
    assert prompt_text("def f():\n    ") == "def f():\n    "
    assert prompt_text("A:\n") == "A:\n"


def test_options_and_solutions_behind_a_template(tmp_path):
    template = "<|im_start|>assistant\n"
    assert load(tmp_path, {**COLOUR, "prompt": template}).items[0].options == ("green", "blue")
    assert load(tmp_path, {**SUM, "prompt": template, "solution": "It is 7"}).train[0].completion == "It is 7\n#### 7"
    code = load(
        tmp_path, {**SUM, "prompt": "def f():\n", "solution": "    return 7", "rejected": "    return 8"}
    ).train[0]
    assert (code.preferred, code.rejected) == ("    return 7", "    return 8")


def test_a_file_may_have_settings(tmp_path):
    settings = {"settings": {"delimiter": "", "stops": ["\n\n"], "max_new_tokens": 9}}
    task = load(tmp_path, settings, {**SUM, "solution": "so 7"}, {"prompt": "Capital?", "answer": "Paris"})
    assert (task.stops, task.max_new_tokens, task.train[0].completion) == (("\n\n",), 9, "so 7\n#### 7")
    assert task.test[0].item_id == "mine/3", "items are still named by their line"
    assert task.grade("Paris\n\nQ: and Spain?", task.test[0]).strict.is_correct
    assert not task.grade("Paris Question: ?", task.test[0]).strict.is_correct, (
        "its own stops take the place of the others"
    )
    assert load(tmp_path, {"settings": {"delimiter": "\n"}}, COLOUR).items[0].options == ("\ngreen", "\nblue")
    plain = load(tmp_path, SUM)
    assert (plain.stops, plain.max_new_tokens) == (("Question:", "</s>", "<|im_end|>"), 256)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"settings": {"stop": ["x"]}}, SUM],
            "unknown field stop; expected delimiter, stops, max_new_tokens; did you mean stops",
        ),
        ([{"settings": {"stops": "x"}}, SUM], "settings: stops: got 'x'; expected a list"),
        ([{"settings": {"stops": [""]}}, SUM], "settings: stops: got an empty text"),
        ([{"settings": {"max_new_tokens": 0}}, SUM], "settings: max_new_tokens: got 0; expected 1 or more"),
        ([{"settings": {}, **SUM}, SUM], "settings: got other keys in the same row"),
        ([SUM, {"settings": {}}], "mine.jsonl:2: settings: got them in a later row"),
        ([{"settings": {"stops": ["x"]}}, COLOUR], "settings: stops: got it for multiple choice"),
        ([{"settings": {}}], "mine.jsonl: got no rows"),
        ([{"settings": {"stops": ["7"]}}, SUM], "answer: got '7', which contains the stop text '7'"),
    ],
)
def test_settings_that_are_refused(tmp_path, rows, message):
    assert message in refusal(tmp_path, *rows)


# Options


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"options": ["blue", "blue"]}, "options: got 'blue' twice"),
        ({"options": ["blue", " blue"]}, "options: got some that begin with a blank"),
        ({"prompt": "x\n", "options": ["blue", " green"]}, "options: got some that begin with a blank"),
        ({"options": {"A": "green", "B": "blue"}}, "options: got {'A': 'green', 'B': 'blue'}; expected a list"),
        ({"answer": []}, "answer: got []; expected at least one index"),
        ({"answer": "B"}, "expected an index from 0 to 1, counted from 0, or a list of them; write 1 if 'B'"),
        ({"answer": "blue"}, "write 1 for 'blue'"),
        ({"answer": 2}, "answer: got 2; expected an index from 0 to 1, counted from 0"),
        ({"answer": [0, -1]}, "answer: got -1"),
        ({"answer": 0.5}, "answer: got 0.5"),
        ({"answer": True}, "answer: got True"),
        ({"split": "train"}, "split: got 'train'; expected 'test': multiple choice is never trained on"),
        ({"level": 3}, "unknown field level; expected prompt, options, answer"),
    ],
)
def test_options_and_indices(tmp_path, row, message):
    assert message in refusal(tmp_path, {**COLOUR, **row})


def test_a_right_option_that_begins_with_a_wrong_one_is_told(tmp_path, caplog):
    longer = {**COLOUR, "options": ["blue", "blue as the sea"]}
    load(tmp_path, COLOUR, longer)
    assert (
        "options: 1 of 2 right options begin with a wrong one (line 2 is the first: ' blue as the sea'" in caplog.text
    )
    caplog.clear()
    load(tmp_path, {**longer, "answer": 0})
    assert not caplog.text


# Other formats, and what is odd


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "3+4?", "answer": "#### 7"}, "got columns 'question, answer'; expected messages, prompt and"),
        ({"question": "x", "choices": {"text": ["a"]}, "answerKey": "A"}, "got columns 'question, choices, answerKey'"),
        ({"prompt": "x", "solution": "a"}, "answer: got None in a row with 'prompt', 'solution'"),
        ({"a" * 900: 1}, "got columns 'aaa"),
    ],
)
def test_rows_of_no_kind_are_refused_with_the_way_out(tmp_path, row, message):
    told = refusal(tmp_path, row)
    assert message in told
    assert "docs/" in told


def test_the_lines_that_convert_other_formats(tmp_path, caplog):
    page = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text(encoding="utf-8")
    namespace: dict = {}
    exec(page.partition("```python\n")[2].partition("```")[0], namespace)
    row = {"question": "3+4?", "choices": {"text": ["6", "7"], "label": ["A", "B"]}, "answerKey": "B"}
    (tmp_path / "theirs.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    namespace["convert"](tmp_path / "theirs.jsonl", tmp_path / "ours.jsonl", namespace["arc"])
    task = load_task(str(tmp_path / "ours.jsonl"))
    assert not caplog.text
    assert task.items[0].is_true == (False, True)


def test_prompts_that_are_seen_twice_are_counted(tmp_path, caplog):
    rows = [
        SUM,
        {"prompt": "3+4=", "answer": "7"},
        {"prompt": "3+4= ", "answer": "8"},
        {"prompt": "1+1=", "answer": "2"},
    ]
    load(tmp_path, *rows)
    assert "prompt: 2 of 3 test prompts are also training prompts (line 2 is the first)" in caplog.text
    assert (
        "answer: 1 of 4 rows repeat the prompt of an earlier row with a different answer (line 3 is the first)"
        in caplog.text
    )
    caplog.clear()
    load(tmp_path, {**SUM, "prompt": "3\r\n+4="})
    assert "1 of 1 rows contain Windows line ends" in caplog.text


def test_a_file_without_test_rows_has_nothing_to_evaluate(tmp_path):
    with pytest.raises(BadInput, match="mine: got no test rows"):
        check_evaluable(load(tmp_path, SUM))


# Lengths of completions


def test_the_longest_completion_can_be_chosen(tmp_path):
    assert load(tmp_path, SUM, max_new_tokens=12).max_new_tokens == 12
    assert load_task("arithmetic", max_new_tokens=12).max_new_tokens == 12
    with pytest.raises(BadInput, match="max_new_tokens: got 0; expected 1 or more"):
        load(tmp_path, SUM, max_new_tokens=0)
    with pytest.raises(BadInput, match="which is multiple choice"):
        load(tmp_path, COLOUR, max_new_tokens=9)


def test_plans_of_before_keep_their_checksum():
    """The checksum of a file that chooses no lengths, as it was before they could be chosen."""

    def sha256(target, retention):
        return plan_sha256(StudyFile(study="s", model="m", target=target, retention=retention, runs={}), [])

    before = sha256(TaskChoice(task="arithmetic", limit=4), [TaskChoice(task="facts")])
    assert before == BEFORE
    assert before != sha256(TaskChoice(task="arithmetic", limit=4, max_new_tokens=9), [TaskChoice(task="facts")])
    assert before != sha256(TaskChoice(task="arithmetic", limit=4, metric="flexible"), [TaskChoice(task="facts")])


BEFORE = "1f32e7a00460469cf332d9bb86ac54299eeae9b3f4f3e6002b5f0ede4008d62b"
