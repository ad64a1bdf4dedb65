"""Your own task from one JSONL file: problems answered in free text, or multiple-choice questions.

Free text:        {"prompt": "...", "answer": "42"}             optional: solution, rejected (a worse
                                                                one), tag, id, split ("train" | "test")
Multiple choice:  {"prompt": "...", "options": ["a", "b"], "answer": 0}    answer: an index or a list of them, from 0
                                                                optional: id, subject

The first row decides which of the two the file is. Rows without a split are test rows: they are evaluated and never
trained on. A prompt's trailing blanks are dropped and completions and options start with one blank, so do not write it.
Free text is cut where GSM8K's is. Knows nothing of models or tokenizers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stateshape.core.files import BadInput, iter_jsonl, parse, sha256_file
from stateshape.tasks import gsm8k
from stateshape.tasks.items import ChoiceItem, GenerationItem, Grade
from stateshape.tasks.task import ChoiceTask, GenerationTask, Grades, Task, acc_chance

OPTIONAL_TEXTS = ("solution", "rejected", "tag")  # null says the same as leaving them out
NUMBER = re.compile(r"-?\$?[0-9][0-9,]*(\.[0-9]+)?\.?")


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRow:
    prompt: str
    answer: str
    solution: str | None = None
    rejected: str | None = None
    tag: str | None = None
    id: str | None = None
    split: Literal["train", "test"] = "test"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceRow:
    prompt: str
    options: list[str]
    answer: list[int]
    id: str | None = None
    subject: str = ""
    split: Literal["test"] = field(default="test")  # multiple choice is never trained on


def read_jsonl_task(path: Path, *, limit: int | None = None) -> Task:
    """The file's name without .jsonl names the task. `limit`: the first test rows. BadInput names file and line."""
    rows = list(iter_jsonl(path))
    if not rows:
        raise BadInput(f"{path}: got no rows; expected at least one JSON object a line; see the documentation of tasks")
    is_choice = isinstance(rows[0][1], dict) and "options" in rows[0][1]
    name, digest = path.name.removesuffix(".jsonl"), sha256_file(path)
    where = {number: f"{path}:{number}" for number, _ in rows}
    for number, row in rows:
        _check_shape(row, is_choice, where=where[number])
    if is_choice:
        items = tuple(_choice_item(row, name=name, number=number, where=where[number]) for number, row in rows)
        _check_ids([item.item_id for item in items], path=path)
        return _choice_task(name, items[:limit], digest)
    found = [_generation_item(row, name=name, number=number, where=where[number]) for number, row in rows]
    _check_ids([item.item_id for _, item in found], path=path)
    return GenerationTask(
        name=name,
        label=name,
        train=tuple(item for split, item in found if split == "train"),
        test=tuple(item for split, item in found if split == "test")[:limit],
        grade=grade,
        data_sha256=digest,
        stops=gsm8k.STOPS,
    )


def _choice_task(name: str, items: tuple[ChoiceItem, ...], digest: str) -> ChoiceTask:
    return ChoiceTask(
        name=name,
        label=name,
        metric="acc",
        items=items,
        metrics=("acc",),
        chance=acc_chance(items),
        data_sha256=digest,
        is_lettered=all(re.fullmatch(r" ?[A-Z]", option) for item in items for option in item.options),
    )


def _check_shape(row: Any, is_choice: bool, *, where: str) -> None:
    if not isinstance(row, dict) or not row:
        raise BadInput(f"{where}: got {str(row)[:60]!r}; expected an object with 'prompt' and 'answer'")
    if ("options" in row) != is_choice:
        here, there = ("has no", "has") if is_choice else ("has", "has no")
        raise BadInput(f"{where}: options: this row {here} options and the first row {there}; use one file per shape")
    for key in ("prompt", "answer"):
        value = row.get(key)
        if value is None or (isinstance(value, str) and not value.strip()):
            raise BadInput(f"{where}: {key}: got {value!r}; expected it in every row, not empty; add it")
    for key in (
        "prompt",
        "solution",
        "rejected",
        "tag",
        "subject",
        "id",
    ):  # the parser would turn anything into text, None too
        value = row.get(key, "")
        if not isinstance(value, str) and not (value is None and key in OPTIONAL_TEXTS):
            raise BadInput(f"{where}: {key}: got {value!r}; expected a text; put it in quotation marks")


