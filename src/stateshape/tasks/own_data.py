"""A user's own data as a task: rows of any kind, from any format, told apart by their columns. One reader for every recipe.

Before the rows of a JSONL file: {"settings": {"delimiter": "", "stops": ["\\n\\n"], "max_new_tokens": 64}}, any of which may
be left out. Knows no model or tokenizer: a chat is rendered where a policy reads it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection
from dataclasses import replace
from typing import Any, NamedTuple

from stateshape.core.chat import END_OF_TURN
from stateshape.core.files import BadInput, comparable, sha256_text
from stateshape.core.wording import shown as shown_text
from stateshape.tasks import gsm8k
from stateshape.tasks.graders import Grader, grader_of
from stateshape.tasks.own_checks import Read, check_ids, generation_notes
from stateshape.tasks.own_kinds import check_columns, ignored, item_of, kind_of, renamed
from stateshape.tasks.own_native import Rows, check_shape, choice_task, generation_item
from stateshape.tasks.own_rows import CHOICE_KEYS, GENERATION_KEYS, PAGE, FileSettings, settings_row, shown
from stateshape.tasks.reading import Kind, Reading
from stateshape.tasks.sources import Source, read_source
from stateshape.tasks.task import GenerationTask, Task

MAX_NEW_TOKENS = 256
DECODED = (
    "messages",
    "conversations",
    "tools",
    "chat_template_kwargs",
    "options",
    "chosen",
    "rejected",
    "prompt",
    "completion",
)


class Recognised(NamedTuple):
    """Rows under our column names. is_native: of this project's own shape, as texts. others: columns that are no part of it."""

    kind: Kind
    rows: Rows
    is_native: bool
    others: list[str]


def read_own_task(name: str, *, limit: int | None = None, reading: Reading | None = None) -> Task:
    """The task is named after the file, without its ending. `limit`: the first test rows. BadInput names file and line."""
    reading = reading or Reading()
    source = read_source(name)
    rows, settings = _settings(source, name)
    found = _recognised(rows, reading, is_strict=name.endswith(".jsonl") and not reading.columns)
    digest = source.sha256
    if not reading.is_default:
        digest = sha256_text(f"{digest} {json.dumps(comparable(reading), sort_keys=True)}")
    if found.kind == "choice":
        return choice_task(found.rows, settings, name=source.name, digest=digest, limit=limit)
    return _generation_task(source, found, settings, reading, digest=digest, limit=limit)


def _settings(source: Source, name: str) -> tuple[Rows, FileSettings]:
    """The rows, and what the first of them sets."""
    rows, settings = source.rows, FileSettings()
    if rows and isinstance(rows[0][1], dict) and "settings" in rows[0][1] and name.endswith(".jsonl"):
        (where, first), *rows = rows
        settings = settings_row(first, where=where)
    if not rows:
        raise BadInput(f"{name}: got no rows; expected at least one JSON object per line; {PAGE}")
    for where, row in rows:
        if not isinstance(row, dict) or not row:
            raise BadInput(f"{where}: got {str(row)[:60]!r}; expected an object with 'prompt' and 'answer'; {PAGE}")
        if "settings" in row and name.endswith(".jsonl"):
            raise BadInput(f"{where}: settings: got them in a later row; expected them in the first; move it up")
    return rows, settings


def _recognised(rows: Rows, reading: Reading, *, is_strict: bool) -> Recognised:
    """is_strict: a column of our own shape that looks like a mistyped one is refused."""
    where, first = rows[0]
    check_columns(first, reading.columns, where=where)
    ours = [(place, _decoded(renamed(row, reading.columns))) for place, row in rows]
    kind = reading.kind or kind_of([row for _, row in ours], where=where)
    is_text = not isinstance(ours[0][1].get("prompt"), list) and not reading.as_chat
    is_native = kind == "choice" or (kind == "task" and is_text)
    keys = CHOICE_KEYS if kind == "choice" else GENERATION_KEYS
    others = list(
        dict.fromkeys(key for _, row in ours for key in (set_aside(row, keys) if is_native else ignored(row, kind)))
    )
    if is_native:
        for place, row in ours:
            check_shape(row, kind == "choice", where=place)
            if is_strict:
                check_not_mistyped(row, keys, where=place)
    if kind == "choice" and not is_strict:  # which has no rewards to hand them to
        ours = [(place, {key: value for key, value in row.items() if key in keys}) for place, row in ours]
    return Recognised(kind, ours, is_native, others)


