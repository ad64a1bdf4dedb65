"""Tasks without official data: grading on real near misses, prompts, subsets, the embedded tasks, errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stateshape.core.files import BadInput
from stateshape.embedded import wording, world
from stateshape.tasks import gsm8k, hub, mmlu, truthfulqa
from stateshape.tasks.items import ChoiceItem, GenerationItem
from stateshape.tasks.load import load_task
from stateshape.tasks.task import ChoiceTask, GenerationTask, mc1_chance


def problem(gold: str) -> GenerationItem:
    return GenerationItem(item_id="p", prompt="Question: q\nAnswer:", gold=gold)


# completion, gold, strict prediction, strict right, flexible prediction, flexible right
GRADED = [
    (" She has 5 left.\n#### 5", "5", "5", True, "5", True),
    (" 20+5=25\n#### 25", "5", "25", False, "25", False),
    ("\n#### 1,234.", "1234", "1234", True, "1234", True),
    ("\n#### -7", "7", "-7", False, "-7", False),
    ("\n#### -7", "-7", "-7", True, "-7", True),
    # as the harness: numbers are texts, "$" after the mark defeats the strict pattern, decimals are not rounded
    (" That is $18.00", "18", None, False, "18.00", False),
    (" That is $18.", "18", None, False, "18", True),
    ("\n#### $18", "18", None, False, "18", True),
    ("\n####18", "18", None, False, "18", True),
    ("\n#### 18 dollars for 3 hens", "18", "18", True, "3", False),
    (" The answer is 18. I am sure.", "18", None, False, "18", True),
    (" I do not know.", "18", None, False, None, False),
    ("", "18", None, False, None, False),
    # what comes after the answer does not count
    ("\n#### 18\n\nQuestion: Tom has 5 cats\nAnswer: #### 5", "18", "18", True, "18", True),
    ("\n#### 18\n\n#### 20", "18", "18", True, "18", True),
    ("\n#### 20\n#### 18", "18", "20", False, "20", False),
    (" 18</s> 5", "18", None, False, "18", True),
    # but the answer before the first mark is no answer
    (" 18 #### five", "18", None, False, "18", True),
]


@pytest.mark.parametrize(("completion", "gold", "strict", "is_strict", "flexible", "is_flexible"), GRADED)
def test_gsm8k_grading(
    completion: str, gold: str, strict: str | None, is_strict: bool, flexible: str | None, is_flexible: bool
) -> None:
    grades = gsm8k.grade(completion, problem(gold))
    assert (grades.strict.prediction, grades.strict.is_correct) == (strict, is_strict)
    assert (grades.flexible.prediction, grades.flexible.is_correct) == (flexible, is_flexible)


def test_gsm8k_grades_like_the_harness_before_the_cut() -> None:
    """The harness's own filters and metric on the same texts (those that our second-mark cut does not change)."""
    yaml = pytest.importorskip("yaml")
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    config = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks/gsm8k/gsm8k.yaml").read_text())
    assert tuple(config["generation_kwargs"]["until"]) == gsm8k.STOPS
    ignored = config["metric_list"][0]["regexes_to_ignore"]
    filters = [
        RegexFilter(regex_pattern=f["filter"][0]["regex_pattern"], group_select=f["filter"][0].get("group_select", 0))
        for f in config["filter_list"]
    ]
    compared = 0
    for completion, gold, *_ in GRADED:
        text = completion
        for stop in gsm8k.STOPS:
            text = text.split(stop)[0]
        if text.count("####") > 1:
            continue
        strict, flexible = (next(iter(f.apply([[text]], [{}])))[0] for f in filters)
        grades = gsm8k.grade(completion, problem(gold))
        for theirs, ours in ((strict, grades.strict), (flexible, grades.flexible)):
            score = exact_match_hf_evaluate([theirs], [f"so #### {gold}"], regexes_to_ignore=ignored, ignore_case=True)
            assert bool(score["exact_match"]) == ours.is_correct, (completion, theirs)
            compared += 1
    assert compared >= 30


def test_training_text_has_no_calculator_marks_and_shots_keep_them() -> None:
    raw = gsm8k.RawProblem("How many?", "She sold 48/2 = <<48/2=24>>24 clips for $<<24*1=24>>24.\n#### 1,024")
    task = gsm8k.gsm8k_task([raw], [gsm8k.RawProblem("And?", "#### 3")], shots=1, limit=None, data_sha256="")
    assert task.train[0].completion == " She sold 48/2 = 24 clips for $24.\n#### 1,024"
    assert task.train[0].prompt == "Question: How many?\nAnswer:"
    assert task.train[0].gold == "1024"
    assert task.test[0].prompt == f"Question: How many?\nAnswer: {raw.answer}\n\nQuestion: And?\nAnswer:"
    assert task.grade(task.train[0].completion or "", task.train[0]).strict.is_correct


