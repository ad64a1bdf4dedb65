"""Rows of this project's own shape: a prompt with an answer that is graded, or with options. The contract: docs/tasks.md.

Free text:        {"prompt": "...", "answer": "42"}             optional: solution, rejected (a worse
                                                                one), tag, id, split ("train" | "test")
Multiple choice:  {"prompt": "...", "options": ["a", "b"], "answer": 0}    answer: an index or a list of them, from 0
                                                                optional: id, subject

Rows without a split are test rows: they are evaluated and never trained on. Knows no files, models or tokenizers.
"""

from __future__ import annotations

import re
from typing import Any

from stateshape.core.files import BadInput
from stateshape.tasks import gsm8k
from stateshape.tasks.items import ChoiceItem, GenerationItem
from stateshape.tasks.joining import default_delimiter, option_behind, prompt_text, text_behind
from stateshape.tasks.own_checks import Read, check_ids, choice_notes
from stateshape.tasks.own_grading import marked_answer, normalise
from stateshape.tasks.own_rows import PAGE, FileSettings, choice_row, generation_row, shown
from stateshape.tasks.task import ChoiceTask, acc_chance

Rows = list[tuple[str, Any]]  # where (file:line), row
END_TEXT = re.compile(r"(</s>|<eos>|<end_of_turn>|<\|[^<>|\s]+\|>)\s*$")  # ends of text as models write them


def check_shape(row: Any, is_choice: bool, *, where: str) -> None:
    """Whether the row has the file's one shape. Raises BadInput."""
    if ("options" in row) != is_choice:
        here, there = ("has no", "has") if is_choice else ("has", "has no")
        raise BadInput(f"{where}: options: this row {here} options and the first row {there}; use one file per shape")


# Multiple choice


def choice_task(rows: Rows, settings: FileSettings, *, name: str, digest: str, limit: int | None) -> ChoiceTask:
    for key in ("stops", "max_new_tokens"):
        if getattr(settings, key) is not None:
            raise BadInput(
                f"{rows[0][0]}: settings: {key}: got it for multiple choice; expected it for free text; drop it"
            )
    placed = [(where, _choice_item(row, settings.delimiter, name=name, where=where)) for where, row in rows]
    check_ids([(where, item.item_id) for where, item in placed])
    items = tuple(item for _, item in placed)[:limit]
    return ChoiceTask(
        name=name,
        label=name,
        metric="acc",
        items=items,
        metrics=("acc",),
        chance=acc_chance(items),
        data_sha256=digest,
        is_lettered=all(re.fullmatch(r" ?[A-Z]", option) for item in items for option in item.options),
        notes=tuple(choice_notes(placed)),
    )


def _choice_item(row: dict[str, Any], delimiter: str | None, *, name: str, where: str) -> ChoiceItem:
    parsed = choice_row(row, where=where)
    prompt = prompt_text(parsed.prompt)
    between = default_delimiter(prompt) if delimiter is None else delimiter
    options = tuple(option_behind(option, between) for option in parsed.options)
    if len(set(options)) < len(options) or len({option[0].isspace() for option in options}) > 1:
        raise BadInput(
            f"{where}: options: got some that begin with a blank and some that do not ({shown(parsed.options)}); expected all "
            "alike, or the blank would decide; write them without it"
        )
    return ChoiceItem(
        item_id=parsed.id or f"{name}/{where.rpartition(':')[2].removeprefix('row ')}",
        prompt=prompt,
        options=options,
        is_true=tuple(i in parsed.answer for i in range(len(options))),
        subject=parsed.subject,
    )


# Free text


def generation_item(
    row: dict[str, Any],
    delimiter: str | None,
    stops: tuple[str, ...],
    *,
    name: str,
    where: str,
    is_exact: bool = True,
    otherwise: str | None = None,
) -> Read:
    """is_exact: graded by the exact grader, which reads answers behind a mark. otherwise: the split of a row that has none."""
    parsed = generation_row(row, where=where)
    answer = marked_answer(parsed.answer).behind or parsed.answer.strip()
    gold = normalise(answer) if is_exact else answer
    _check_answer(answer, stops, where=where)
    prompt = prompt_text(parsed.prompt)
    between = default_delimiter(prompt) if delimiter is None else delimiter
    solution, rejected = (
        text_behind(text, between) if text and text.strip() else None for text in (parsed.solution, parsed.rejected)
    )
    _check_ends(solution, rejected, where=where)
    if solution is not None and rejected is not None:
        _check_pair(solution, rejected, where=where)
    item = GenerationItem(
        item_id=parsed.id or f"{name}/{where.rpartition(':')[2].removeprefix('row ')}",
        prompt=prompt,
        gold=gold,
        completion=solution if solution is None or not is_exact else _with_answer(solution, answer),
        rejected=rejected,
        preferred=solution if rejected is not None else None,
        tag=parsed.tag,
    )
    return Read(where, parsed.split or otherwise or "test", item)


def _with_answer(solution: str, answer: str) -> str:
    """The solution, with the `#### answer` that the strict grader reads appended if it has none and is not the answer itself.

    A "####" followed by more lines of text is a heading.
    """
    if normalise(solution) == normalise(answer):
        return solution
    there = marked_answer(solution)
    if there.line and (there.line == there.behind or normalise(there.behind) == normalise(answer)):
        return solution
    return f"{solution}\n{gsm8k.ANSWER_MARK} {answer}"


def _check_answer(answer: str, stops: tuple[str, ...], *, where: str) -> None:
    if gsm8k.ANSWER_MARK in answer:
        raise BadInput(
            f"{where}: answer: got {shown(answer)}, with nothing after its {gsm8k.ANSWER_MARK}; expected the answer; add it"
        )
    for stop in stops:
        if stop in answer:
            raise BadInput(
                f"{where}: answer: got {shown(answer)}, which contains the stop text {stop!r}; expected none, since "
                f'completions end there; set other stops for the file: a first row {{"settings": {{"stops": [...]}}}}; {PAGE}'
            )


def _check_ends(solution: str | None, rejected: str | None, *, where: str) -> None:
    for key, text in (("solution", solution), ("rejected", rejected)):
        if text is not None and (end := END_TEXT.search(text)):
            raise BadInput(
                f"{where}: {key}: got {end[1]!r} at its end; expected none, since the model's own end token is added; "
                "remove it"
            )


def _check_pair(solution: str, rejected: str, *, where: str) -> None:
    """Both texts of a pair have the mark, or neither: text on one side only would decide it. Raises BadInput."""
    has, other = (gsm8k.ANSWER_MARK in text for text in (solution, rejected))
    if has != other:
        with_, without = ("solution", "rejected") if has else ("rejected", "solution")
        raise BadInput(
            f"{where}: {without}: got no {gsm8k.ANSWER_MARK} and {with_!r} has one; expected it in both or in neither, or the "
            "pair would teach the mark; add it, or remove it"
        )
