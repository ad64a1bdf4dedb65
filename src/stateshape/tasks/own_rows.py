"""Checks the rows of a user's own JSONL file; errors say what was found, what was expected and how to fix it (docs/tasks.md).

Knows keys and types of values; knows nothing of the tasks built from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any, Literal

from stateshape.core.files import BadInput, parse

PAGE = "see docs/tasks.md"
TEXTS = ("prompt", "solution", "rejected")
LABELS = ("id", "tag", "subject")  # whole numbers are accepted as texts


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSettings:
    """The first row, if it is {"settings": {...}}. None: the default."""

    delimiter: str | None = None
    stops: list[str] | None = None
    max_new_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRow:
    prompt: str
    answer: str
    solution: str | None = None
    rejected: str | None = None
    tag: str | None = None
    id: str | None = None
    split: Literal["train", "test"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceRow:
    prompt: str
    options: list[str]
    answer: list[int]
    id: str | None = None
    subject: str = ""
    split: Literal["test"] = field(default="test")  # multiple choice is never trained on


GENERATION_KEYS = tuple(one.name for one in fields(GenerationRow))
CHOICE_KEYS = tuple(one.name for one in fields(ChoiceRow))


def settings_row(row: object, *, where: str) -> FileSettings:
    """Of {"settings": {...}}. Raises BadInput."""
    assert isinstance(row, dict)
    if len(row) > 1:
        raise BadInput(f"{where}: settings: got other keys in the same row; expected a row with settings alone; {PAGE}")
    settings = parse(row["settings"], FileSettings, where=f"{where}: settings")
    if settings.max_new_tokens is not None and settings.max_new_tokens < 1:
        raise BadInput(f"{where}: settings: max_new_tokens: got {settings.max_new_tokens}; expected 1 or more")
    if "" in (settings.stops or ()):
        raise BadInput(
            f"{where}: settings: stops: got an empty text, which every completion contains; expected texts that end an answer"
        )
    return settings


def generation_row(row: dict[str, Any], *, where: str) -> GenerationRow:
    fields = _checked(row, where=where)
    answer = fields["answer"]
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise BadInput(
            f"{where}: answer: got {shown(answer)}; expected a text or a number, or 'options' next to it; {PAGE}"
        )
    return parse({**fields, "answer": number_text(answer)}, GenerationRow, where=where)


def choice_row(row: dict[str, Any], *, where: str) -> ChoiceRow:
    fields = _checked(row, where=where)
    options = fields["options"]
    if not isinstance(options, list) or len(options) < 2:
        raise BadInput(
            f"{where}: options: got {shown(options)}; expected a list of at least two texts, and 'answer' the index of the "
            "right one"
        )
    for at, option in enumerate(options):
        if not isinstance(option, str):
            raise BadInput(
                f"{where}: options: got {shown(option)} among them; expected texts; put it in quotation marks"
            )
        if not option.strip():
            raise BadInput(f"{where}: options: got {option!r} among them; expected texts, not empty")
        if option in options[:at]:
            raise BadInput(f"{where}: options: got {shown(option)} twice; expected each once; drop one")
    if fields.get("split", "test") == "train":
        raise BadInput(f"{where}: split: got 'train'; expected 'test': multiple choice is never trained on; drop it")
    marks = fields["answer"] if isinstance(fields["answer"], list) else [fields["answer"]]
    if not marks:
        raise BadInput(f"{where}: answer: got []; expected at least one index of a right option")
    return parse({**fields, "answer": [_index(m, options, where=where) for m in marks]}, ChoiceRow, where=where)


def number_text(value: str | int | float) -> str:
    """A JSON number in one spelling: 7.0 is 7, 1e6 is 1000000. A text is unchanged."""
    if not isinstance(value, float):
        return str(value)
    text = format(Decimal(repr(value)), "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if value == 0 else text


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# One row's keys


def _checked(row: dict[str, Any], *, where: str) -> dict[str, Any]:
    """The row without its nulls, its labels as texts. Values that the parser would silently turn into text are refused."""
    for key, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            fix = "fill it in, or drop the row" if key in ("prompt", "answer") else "fill it in, or leave it out"
            raise BadInput(f"{where}: {key}: got {value}, a gap in the table it comes from; expected a value; {fix}")
    for key in ("prompt", "answer"):
        _check_there(row, key, where=where)
    fields = {key: value for key, value in row.items() if value is not None}
    for key in (*TEXTS, *LABELS):
        value = fields.get(key, "")
        if key in LABELS and isinstance(value, int | float) and not isinstance(value, bool):
            fields[key] = number_text(value)
        elif not isinstance(value, str):
            raise BadInput(f"{where}: {key}: got {shown(value)}; expected a text{_mend(value)}")
    return fields


def _mend(value: object) -> str:
    return f"; {PAGE}" if isinstance(value, list | dict) else "; put it in quotation marks"


def _check_there(row: dict[str, Any], key: str, *, where: str) -> None:
    value = row.get(key)
    if key == "prompt" and isinstance(value, list):
        raise BadInput(
            f"{where}: prompt: got a list (a chat); expected a text, as in the first row; use one file per shape"
        )
    if value is None:
        keys, kind = ", ".join(repr(str(name)) for name in list(row)[:6]), _kind_of(row)
        context = f" in a row with {keys}{kind}"
        raise BadInput(
            f"{where}: {key}: got None{context[:160]}; expected 'prompt' and 'answer' in every row; add it, or {PAGE} for the "
            "lines that convert other formats"
        )
    if isinstance(value, str) and not value.strip():
        raise BadInput(f"{where}: {key}: got {value[:20]!r}; expected it in every row, not empty; add it")


def _kind_of(row: dict[str, Any]) -> str:
    """The format that the keys belong to, in brackets."""
    kinds = (
        (("messages", "conversations", "conversation"), "a chat"),
        (("instruction",), "Alpaca's keys"),
        (("answerKey", "choices"), "ARC's or MMLU's keys"),
        (("question",), "GSM8K's keys"),
        (("chosen",), "preference pairs"),
        (("completion", "response", "output"), "prompts and completions"),
        (("text",), "running text"),
    )
    return next((f" ({kind})" for keys, kind in kinds if any(key in row for key in keys)), "")


def _index(mark: object, options: list[str], *, where: str) -> int:
    last = len(options) - 1
    if isinstance(mark, int | float) and not isinstance(mark, bool) and mark in range(len(options)):
        return int(mark)  # 1.0 is 1, as above
    hint = ""
    if isinstance(mark, str) and mark in options:
        hint = f"; write {options.index(mark)} for {shown(mark)}"
    elif isinstance(mark, str) and len(mark) == 1 and 0 <= ord(mark.upper()) - ord("A") <= last:
        hint = f"; write {ord(mark.upper()) - ord('A')} if {mark!r} is that letter's option"
    raise BadInput(
        f"{where}: answer: got {shown(mark)}; expected an index from 0 to {last}, counted from 0, or a list of them{hint}"
    )
