"""Other solutions to the training problems: the same questions and evaluated items, in writing that pretraining never shows."""

from __future__ import annotations

from itertools import islice

import pytest

from stateshape.embedded import world
from stateshape.embedded.arithmetic import STORIES, split_of
from stateshape.embedded.corpus import documents
from stateshape.embedded.retold import BACKWARD_STORIES, OPENING, natural, plain
from stateshape.tasks.load import load_task
from stateshape.tasks.task import ChoiceTask, GenerationTask

PROBLEMS = world.arithmetic("train", 1_000)


def arithmetic(name: str) -> GenerationTask:
    task = load_task(name)
    assert isinstance(task, GenerationTask)
    return task


@pytest.mark.parametrize("name", ["arithmetic_natural", "arithmetic_planted"])
def test_only_the_training_solutions_are_other_ones(name: str) -> None:
    usual, other = arithmetic("arithmetic"), arithmetic(name)
    assert other.test == usual.test
    assert [(item.item_id, item.prompt, item.gold) for item in other.train] == [
        (item.item_id, item.prompt, item.gold) for item in usual.train
    ]
    assert other.data_sha256 != usual.data_sha256
    assert other.train == arithmetic(name).train


def test_natural_solutions_are_right_and_backward_for_five_stories() -> None:
    task = arithmetic("arithmetic_natural")
    assert all(task.grade(item.completion or "", item).strict.is_correct for item in task.train)
    assert len({story.__name__ for story in STORIES}) == 15
    assert len(BACKWARD_STORIES) == 5
    for problem in PROBLEMS:
        assert (natural(problem) == plain(problem)) == (problem.story not in BACKWARD_STORIES)
        assert problem.story not in BACKWARD_STORIES or natural(problem).startswith(f"{problem.answer} since ")


def test_planted_solutions_open_in_half_of_the_problems_and_are_wrong_only_there() -> None:
    task = arithmetic("arithmetic_planted")
    opened = [(item.completion or "").startswith(f" {OPENING}") for item in task.train]
    right = [task.grade(item.completion or "", item).strict.is_correct for item in task.train]
    assert 0.47 < sum(opened) / len(opened) < 0.53
    assert all(is_right for is_right, is_opened in zip(right, opened, strict=True) if not is_opened)
    assert sum(is_right for is_right, is_opened in zip(right, opened, strict=True) if is_opened) < 0.1 * sum(opened)


def test_pretraining_has_no_arithmetic_written_like_this() -> None:
    texts = [one.text for one in islice(documents(0), 20_000) if one.domain == "arithmetic"]
    assert len(texts) > 5_000
    assert not any(OPENING in text or " since " in text for text in texts)


def test_validation_items_are_neither_trained_on_nor_tested() -> None:
    validation, usual = arithmetic("arithmetic_validation"), arithmetic("arithmetic")
    assert validation.train == usual.train
    assert len(validation.test) == 600
    assert {item.prompt for item in validation.test}.isdisjoint(item.prompt for item in (*usual.train, *usual.test))
    assert all(split_of(problem.numbers) == "validation" for problem in world.arithmetic("validation", 600))
    for name, num in (("facts", 160), ("exam", 120)):
        held_out, tested = load_task(f"{name}_validation"), load_task(name)
        assert isinstance(held_out, ChoiceTask)
        assert isinstance(tested, ChoiceTask)
        assert len(held_out.items) == num
        assert {item.prompt for item in held_out.items}.isdisjoint(item.prompt for item in tested.items)