def _check_ids(ids: list[str], *, path: Path) -> None:
    seen: set[str] = set()
    for item_id in ids:
        if item_id in seen:
            raise BadInput(
                f"{path}: id: got {item_id!r} twice; expected each once, since rows are paired by it; rename one"
            )
        seen.add(item_id)


def _generation_item(row: dict[str, Any], *, name: str, number: int, where: str) -> tuple[str, GenerationItem]:
    answer = row["answer"]
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise BadInput(f"{where}: answer: got {answer!r}; expected a text or a number (options are missing?)")
    parsed = parse({**row, "answer": str(answer)}, GenerationRow, where=where)
    mark = f"\n{gsm8k.ANSWER_MARK} {parsed.answer.strip()}"
    solution = parsed.solution.strip() if parsed.solution else None
    if solution is not None and gsm8k.ANSWER_MARK not in solution:
        solution += mark  # what the strict grader reads must be in the text a model is trained on
    return parsed.split, GenerationItem(
        item_id=parsed.id or f"{name}/{number}",
        prompt=parsed.prompt.rstrip(" "),
        gold=normalise(answer_part(parsed.answer)),
        completion=f" {solution}" if solution else None,
        rejected=f" {parsed.rejected.strip()}" if parsed.rejected and parsed.rejected.strip() else None,
        tag=parsed.tag,
    )


def _choice_item(row: dict[str, Any], *, name: str, number: int, where: str) -> ChoiceItem:
    marks = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
    num_options = len(row["options"]) if isinstance(row["options"], list) else 0
    if num_options < 2:
        raise BadInput(f"{where}: options: got {str(row['options'])[:60]!r}; expected a list of at least two texts")
    for option in row["options"]:
        if not isinstance(option, str) or not option.strip():
            raise BadInput(f"{where}: options: got {option!r} among them; expected texts, not empty")
    for mark in marks or [None]:
        if isinstance(mark, bool) or not isinstance(mark, int) or not 0 <= mark < num_options:
            raise BadInput(
                f"{where}: answer: got {mark!r}; expected an index from 0 to {num_options - 1}, or a list of them"
            )
    parsed = parse({**row, "answer": marks}, ChoiceRow, where=where)
    return ChoiceItem(
        item_id=parsed.id or f"{name}/{number}",
        prompt=parsed.prompt.rstrip(" "),
        options=tuple(option if option[0].isspace() else f" {option}" for option in parsed.options),
        is_true=tuple(i in parsed.answer for i in range(num_options)),
        subject=parsed.subject,
    )


# Grading


def normalise(text: str) -> str:
    """Numbers without ",", "$" and a trailing "."; other texts lower-case, blanks collapsed, outer .,;:!?"' dropped."""
    collapsed = " ".join(text.split())
    if NUMBER.fullmatch(collapsed):
        return gsm8k.clean_number(collapsed)
    return collapsed.casefold().strip(" .,;:!?\"'")


def answer_part(text: str) -> str:
    """The line after the last "####"; the whole text where there is none."""
    before, mark, after = text.rpartition(gsm8k.ANSWER_MARK)
    return (after.strip().splitlines() or [""])[0] if mark else before + after


def grade(completion: str, item: GenerationItem) -> Grades:
    """Exact match of normalised texts (see normalise).

    strict: the line after "####", or the whole completion where it has none. flexible: for a numeric answer the last
    number of the completion; for any other the line after "####", or the completion's last line.
    """
    text = gsm8k.cut(completion)
    part = answer_part(text)
    strict = normalise(part) or None
    if NUMBER.fullmatch(item.gold):
        flexible = gsm8k.last_number(text)
    else:
        flexible = normalise((part.strip().splitlines() or [""])[-1]) or None
    return Grades(
        strict=Grade(prediction=strict, is_correct=strict == item.gold),
        flexible=Grade(prediction=flexible, is_correct=flexible == item.gold),
        text=text,
    )