def test_gsm8k_rows_without_an_answer_line_are_refused(tmp_path: Path) -> None:
    (tmp_path / "gsm8k").mkdir()
    for split in ("train", "test"):
        row = {"question": "q", "answer": "#### 3"}
        (tmp_path / "gsm8k" / f"{split}.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "answer": "3"}))
    with pytest.raises(BadInput, match=r"train\.jsonl:2: answer: got '3'; expected a last line"):
        load_task("gsm8k", data_dir=tmp_path)


def test_truthfulqa_items_carry_both_option_sets() -> None:
    raw = truthfulqa.RawQuestion("Why?", {"yes": True, "no": False}, {"yes": True, "aye": True, "no": False})
    task = truthfulqa.truthfulqa_task([raw], limit=None, data_sha256="")
    item = task.items[0]
    assert item.prompt.endswith("held in Barcelona, Spain.\n\nQ: Why?\nA:")
    assert item.options == (" yes", " aye", " no")
    assert item.is_true == (True, True, False)
    assert item.in_mc1 == (True, False, True)
    assert task.chance == 0.5
    stray = truthfulqa.RawQuestion("Why?", {"maybe": True, "no": False}, {"yes": True, "no": False})
    with pytest.raises(BadInput, match=r"truthfulqa/0: mc1_targets: got 'maybe'"):
        truthfulqa.truthfulqa_task([stray], limit=None, data_sha256="")


@pytest.mark.parametrize("in_mc1", [(True, True), (True, True, False), (True, False, False), (False, False, True)])
def test_in_mc1_needs_exactly_one_true_option(in_mc1: tuple[bool, ...]) -> None:
    with pytest.raises(ValueError, match="in_mc1"):
        ChoiceItem(item_id="x", prompt="p", options=(" a", " b", " c"), is_true=(True, True, False), in_mc1=in_mc1)
    kept = ChoiceItem(
        item_id="x", prompt="p", options=(" a", " b", " c"), is_true=(True, True, False), in_mc1=(True, False, True)
    )
    assert mc1_chance((kept,)) == 0.5


def exam_items(sizes: dict[str, int]) -> list[ChoiceItem]:
    raw = mmlu.RawExam(" Two and two? ", ("3", "4", "5 ", "6"), 1)
    return [mmlu.exam_item(raw, (), subject=s, item_id=f"mmlu/{s}/{i}") for s, n in sizes.items() for i in range(n)]


def test_mmlu_cloze_asks_for_the_texts_which_it_does_not_show() -> None:
    raw = mmlu.RawExam(" Two and two? ", ("3", "4", "5 ", "6"), 1)
    item = mmlu.cloze_item(raw, (raw,), subject="small_sums", item_id="mmlu/small_sums/0")
    assert item.prompt == (
        "The following are questions (with answers) about small sums.\n\n"
        "Question: Two and two?\nAnswer: 4\n\nQuestion: Two and two?\nAnswer:"
    )
    assert (item.options, item.is_true) == ((" 3", " 4", " 5 ", " 6"), (False, True, False, False))


def test_mmlu_cloze_keeps_the_items_that_mmlu_keeps() -> None:
    raws = {"sums": [mmlu.RawExam(f"{n}?", ("1", "2", "3", "4"), n % 4) for n in range(9)]}
    tasks = [mmlu.mmlu_task(raws, {}, shots=0, limit=4, data_sha256="", is_cloze=form) for form in (False, True)]
    assert [item.item_id for item in tasks[0].items] == [item.item_id for item in tasks[1].items]
    assert [(task.name, task.metric, task.metrics) for task in tasks] == [
        ("mmlu", "acc", ("acc",)),
        ("mmlu_cloze", "acc_norm", ("acc_norm", "acc")),
    ]


def test_mmlu_prompt_strips_the_question_and_not_the_choices() -> None:
    item = exam_items({"high_school_maths": 1})[0]
    assert item.prompt == (
        "The following are multiple choice questions (with answers) about high school maths.\n\n"
        "Two and two?\nA. 3\nB. 4\nC. 5 \nD. 6\nAnswer:"
    )
    assert item.options == (" A", " B", " C", " D")
    assert item.is_true == (False, True, False, False)


def test_stratified_subsets_are_proportional_nested_and_leave_no_subject_out() -> None:
    items = exam_items({"big": 70, "middle": 28, "tiny": 2})
    previous: set[str] = set()
    for limit in range(1, 101):
        kept = mmlu.stratified(items, limit)
        ids = {item.item_id for item in kept}
        assert len(kept) == len(ids) == limit
        assert previous <= ids
        assert [i for i in items if i.item_id in ids] == list(kept)
        previous = ids
    counts = {s: sum(item.subject == s for item in mmlu.stratified(items, 50)) for s in ("big", "middle", "tiny")}
    assert counts == {"big": 35, "middle": 14, "tiny": 1}
    assert {item.subject for item in mmlu.stratified(items, 3)} == {"big", "middle", "tiny"}
    assert [item.item_id for item in mmlu.stratified(items, 3)] == ["mmlu/big/26", "mmlu/middle/12", "mmlu/tiny/1"]


def test_embedded_prompts_are_those_of_pretraining() -> None:
    arithmetic = load_task("arithmetic", limit=5)
    assert isinstance(arithmetic, GenerationTask)
    first = world.arithmetic("train", 1)[0]
    assert (len(arithmetic.train), len(arithmetic.test)) == (4000, 5)
    assert arithmetic.train[0].prompt == wording.arithmetic_prompt(first.question)
    assert arithmetic.train[0].completion == wording.arithmetic_completion(first)
    assert {p.prompt for p in arithmetic.train}.isdisjoint(p.prompt for p in load_task("arithmetic").test)
    facts = load_task("facts")
    assert isinstance(facts, ChoiceTask)
    fact = world.facts("test", 1)[0]
    assert facts.items[0].prompt == wording.fact_prompt(fact)
    assert facts.items[0].options == tuple(f" {a}" for a in (*fact.true_answers, *fact.false_answers))
    assert facts.items[0].in_mc1 == (True, False, False, *[True] * len(fact.false_answers))
    exam = load_task("exam", shots=5)
    assert isinstance(exam, ChoiceTask)
    question = world.exam("test", 1)[0]
    shots = [q for q in world.exam("dev", 40) if q.subject == question.subject]
    assert len(shots) == 5
    assert exam.items[0].prompt == wording.exam_prompt(question, shots)
    assert exam.items[0].is_true.index(True) == question.answer_index
    assert (exam.chance, exam.is_lettered, len(exam.items)) == (0.25, True, 640)


def test_every_worked_solution_is_graded_right_and_every_other_answer_wrong() -> None:
    task = load_task("arithmetic")
    assert isinstance(task, GenerationTask)
    for item, other in zip(task.train[:500], task.train[1:501]):
        grades = task.grade(item.completion or "", item)
        assert grades.strict.is_correct
        assert grades.flexible.is_correct
        assert task.grade(item.completion or "", other).strict.is_correct == (item.gold == other.gold)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gsm8kk", {}, r"task: got 'gsm8kk'; expected one of .*did you mean gsm8k\?"),
        ("wikipedia", {}, r"a file of your own \(\.jsonl, .*\), hub:owner/name, or lm_eval:NAME$"),
        ("facts", {"limit": 0}, "limit: got 0"),
        ("arithmetic", {"shots": -1}, "shots: got -1 for arithmetic; expected 0 or more"),
        ("facts", {"shots": 3}, "shots: got 3 for facts; expected 0 for this task"),
        ("exam", {"shots": 6}, "shots: got 6; expected at most 5, the number of dev questions of"),
        ("nowhere.jsonl", {}, r"nowhere\.jsonl: no such file"),
        ("gsm8k", {"data_dir": Path("/no/such/folder")}, "data_dir: got /no/such/folder"),
    ],
)
def test_mistakes_are_one_clear_line(name: str, options: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_task(name, **options)


def test_hub_rows_become_the_same_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in the hub's layout (no network here)."""
    rows = {
        "truthfulqa": [
            {
                "question": "Why?",
                "mc1_targets": {"choices": ["yes", "no"], "labels": [1, 0]},
                "mc2_targets": {"choices": ["yes", "aye", "no"], "labels": [1, 1, 0]},
            }
        ],
        "mmlu": [{"question": "Two?", "choices": ["1", "2", "3", "4"], "answer": 1, "subject": "small_sums"}],
        "gsm8k": [{"question": "Two?", "answer": "It is <<2=2>>2.\n#### 2"}],
    }
    monkeypatch.setattr(hub, "_rows", lambda name, split: rows[name])
    truthful, exam, problems = (load_task(name) for name in ("truthfulqa", "mmlu", "gsm8k"))
    assert isinstance(truthful, ChoiceTask)
    assert isinstance(exam, ChoiceTask)
    assert isinstance(problems, GenerationTask)
    assert truthful.items[0].in_mc1 == (True, False, True)
    assert exam.items[0].item_id == "mmlu/small_sums/0"
    assert exam.items[0].is_true == (False, True, False, False)
    assert problems.test[0].completion == " It is 2.\n#### 2"


def test_hub_without_datasets_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match=r"pip install 'stateshape\[hub\]'"):
        load_task("gsm8k")


def test_tasks_need_no_torch() -> None:
    code = "import sys, stateshape.tasks.load as l; l.load_task('facts'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
