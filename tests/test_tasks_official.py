"""The official data against known counts, and our prompts against lm-evaluation-harness's own templates.

Needs STATESHAPE_DATA: a folder with gsm8k/{train,test}.jsonl, truthfulqa/mc_task.json, mmlu/{dev,test}/*.csv.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from stateshape.tasks import gsm8k
from stateshape.tasks.equations import equations
from stateshape.tasks.load import load_task
from stateshape.tasks.steps import first_error
from stateshape.tasks.task import ChoiceTask, GenerationTask

pytestmark = pytest.mark.skipif(
    "STATESHAPE_DATA" not in os.environ, reason="set STATESHAPE_DATA to a folder with gsm8k/, truthfulqa/ and mmlu/"
)
DATA = Path(os.environ.get("STATESHAPE_DATA", "."))


def generation(name: str, **options: int) -> GenerationTask:
    task = load_task(name, data_dir=DATA, **options)
    assert isinstance(task, GenerationTask)
    return task


def choice(name: str, **options: int) -> ChoiceTask:
    task = load_task(name, data_dir=DATA, **options)
    assert isinstance(task, ChoiceTask)
    return task


def harness_config(path: str) -> dict[str, Any]:
    """A task's yaml with what it includes (tags such as !function become their text)."""
    yaml = pytest.importorskip("yaml")
    lm_eval = pytest.importorskip("lm_eval")

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda loader, suffix, node: str(node.value))
    file = Path(lm_eval.__file__).parent / "tasks" / path
    config = yaml.load(file.read_text(), Loader=Loader)
    included = harness_config(str(Path(path).parent / config["include"])) if "include" in config else {}
    return {**included, **config}


def render(template: str, doc: dict[str, Any]) -> Any:
    from lm_eval.utils import apply_template

    return apply_template(template, doc)


def test_known_sizes_and_chance_levels() -> None:
    problems, truthful, exam = generation("gsm8k"), choice("truthfulqa"), choice("mmlu")
    assert (len(problems.train), len(problems.test), problems.chance) == (7473, 1319, 0.0)
    assert len(truthful.items) == 817
    assert truthful.chance == pytest.approx(0.2225, abs=5e-5)
    uniform_mc2 = sum(sum(item.is_true) / len(item.options) for item in truthful.items) / 817
    assert uniform_mc2 == pytest.approx(0.464, abs=5e-4)
    assert all(item.is_true[0] for item in truthful.items)  # so a constant scorer must not be given its ties
    assert (len(exam.items), len({item.subject for item in exam.items}), exam.chance) == (14042, 57, 0.25)
    for ids in ([i.item_id for i in exam.items], [i.item_id for i in (*problems.train, *problems.test)]):
        assert len(set(ids)) == len(ids)


def test_limits() -> None:
    assert [i.item_id for i in generation("gsm8k", limit=3).test] == [f"gsm8k/test/{n}" for n in range(3)]
    assert len(generation("gsm8k", limit=3).train) == 7473
    assert len(choice("truthfulqa", limit=100).items) == 100
    small, large = (choice("mmlu", limit=n).items for n in (57, 500))
    assert len({item.subject for item in small}) == 57
    assert {item.item_id for item in small} < {item.item_id for item in large}
    for limit in (100, 500, 2000):  # a model that leans to one letter must not gain or lose by the choice of items
        items = choice("mmlu", limit=limit).items
        shares = [sum(item.is_true[k] for item in items) / limit for k in range(4)]
        assert shares == pytest.approx([0.2295, 0.2465, 0.2551, 0.2690], abs=0.5 / limit**0.5)
    law = sum(item.subject == "professional_law" for item in large)
    assert law == pytest.approx(500 * 1534 / 14042, abs=6)  # the 57 guaranteed places come from the large subjects


def test_every_gold_solution_grades_right_and_the_next_ones_as_the_numbers_say() -> None:
    task = generation("gsm8k")
    items = (*task.train, *task.test)
    for item, other in itertools.pairwise(items):
        grades = task.grade(item.completion or "", item)
        assert grades.strict.is_correct, item.item_id
        assert grades.flexible.is_correct, item.item_id
        assert task.grade(item.completion or "", other).strict.is_correct == (item.gold == other.gold)
        assert "<<" not in (item.completion or "")


