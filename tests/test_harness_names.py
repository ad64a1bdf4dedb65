"""Tasks of lm-evaluation-harness by name, without the harness: what is written, and what is refused in one line."""

import sys

import pytest

from stateshape.cli import main
from stateshape.core.files import BadInput
from stateshape.study.plan import make_plan
from stateshape.study.study_file import read_study_file
from stateshape.tasks.harness import HarnessOptions, named, names_of, parse_harness_name
from stateshape.tasks.load import load_task

STUDY = """
study: s
model: embedded
target: {task: arithmetic, limit: 2}
retention:
  - {lm_eval: arc_easy, limit: 500, num_fewshot: 0}
  - {task: facts, limit: 3}
runs: {sft: {recipe: sft}}
"""


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("lm_eval:arc_easy", "arc_easy", HarnessOptions()),
        ("lm_eval:gsm8k,num_fewshot=0", "gsm8k", HarnessOptions(num_fewshot=0)),
        (
            "lm_eval:a,b/my.yaml,apply_chat_template=true,fewshot_as_multiturn=true",
            "a,b/my.yaml",
            HarnessOptions(apply_chat_template=True, fewshot_as_multiturn=True),
        ),
        (
            "lm_eval:gsm8k,metric=exact_match,flexible-extract,num_fewshot=2",
            "gsm8k",
            HarnessOptions(metric="exact_match,flexible-extract", num_fewshot=2),
        ),
    ],
)
def test_a_name_holds_its_options(text, name, options):
    assert parse_harness_name(text) == (name, options)
    assert parse_harness_name(f"lm_eval:{name}{options.text()}") == (name, options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lm_eval:", "expected a task of lm-evaluation-harness"),
        ("lm_eval:a,shots=2", "unknown field shots; expected num_fewshot"),
        ("lm_eval:a,num_fewshot=two", "num_fewshot: got 'two'; expected a whole number"),
        ("lm_eval:a,num_fewshot=-1", "num_fewshot: got -1; expected 0 or more"),
        ("lm_eval:a,fewshot_as_multiturn=true", "fewshot_as_multiturn: got true without apply_chat_template"),
    ],
)
def test_options_that_can_not_be_meant(text, message):
    with pytest.raises(BadInput, match=message) as caught:
        parse_harness_name(text)
    assert "\n" not in str(caught.value)


def test_options_stay_with_their_task_in_a_list_of_names():
    assert names_of("facts, lm_eval:a,num_fewshot=0,apply_chat_template=true,exam,") == [
        "facts",
        "lm_eval:a,num_fewshot=0,apply_chat_template=true",
        "exam",
    ]


def test_a_study_file_names_a_task_in_the_harness_s_words(tmp_path):
    (tmp_path / "s.yaml").write_text(STUDY)
    file = read_study_file(str(tmp_path / "s.yaml"))
    assert [(one.task, one.limit) for one in file.retention] == [("lm_eval:arc_easy,num_fewshot=0", 500), ("facts", 3)]
    assert make_plan(file).sha256 != make_plan(read_study_file(write_other(tmp_path))).sha256


def write_other(folder):
    path = folder / "other.yaml"
    path.write_text(STUDY.replace("num_fewshot: 0", "num_fewshot: 5"))
    return str(path)


def test_a_study_file_with_a_task_twice_or_an_odd_name():
    with pytest.raises(BadInput, match="beside a task"):
        named({"lm_eval": "arc_easy", "task": "facts"})
    with pytest.raises(BadInput, match="expected one name"):
        named({"lm_eval": ["arc_easy"]})


def test_without_the_harness_there_is_one_line_that_says_how_to_install_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(BadInput, match=r"pip install 'stateshape\[lm-eval\]'"):
        load_task("lm_eval:arc_easy")
    out = tmp_path / "out"
    assert main(["eval", "embedded", "--task", "lm_eval:arc_easy", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "stateshape[lm-eval]" in error
    assert not out.exists()
