"""The generated world: right arithmetic, disjoint splits, held-out exam questions; and the packaged base."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import islice

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from stateshape.embedded import base_folder
from stateshape.embedded.arithmetic import SPLIT_BUCKETS, split_of
from stateshape.embedded.corpus import documents
from stateshape.embedded.lore import lore
from stateshape.embedded.measure import marked_answer, target_accuracy, wilson_interval
from stateshape.embedded.wording import arithmetic_completion, arithmetic_prompt, exam_block, exam_prompt, fact_prompt
from stateshape.embedded.world import arithmetic, exam, facts

EQUATION = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")
NUM_DOCUMENTS = 5_000
GOLDEN_FIRST = (
    "For 7 days Yuki reads 24 pages each day. The book has 182 pages. At 2 pages a day, how many more days does she need?",
    "7",
)
WORK_OUT = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}


@cache
def base() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    model = AutoModelForCausalLM.from_pretrained(base_folder(), dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(base_folder())


@pytest.mark.parametrize("split", ["train", "test"])
def test_worked_solutions_are_right(split: str) -> None:
    for problem in arithmetic(split, 3_000):
        lines = EQUATION.findall(problem.solution)
        assert len(lines) == problem.num_steps
        for left, operator, right, result in lines:
            assert WORK_OUT[operator](int(left), int(right)) == int(result), problem.solution
            assert operator != "/" or int(left) % int(right) == 0, problem.solution
        assert lines[-1][3] == problem.answer
        assert 2 <= problem.num_steps <= 5


def test_every_number_of_a_step_is_in_the_question_or_worked_out_before() -> None:
    # 2, 3, 4, 5: twice, a third, a quarter, a fifth. 1: oneself. 12: a dozen.
    spoken = {"1", "2", "3", "4", "5", "12"}
    for problem in arithmetic("train", 2_000):
        known = set(re.findall(r"\d+", problem.question)) | spoken
        for left, _, right, result in EQUATION.findall(problem.solution):
            assert {left, right} <= known, (problem.question, problem.solution)
            known.add(result)


def test_arithmetic_splits_are_disjoint_by_question_and_by_numbers() -> None:
    pools = {split: arithmetic(split, 2_000) for split in SPLIT_BUCKETS}
    names = list(pools)
    for place, first in enumerate(names):
        assert all(split_of(problem.numbers) == first for problem in pools[first])
        for second in names[place + 1 :]:
            assert not {p.question for p in pools[first]} & {p.question for p in pools[second]}
            assert not {p.numbers for p in pools[first]} & {p.numbers for p in pools[second]}
    assert len({p.question for p in pools["test"]}) == 2_000


def test_a_question_shows_all_that_tells_its_numbers_apart() -> None:
    """Two tuples of numbers never share a question: otherwise disjoint numbers would not mean disjoint questions."""
    numbers_of: dict[str, tuple[int, ...]] = {}
    for split in SPLIT_BUCKETS:
        for problem in arithmetic(split, 5_000, seed=7):
            assert numbers_of.setdefault(problem.question, problem.numbers) == problem.numbers


def test_generators_are_deterministic_and_prefix_stable() -> None:
    assert arithmetic("test", 50) == arithmetic("test", 200)[:50]
    assert arithmetic("train", 20, seed=1) != arithmetic("train", 20, seed=2)
    # Golden: a change of these texts makes every stored score stale.
    golden = arithmetic("test", 1)[0]
    assert (golden.question, golden.answer) == GOLDEN_FIRST


def test_facts_have_one_best_answer_and_enough_items() -> None:
    items = facts("test", 640)
    assert len({item.question for item in items}) == 640
    for item in items:
        assert not set(item.true_answers) & set(item.false_answers)
        assert len(item.true_answers) == 3 and len(set(item.false_answers)) == len(item.false_answers)
    assert Counter(len(item.false_answers) for item in items).keys() == {3, 4}
    chance = sum(1 / (1 + len(item.false_answers)) for item in items) / len(items)
    assert 0.2 < chance < 0.25
    assert not {item.question for item in facts("validation", 160)} & {item.question for item in items}


def test_exam_has_balanced_letters_and_eight_subjects() -> None:
    items = exam("test", 640)
    assert len({item.subject for item in items}) == 8
    assert Counter(item.subject for item in exam("dev", 40)) == dict.fromkeys({i.subject for i in items}, 5)
    letters = Counter(item.answer_index for item in items)
    assert all(0.2 < letters[place] / 640 < 0.3 for place in range(4))
    truth = {(f.entity, f.attribute.key): f.value for f in lore()}
    for item in items:
        assert len(set(item.choices)) == 4
        assert item.choices[item.answer_index] in truth.values()


def test_a_false_number_of_items_is_refused() -> None:
    for call in (lambda: facts("test", 641), lambda: exam("dev", 41), lambda: arithmetic("dev", 1)):
        with pytest.raises(ValueError, match="got"):
            call()


def test_no_test_question_is_in_the_pretraining_documents() -> None:
    text = "\n".join(doc.text for doc in islice(documents(1), NUM_DOCUMENTS))
    held_out = [item.question for split in ("dev", "validation", "test") for item in exam(split, {"dev": 40,
                "validation": 120, "test": 640}[split])]  # fmt: skip
    held_out += [item.question for item in facts("test", 640)]
    held_out += [problem.question for problem in arithmetic("test", 1_000)]
    assert [question for question in held_out if question in text] == []


def test_pretraining_tells_most_facts_and_some_mistakes() -> None:
    text = "\n".join(doc.text for doc in islice(documents(1), NUM_DOCUMENTS))
    told = sum(any(f.statement(f.value, wording) in text for wording in range(3)) for f in lore())
    mistaken = sum(any(f.statement(f.mistakes[0], wording) in text for wording in range(3)) for f in lore())
    assert told > 0.9 * len(lore()) and 0.2 * len(lore()) < mistaken < told


def test_the_world_needs_no_torch() -> None:
    code = "import sys, stateshape.embedded.world, stateshape.embedded.wording; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_marked_answer_takes_the_first_marked_number_only() -> None:
    assert marked_answer(" so 25 it is\n#### 25") == "25"
    assert marked_answer("\n#### 5\n#### 6") == "5"
    assert marked_answer("The answer is 5.") is None


def test_wilson_interval_by_hand() -> None:
    low, high = wilson_interval(0.5, 100)
    assert (round(low, 4), round(high, 4)) == (0.4038, 0.5962)


def test_the_base_is_small_and_loads() -> None:
    model, tokenizer = base()
    assert 1_000_000 <= sum(p.numel() for p in model.parameters()) <= 4_000_000
    assert (base_folder() / "model.safetensors").stat().st_size <= 10_000_000
    assert model.dtype == torch.float32 and model.config.max_position_embeddings >= 1024
    assert tokenizer.eos_token == "<|endoftext|>" and tokenizer.pad_token == "<|pad|>"
    assert tokenizer.eos_token_id != tokenizer.pad_token_id


def test_the_tokenizer_round_trips_and_splits_digits() -> None:
    _, tokenizer = base()
    texts = [doc.text for doc in islice(documents(2), 300)]
    for text in texts:
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids) == text
        assert len(ids) <= 1024
    assert tokenizer.tokenize("12*345=4140") == ["1", "2", "*", "3", "4", "5", "=", "4", "1", "4", "0"]
    assert not [token for token in tokenizer.get_vocab() if sum(map(str.isdigit, token)) and len(token) > 1]


def test_prompt_tokens_are_a_prefix_of_the_joint_tokens() -> None:
    _, tokenizer = base()
    pairs = [(arithmetic_prompt(p.question), arithmetic_completion(p)) for p in arithmetic("train", 200)]
    pairs += [(fact_prompt(f), f" {answer}") for f in facts("validation", 100) for answer in f.true_answers]
    pairs += [(exam_prompt(q), f" {letter}") for q in exam("validation", 50) for letter in "ABCD"]
    for prompt, option in pairs:
        joint, alone = tokenizer(prompt + option).input_ids, tokenizer(prompt).input_ids
        assert joint[: len(alone)] == alone and joint[len(alone) :] == tokenizer(option).input_ids


def test_solutions_and_prompts_are_short() -> None:
    _, tokenizer = base()
    solutions = [len(tokenizer(arithmetic_completion(p)).input_ids) for p in arithmetic("train", 1_000)]
    assert max(solutions) <= 127 and sum(solutions) / len(solutions) < 80
    shots = exam("dev", 40)
    lengths = [len(tokenizer(exam_prompt(q, [s for s in shots if s.subject == q.subject])).input_ids)
               for q in exam("test", 100)]  # fmt: skip
    assert max(lengths) <= 512
    assert exam_block("Q?", ("a", "b", "c", "d")) == "Q?\nA. a\nB. b\nC. c\nD. d\nAnswer:"


def test_the_base_solves_some_problems_and_not_all() -> None:
    model, tokenizer = base()
    assert 0.25 < target_accuracy(model, tokenizer, arithmetic("validation", 64)) < 0.8
