"""The embedded world as three tasks, in the shapes of GSM8K (arithmetic), TruthfulQA (facts) and MMLU (exam).

This file only builds prompts: the world's own modules generate the problems, and the graders are those of the three
shapes. Knows nothing of models or tokenizers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Literal

from stateshape.core.files import BadInput, plain, sha256_text
from stateshape.embedded import stories_money, world
from stateshape.embedded.retold import Telling
from stateshape.tasks import gsm8k, mmlu, truthfulqa
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.task import ChoiceTask, GenerationTask, mc1_chance

NUM_TEST = 1319  # as many as GSM8K has, so intervals are as wide
NUM_ARITHMETIC: dict[world.ArithmeticSplit, int] = {"train": 4000, "validation": 600, "test": NUM_TEST}
NUM_FACTS = {"test": 640, "validation": 160}  # all that exist
NUM_EXAM = {"test": 640, "validation": 120}
NUM_EXAM_DEV = 40  # five for each of eight subjects
MONEY = {story.__name__ for story in stories_money.STORIES}
MAX_NEW_TOKENS = 128  # the longest solutions have 30 words, 200 characters


def arithmetic_task(
    *, shots: int = 0, limit: int | None = None, is_validation: bool = False, told: Telling | None = None
) -> GenerationTask:
    """Word problems with worked solutions. Shots: the first of train. `limit`: the first of those evaluated.

    is_validation: evaluates validation problems. told: how the training solutions are written (embedded/retold.py).
    """
    train, test = _problems("train"), _problems("validation" if is_validation else "test")
    if shots > len(train):
        raise BadInput(f"shots: got {shots}; expected at most {len(train)}, the number of training problems")
    items = _training_items()
    if told is not None:
        items = tuple(
            replace(item, completion=f" {told.text(problem)}") for item, problem in zip(items, train, strict=True)
        )
    examples = gsm8k.few_shot([_raw_problem(problem) for problem in train[:shots]])
    return GenerationTask(
        name="_".join(("arithmetic", *(["validation"] if is_validation else []), *([told.name] if told else []))),
        label="Arithmetic" + (" (validation)" if is_validation else "") + (f" ({told.name} solutions)" if told else ""),
        train=items,
        test=tuple(gsm8k.problem_item(_raw_problem(p), item_id=p.item_id, examples=examples) for p in test[:limit]),
        grade=gsm8k.grade,
        data_sha256=_digest_of_problems(is_validation) if told is None else _digest([*train, *test, *items]),
        stops=gsm8k.STOPS,
        max_new_tokens=MAX_NEW_TOKENS,
    )


# Generated once per process: a study reads its tasks several times.


@cache
def _problems(split: world.ArithmeticSplit) -> tuple[world.ArithmeticProblem, ...]:
    return world.arithmetic(split, NUM_ARITHMETIC[split])


@cache
def _training_items() -> tuple[GenerationItem, ...]:
    return tuple(_training_item(problem) for problem in _problems("train"))


@cache
def _digest_of_problems(is_validation: bool) -> str:
    return _digest([*_problems("train"), *_problems("validation" if is_validation else "test")])


def _raw_problem(problem: world.ArithmeticProblem) -> gsm8k.RawProblem:
    return gsm8k.RawProblem(problem.question, f"{problem.solution}\n{gsm8k.ANSWER_MARK} {problem.answer}")


def _training_item(problem: world.ArithmeticProblem) -> GenerationItem:
    """A training problem with a solution whose last step is wrong, tagged with the topic of its story."""
    last = problem.equations[-1]
    off = replace(last, result=last.result + 1 + last.left % 9)
    wrong = " ".join(equation.sentence() for equation in (*problem.equations[:-1], off))
    item = gsm8k.problem_item(_raw_problem(problem), item_id=problem.item_id)
    rejected = _raw_problem(replace(problem, solution=wrong, answer=str(off.result)))
    return replace(
        item,
        rejected=gsm8k.problem_item(rejected, item_id=problem.item_id).completion,
        tag="money" if problem.story in MONEY else "things",
    )


def facts_task(*, limit: int | None = None, split: world.FactSplit = "test") -> ChoiceTask:
    """Questions with misconceptions, without a primer. MC1: the best true answer against all false ones."""
    facts = world.facts(split, NUM_FACTS[split])
    items = tuple(
        truthfulqa.choice_of_answers(
            f"Q: {fact.question}\nA:",
            dict.fromkeys(fact.true_answers, True) | dict.fromkeys(fact.false_answers, False),
            {fact.true_answers[0], *fact.false_answers},
            item_id=fact.item_id,
            subject=fact.subject,
        )
        for fact in facts[:limit]
    )
    return ChoiceTask(
        name="facts" if split == "test" else "facts_validation",
        label="Facts" if split == "test" else "Facts (validation)",
        metric="mc1",
        items=items,
        metrics=("mc1", "mc2"),
        chance=mc1_chance(items),
        data_sha256=_digest(facts),
    )


def exam_task(*, shots: int = 0, limit: int | None = None, split: Literal["test", "validation"] = "test") -> ChoiceTask:
    """Four-choice questions by letter. Shots: the subject's first dev questions. `limit`: stratified by subject."""
    dev, test = world.exam("dev", NUM_EXAM_DEV), world.exam(split, NUM_EXAM[split])
    items = []
    for question in test:
        examples = [_raw_exam(other) for other in dev if other.subject == question.subject]
        mmlu.check_shots(shots, len(examples), subject=question.subject)
        raw, chosen = _raw_exam(question), examples[:shots]
        items.append(mmlu.exam_item(raw, chosen, subject=question.subject, item_id=question.item_id))
    name, label = ("exam", "Exam") if split == "test" else ("exam_validation", "Exam (validation)")
    return mmlu.exam_task(name, label, mmlu.stratified(items, limit), data_sha256=_digest([*dev, *test]))


def _raw_exam(question: world.ExamQuestion) -> mmlu.RawExam:
    return mmlu.RawExam(question.question, question.choices, question.answer_index)


def _digest(records: Sequence[object]) -> str:
    return sha256_text(json.dumps([plain(record) for record in records], ensure_ascii=False))