def set_aside(row: dict[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """A row's columns that are not among `keys`."""
    return {key: value for key, value in row.items() if key not in keys}


def check_not_mistyped(row: dict[str, Any], keys: Collection[str], *, where: str) -> None:
    """Raises BadInput for a column whose name is nearly one of `keys`."""
    for key in set_aside(row, keys):
        near = difflib.get_close_matches(str(key), keys, n=1, cutoff=0.75)
        if near:
            raise BadInput(
                f"{where}: unknown field {shown_text(key)}; expected {', '.join(keys)}, or other columns with names "
                f"unlike these; did you mean {near[0]}?"
            )


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    """Lists and mappings that a table holds as JSON in a text: of chats and options only, where the text is such JSON."""
    found = {}
    for key in DECODED:
        value = row.get(key)
        if (
            isinstance(value, str)
            and value.lstrip()[:2] in ("[{", '["', '{"')
            and key not in ("tools", "chat_template_kwargs")
        ):
            try:
                found[key] = json.loads(value)
            except (ValueError, RecursionError):
                continue
    return row | found


def _generation_task(
    source: Source, found: Recognised, settings: FileSettings, reading: Reading, *, digest: str, limit: int | None
) -> GenerationTask:
    default: tuple[str, ...] = gsm8k.STOPS if found.is_native else ()
    stops = default if settings.stops is None else tuple(settings.stops)
    grader = grader_of(reading.grader, stops=stops)
    split = reading.split or source.split or ("test" if found.kind == "task" else "train")
    read_rows = [_read(row, found, settings, reading, source.name, where, split, stops) for where, row in found.rows]
    check_ids([(read.where, read.item.item_id) for read in read_rows])
    _check_golds(read_rows, grader, reading)
    is_chat = any(read.item.chat is not None for read in read_rows)
    return GenerationTask(
        name=source.name,
        label=source.name,
        train=tuple(read.item for read in read_rows if read.split == "train"),
        test=tuple(read.item for read in read_rows if read.split == "test")[:limit],
        grade=grader.grade,
        data_sha256=digest,
        stops=(END_OF_TURN, *stops) if is_chat else stops,
        max_new_tokens=MAX_NEW_TOKENS if settings.max_new_tokens is None else settings.max_new_tokens,
        metric=grader.metric,
        notes=(*_told(found, read_rows), *generation_notes(read_rows, None if grader.is_own else grader.headline)),
    )


def _read(
    row: dict[str, Any],
    found: Recognised,
    settings: FileSettings,
    reading: Reading,
    name: str,
    where: str,
    split: str,
    stops: tuple[str, ...],
) -> Read:
    columns = {key: row[key] for key in found.others if key in row}
    if found.is_native:
        own = {key: value for key, value in row.items() if key not in columns}
        is_exact = reading.grader in (None, "exact")
        read = generation_item(
            own, settings.delimiter, stops, name=name, where=where, is_exact=is_exact, otherwise=split
        )
        return read._replace(item=replace(read.item, columns=columns))
    made = item_of(row, found.kind, reading, name=name, where=where, split=split, delimiter=settings.delimiter)
    return Read(where, made.split, replace(made.item, columns=columns))


def _check_golds(rows: list[Read], grader: Grader, reading: Reading) -> None:
    """Whether every answer is one that the grader can compare with. Raises BadInput."""
    for row in rows:
        fault = None if row.item.gold is None else grader.check(row.item.gold)
        if fault is not None:
            raise BadInput(
                f"{row.where}: answer: got {shown(row.item.gold)}, {fault}; expected one for the grader {reading.grader}; "
                "mend it, or "
                "use another grader"
            )


def _told(found: Recognised, rows: list[Read]) -> list[str]:
    """What the rows were taken for, in one line; nothing for our own shape."""
    if found.is_native and not found.others:
        return []
    num_turns = sum(len(row.item.solved.turns()) for row in rows if row.item.solved is not None)
    turns = f", {num_turns:,} assistant turns to learn" if num_turns else ""
    splits = ", ".join(f"{sum(row.split == split for row in rows):,} {split}" for split in ("train", "test"))
    left = f"; other columns, for rewards: {', '.join(map(str, found.others[:6]))}" if found.others else ""
    return [f"{len(rows):,} rows of kind {found.kind} ({splits}{turns}){left}"]