def test_gsm8k_prompts_are_the_harness_s() -> None:
    config = harness_config("gsm8k/gsm8k.yaml")
    rows, shots = ([json.loads(s) for s in (DATA / f"gsm8k/{n}.jsonl").open()] for n in ("test", "train"))
    zero, three = generation("gsm8k"), generation("gsm8k", shots=3)
    assert zero.stops == tuple(config["generation_kwargs"]["until"])
    examples = "".join(
        f"{render(config['doc_to_text'], doc)} {render(config['doc_to_target'], doc)}\n\n" for doc in shots[:3]
    )
    for doc, plain, shot in zip(rows, zero.test, three.test):
        assert plain.prompt == render(config["doc_to_text"], doc)
        assert shot.prompt == examples + plain.prompt
    ignored = config["metric_list"][0]["regexes_to_ignore"]
    for doc, item in zip(rows, zero.test):
        gold = render(config["doc_to_target"], doc)
        for pattern in ignored:
            gold = re.sub(pattern, "", gold)
        assert item.gold == gold
    patterns = {f["name"]: f["filter"][0]["regex_pattern"] for f in config["filter_list"]}
    assert patterns == {"strict-match": gsm8k.STRICT.pattern, "flexible-extract": gsm8k.FLEXIBLE.pattern}


def test_truthfulqa_prompts_and_options_are_the_harness_s() -> None:
    first, second = (harness_config(f"truthfulqa/truthfulqa_{name}.yaml") for name in ("mc1", "mc2"))
    rows = json.loads((DATA / "truthfulqa/mc_task.json").read_text())
    for row, item in zip(rows, choice("truthfulqa").items, strict=True):
        doc = {"question": row["question"]}
        for key in ("mc1_targets", "mc2_targets"):
            doc[key] = {"choices": list(row[key]), "labels": list(row[key].values())}
        assert item.prompt == render(first["doc_to_text"], doc) == render(second["doc_to_text"], doc)
        assert item.in_mc1 is not None
        mc1 = {option[1:] for option, is_in in zip(item.options, item.in_mc1) if is_in}
        assert mc1 == set(doc["mc1_targets"]["choices"])
        assert [option[1:] for option in item.options] == doc["mc2_targets"]["choices"]
        assert list(item.is_true) == [bool(label) for label in doc["mc2_targets"]["labels"]]
        best = [option for option, *marks in zip(item.options, item.is_true, item.in_mc1) if all(marks)]
        assert best == [" " + doc["mc1_targets"]["choices"][first["doc_to_target"]]]


@pytest.mark.parametrize("subject", ["abstract_algebra", "business_ethics", "high_school_us_history"])
def test_mmlu_prompts_are_the_harness_s(subject: str) -> None:
    config = harness_config(f"mmlu/default/mmlu_{subject}.yaml")

    def docs(split: str) -> list[dict[str, Any]]:
        with (DATA / f"mmlu/{split}/{subject}_{split}.csv").open(newline="") as file:
            return [{"question": r[0], "choices": r[1:5], "answer": "ABCD".index(r[5])} for r in csv.reader(file)]

    letters = config["doc_to_choice"]
    examples = "".join(f"{render(config['doc_to_text'], d)} {letters[d['answer']]}\n\n" for d in docs("dev"))
    zero, five = ([item for item in choice("mmlu", shots=shots).items if item.subject == subject] for shots in (0, 5))
    for doc, plain, shot in zip(docs("test"), zero, five, strict=True):
        text = render(config["doc_to_text"], doc)
        assert plain.prompt == config["description"] + text
        assert shot.prompt == config["description"] + examples + text
        assert plain.options == tuple(f" {letter}" for letter in letters)
        assert plain.is_true.index(True) == doc["answer"]


def test_gold_solutions_are_graded_right_and_their_equations_are_read() -> None:
    """Of 7,473 solutions fewer than 60 hold a false equation: slips of the data (10 x .5 = 10), and a few odd spellings."""
    task = generation("gsm8k")
    assert all(task.grade(item.completion or "", item).strict.is_correct for item in (*task.train, *task.test))
    assert sum(first_error(item.completion or "", item.gold) is not None for item in task.train) < 60
    assert sum(len(list(equations(item.completion or ""))) for item in task.train) > 19_000
