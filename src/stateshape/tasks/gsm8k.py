"""GSM8K (arXiv:2110.14168): prompts, worked solutions, and lm-evaluation-harness's two graders.

Strict reads the first `#### number`; flexible reads the last number. Numbers are compared as text after removing ",",
"$" and one trailing ".", as the harness does: "18.00" is not "18", and "#### $18" has no strict answer.

Differs from the harness (0.4.13) in two points. Text is cut at the second "####" before grading, so that a model that
continues with an invented problem is graded on its own answer. k shots are the first k items of train, the
same for every question, where the harness draws seeded random ones; test items are never shots.

Knows nothing of models or tokenizers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from stateshape.core.files import BadInput, iter_jsonl, sha256_file, sha256_text
from stateshape.tasks.items import GenerationItem, Grade
from stateshape.tasks.task import GenerationTask, Grades

STOPS = ("Question:", "</s>", "<|im_end|>")  # the harness's gsm8k.yaml
ANSWER_MARK = "####"
STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
CALCULATOR = re.compile(r"<<[^<>]*>>")


class RawProblem(NamedTuple):
    """A problem as the data has it: `answer` is the worked solution with calculator marks and its `#### N` line."""

    question: str
    answer: str


def gsm8k_task(
    train: Sequence[RawProblem], test: Sequence[RawProblem], *, shots: int, limit: int | None, data_sha256: str
) -> GenerationTask:
    """`shots`: the first problems of train, before every test prompt. `limit`: the first problems of test."""
    if shots > len(train):
        raise BadInput(f"shots: got {shots}; expected at most {len(train)}, the number of training problems")
    examples = few_shot(train[:shots])
    return GenerationTask(
        name="gsm8k",
        label="GSM8K",
        train=tuple(problem_item(raw, item_id=f"gsm8k/train/{i}") for i, raw in enumerate(train)),
        test=tuple(
            problem_item(raw, item_id=f"gsm8k/test/{i}", examples=examples) for i, raw in enumerate(test[:limit])
        ),
        grade=grade,
        data_sha256=data_sha256,
        stops=STOPS,
    )


def read_gsm8k(data_dir: Path, *, shots: int = 0, limit: int | None = None) -> GenerationTask:
    """Reads gsm8k/train.jsonl and gsm8k/test.jsonl, the dataset's own files."""
    paths = [data_dir / "gsm8k" / f"{split}.jsonl" for split in ("train", "test")]
    train, test = (_read(path) for path in paths)
    digest = sha256_text(" ".join(map(sha256_file, paths)))
    return gsm8k_task(train, test, shots=shots, limit=limit, data_sha256=digest)


def parse_problem(row: object, *, where: str) -> RawProblem:
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in RawProblem._fields):
        raise BadInput(f"{where}: got {str(row)[:80]!r}; expected texts 'question' and 'answer'; fetch the file again")
    if STRICT.search(row["answer"]) is None:
        raise BadInput(
            f"{where}: answer: got {row['answer'][-40:]!r}; expected a last line '#### number'; fetch the file again"
        )
    return RawProblem(row["question"], row["answer"])


def _read(path: Path) -> list[RawProblem]:
    problems = [parse_problem(row, where=f"{path}:{number}") for number, row in iter_jsonl(path)]
    if not problems:
        raise BadInput(f"{path}: got no rows; expected at least one problem; fetch the file again")
    return problems


def question_prompt(question: str) -> str:
    return f"Question: {question}\nAnswer:"


def training_text(answer: str) -> str:
    """The solution without the <<48/2=24>> calculator marks.

    The marks are calls to a calculator that the data's authors ran while decoding; without it they teach a model to write
    each calculation twice. Few-shot examples keep them, as the harness does, so that scores are comparable.
    """
    return CALCULATOR.sub("", answer)


def few_shot(problems: Sequence[RawProblem]) -> str:
    """Answered problems as the harness writes them before a question."""
    return "".join(f"{question_prompt(raw.question)} {raw.answer}\n\n" for raw in problems)


def problem_item(raw: RawProblem, *, item_id: str, examples: str = "") -> GenerationItem:
    match = STRICT.search(raw.answer)
    assert match is not None
    return GenerationItem(
        item_id=item_id,
        prompt=examples + question_prompt(raw.question),
        gold=clean_number(match[1]),
        completion=f" {training_text(raw.answer)}",
    )


def clean_number(text: str) -> str:
    """Removes ",", "$" and one trailing "."; nothing else (the harness's regexes_to_ignore)."""
    return re.sub(r"\.$", "", text.replace(",", "").replace("$", ""))


def cut(completion: str) -> str:
    """The completion up to the first stop text, and up to the second "####"."""
    ends = [at for stop in STOPS if (at := completion.find(stop)) >= 0]
    first = completion.find(ANSWER_MARK)
    second = completion.find(ANSWER_MARK, first + len(ANSWER_MARK)) if first >= 0 else -1
    return completion[: min([len(completion), *ends, *([second] if second >= 0 else [])])]


def strict_number(text: str) -> str | None:
    match = STRICT.search(text)
    return clean_number(match[1]) if match else None


def last_number(text: str) -> str | None:
    matches = FLEXIBLE.findall(text)
    return clean_number((matches[-1][0] or matches[-1][1]).strip()) if matches else None


def grade(completion: str, item: GenerationItem) -> Grades:
    text = cut(completion)
    strict, flexible = strict_number(text), last_number(text)
    return Grades(
        strict=Grade(prediction=strict, is_correct=strict == item.gold),
        flexible=Grade(prediction=flexible, is_correct=flexible == item.gold),
        text=text,
    )
