"""Rows of the kinds that people have, made into items: chats, prompts with completions, preferences, Alpaca's, running text.

The kind is recognised by the columns of the first row, and every row must be of it. The columns of each kind:
docs/guides/your-data.md. Knows no file and no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from stateshape.core.chat import ASSISTANT, Chat, Message, content_of, transcript
from stateshape.core.files import BadInput
from stateshape.core.wording import shown as shown_text
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.joining import default_delimiter, prompt_text, text_behind
from stateshape.tasks.own_chats import messages_of, said_by, tools_of, variables_of
from stateshape.tasks.own_grading import marked_answer, normalise
from stateshape.tasks.own_rows import number_text, shown
from stateshape.tasks.reading import Kind, Reading

NEEDS: Mapping[Kind, tuple[str, ...]] = {
    "choice": ("prompt", "options", "answer"),
    "messages": ("messages",),
    "preference": ("chosen", "rejected"),
    "completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "task": ("prompt", "answer"),
    "text": ("text",),
    "prompt": ("prompt",),
}
TAKES: Mapping[Kind, tuple[str, ...]] = {
    "preference": ("prompt",),
    "alpaca": ("input", "system"),
    "task": ("solution", "rejected"),
}
EVERYWHERE = ("answer", "split", "id", "tag", "tools", "chat_template_kwargs")
SOME_OF = "messages, prompt and completion, chosen and rejected, instruction and output, text, or prompt and answer"
PAGE = "see docs/guides/your-data.md"
OTHER_NAMES = {"conversations": "messages", "conversation": "messages"}
CONTAINED: Mapping[Kind, tuple[Kind, ...]] = {  # a row of the first kind has the columns of the others, too
    "messages": ("prompt",),  # most often the first message
    "completion": ("task", "prompt"),
    "preference": ("task", "prompt"),
    "task": ("prompt",),
    "choice": ("task", "prompt"),
}
Row = dict[str, Any]


def renamed(row: Row, columns: Mapping[str, str]) -> Row:
    """The row under our names. A column that is mapped is no longer there under its own."""
    theirs = {name for name in columns.values() if name}
    kept = {key: value for key, value in row.items() if key not in theirs and key not in columns}
    for key in [key for key in kept if key in OTHER_NAMES and OTHER_NAMES[key] not in kept]:
        kept[OTHER_NAMES[key]] = kept.pop(key)
    return kept | {ours: row.get(name) for ours, name in columns.items() if name}


def check_columns(row: Row, columns: Mapping[str, str], *, where: str) -> None:
    """Whether the first row has the columns that are mapped. Raises BadInput."""
    if lacking := [name for name in columns.values() if name and name not in row]:
        raise BadInput(f"{where}: columns: got {shown(lacking[0])}, which is no column; expected one of {named(row)}")


def kind_of(rows: Sequence[Row], *, where: str) -> Kind:
    """By the columns of the first row that are not empty throughout. Raises BadInput where they fit none, or several."""
    row = rows[0]
    there = {key for key in row if any(one.get(key) is not None for one in rows)}
    fitting = [kind for kind, needs in NEEDS.items() if there.issuperset(needs)]
    inside = {other for kind in fitting for other in CONTAINED.get(kind, ())}
    found = [kind for kind in fitting if kind not in inside]
    if found == ["prompt"] and there & {"solution", "rejected"}:
        return "task"  # which says what is missing
    if len(found) == 1:
        return found[0]
    if not found:
        raise BadInput(
            f"{where}: got columns {named(row)}; expected {SOME_OF}; name yours with --columns "
            "prompt=question,completion=answer "
            f"(a study: read: {{columns: {{...}}}}); {PAGE}"
        )
    raise BadInput(
        f"{where}: got columns of {' and of '.join(found)}; expected one kind; choose with --kind {found[0]} (a study: read: "
        f"{{kind: {found[0]}}})"
    )


def named(row: Row) -> str:
    return shown_text(", ".join(map(str, row)) or "none", limit=100)


class Made(NamedTuple):
    """An item and its split."""

    item: GenerationItem
    split: str


def ignored(row: Row, kind: Kind) -> list[str]:
    """Columns that this kind does not read."""
    return [name for name in row if name not in (*NEEDS[kind], *TAKES.get(kind, ()), *EVERYWHERE)]


def item_of(
    row: Row, kind: Kind, reading: Reading, *, name: str, where: str, split: str, delimiter: str | None
) -> Made:
    """One row. Raises BadInput with file, line and column."""
    for column in NEEDS[kind]:
        if row.get(column) is None:
            raise BadInput(
                f"{where}: {column}: got None in a row with {named(row)}; expected {' and '.join(NEEDS[kind])} in every "
                "row of kind "
                f"{kind}; add it, or drop the row"
            )
    made = MAKERS[kind](row, reading, where, delimiter)
    item_id = _label(row, "id", where=where) or f"{name}/{where.rpartition(':')[2].removeprefix('row ')}"
    item = replace(made, item_id=item_id, gold=_answer(row, reading, where=where), tag=_label(row, "tag", where=where))
    return Made(item, _split(row, split, where=where))


# Kinds


def _messages(row: Row, reading: Reading, where: str, _: str | None) -> GenerationItem:
    """A whole chat: the last assistant turn is the reply, and every assistant turn is learned."""
    said = messages_of(row["messages"], where=where, column="messages")
    last = max((k for k, one in enumerate(said) if one["role"] == ASSISTANT), default=None)
    if last is None:
        return _asked(_chat(row, said, where=where))
    if said[0]["role"] == ASSISTANT:
        raise BadInput(
            f"{where}: messages: message 1: got role 'assistant'; expected a user or a system first, since the model answers "
            "something; add what it answers, or drop the message"
        )
    given = last if reading.turns == "last" else 0
    return _replied(_chat(row, said[:last], where=where), said[last : last + 1], given=given)


def _completion(row: Row, reading: Reading, where: str, delimiter: str | None) -> GenerationItem:
    return _pair(row, "completion", None, reading, where, delimiter)


def _preference(row: Row, reading: Reading, where: str, delimiter: str | None) -> GenerationItem:
    """chosen and rejected: replies, or whole chats that begin alike."""
    chosen = row["chosen"]
    if isinstance(chosen, list) and isinstance(row["rejected"], list):
        sides = [messages_of(row[key], where=where, column=key) for key in ("chosen", "rejected")]
        if any(side[0]["role"] != ASSISTANT for side in sides):
            return _whole_chats(row, sides[0], sides[1], where)
    if row.get("prompt") is None:
        raise BadInput(
            f"{where}: prompt: got None, and chosen and rejected are no chats that begin alike; expected the prompt; add "
            "it, or "
            "write both as lists of messages"
        )
    return _pair(row, "chosen", "rejected", reading, where, delimiter)


def _whole_chats(row: Row, chosen: tuple[Message, ...], rejected: tuple[Message, ...], where: str) -> GenerationItem:
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    same -= same == min(len(chosen), len(rejected))  # one reply is the beginning of the other
    if same < 1 or any(one[same]["role"] != ASSISTANT for one in (chosen, rejected)):
        raise BadInput(
            f"{where}: chosen, rejected: got two chats that differ before the assistant replies (message "
            f"{max(same, 0) + 1}); expected "
            "the same messages up to the replies that are compared"
        )
    return _replied(_chat(row, chosen[:same], where=where), chosen[same:], rejected[same:], given=same)


def _pair(row: Row, good: str, bad: str | None, reading: Reading, where: str, delimiter: str | None) -> GenerationItem:
    """A prompt, a reply and perhaps a worse one; texts, or lists of messages."""
    parts = [row["prompt"], row.get(good), None if bad is None else row.get(bad)]
    if reading.as_chat or any(isinstance(part, list) for part in parts):
        context = _said(row["prompt"], "user", where=where, column="prompt")
        if context[-1]["role"] == ASSISTANT:
            raise BadInput(
                f"{where}: prompt: got a last message from the assistant; expected one from a user or a tool: begun "
                "replies can't be "
                "continued here; move it into the completion"
            )
        chat = _chat(row, context, where=where)
        replies = [
            None if part is None else _reply(part, where=where, column=column or "")
            for part, column in zip(parts[1:], (good, bad), strict=True)
        ]
        return _asked(chat) if replies[0] is None else _replied(chat, replies[0], replies[1], given=len(context))
    prompt = prompt_text(_text(row, "prompt", where=where))
    between = default_delimiter(prompt) if delimiter is None else delimiter
    texts = [
        None if part is None else text_behind(_text(row, column or "", where=where), between)
        for part, column in zip(parts[1:], (good, bad), strict=True)
    ]
    return _bare(prompt, completion=texts[0], rejected=texts[1])


def _alpaca(row: Row, reading: Reading, where: str, _: str | None) -> GenerationItem:
    """instruction and input are the user's, output the assistant's."""
    extra = row.get("input")
    asked = _text(row, "instruction", where=where)
    asked += f"\n\n{_text(row, 'input', where=where)}" if extra not in (None, "") else ""
    system = [said_by("system", _text(row, "system", where=where))] if row.get("system") else []
    chat = _chat(row, (*system, said_by("user", asked)), where=where)
    return _replied(chat, (said_by(ASSISTANT, _text(row, "output", where=where)),), given=len(chat.messages))


def _task(row: Row, reading: Reading, where: str, delimiter: str | None) -> GenerationItem:
    """A chat with an answer, in place of a text with one."""
    return _pair(row, "solution", "rejected", reading, where, delimiter)


def _running(row: Row, reading: Reading, where: str, _: str | None) -> GenerationItem:
    return _bare("", completion=_text(row, "text", where=where))


def _prompt(row: Row, reading: Reading, where: str, delimiter: str | None) -> GenerationItem:
    return _pair(row, "", None, reading, where, delimiter)


MAKERS: Mapping[Kind, Callable[[Row, Reading, str, str | None], GenerationItem]] = {
    "messages": _messages,
    "completion": _completion,
    "preference": _preference,
    "alpaca": _alpaca,
    "task": _task,
    "text": _running,
    "prompt": _prompt,
}


# Parts of rows


def _chat(row: Row, messages: tuple[Message, ...], *, where: str) -> Chat:
    return Chat(
        messages=messages,
        tools=tools_of(row.get("tools"), where=where),
        template_kwargs=variables_of(row.get("chat_template_kwargs"), where=where),
        where=where,
    )


def _bare(prompt: str, *, completion: str | None = None, rejected: str | None = None) -> GenerationItem:
    return GenerationItem(
        item_id="", prompt=prompt, gold=None, completion=completion, rejected=rejected,
        preferred=completion if rejected is not None else None,
    )  # fmt: skip


def _asked(chat: Chat) -> GenerationItem:
    return replace(_bare(transcript(chat.messages)), chat=chat)


def _replied(
    chat: Chat, reply: tuple[Message, ...], worse: tuple[Message, ...] | None = None, *, given: int
) -> GenerationItem:
    def with_reply(messages: tuple[Message, ...]) -> Chat:
        last = max(k for k, one in enumerate(messages) if one["role"] == ASSISTANT)
        return replace(chat, messages=(*chat.messages, *messages[: last + 1]), given=given)

    texts = [None if one is None else "\n".join(map(content_of, one)) for one in (reply, worse)]
    bare = _bare(transcript(chat.messages), completion=texts[0], rejected=texts[1])
    return replace(bare, chat=chat, solved=with_reply(reply), refused=None if worse is None else with_reply(worse))


def _said(value: object, role: str, *, where: str, column: str) -> tuple[Message, ...]:
    """A text is one message of this role."""
    if isinstance(value, list):
        return messages_of(value, where=where, column=column)
    return (said_by(role, _text({column: value}, column, where=where)),)


def _reply(value: object, *, where: str, column: str) -> tuple[Message, ...]:
    said = _said(value, ASSISTANT, where=where, column=column)
    if said[0]["role"] != ASSISTANT:
        raise BadInput(
            f"{where}: {column}: message 1: got role {shown(said[0]['role'])}; expected 'assistant': what is asked "
            "belongs into the "
            "prompt; move it there"
        )
    return said


def _text(row: Row, column: str, *, where: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        raise BadInput(f"{where}: {column}: got {shown(value)}; expected a text")
    if not value.strip():
        raise BadInput(
            f"{where}: {column}: got {value[:20]!r}; expected a text that is not empty; add it, or drop the row"
        )
    return value


def _answer(row: Row, reading: Reading, *, where: str) -> str | None:
    value = row.get("answer")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadInput(f"{where}: answer: got {shown(value)}; expected a text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInput(
            f"{where}: answer: got {value}, a gap in the table it comes from; expected a value; fill it in, or drop the row"
        )
    text = number_text(value)
    answer = marked_answer(text).behind or text.strip()
    if not answer:
        raise BadInput(
            f"{where}: answer: got {shown(value)}; expected a text that is not empty; add it, or leave it out"
        )
    return normalise(answer) if reading.grader in (None, "exact") else answer


def _label(row: Row, column: str, *, where: str) -> str | None:
    value = row.get(column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise BadInput(
            f"{where}: {column}: got {shown(value)}; expected a text or a whole number; read no such column with "
            f"--columns {column}="
        )
    return number_text(value)


def _split(row: Row, otherwise: str, *, where: str) -> str:
    value = row.get("split")
    if value in (None, "train", "test"):
        return value or otherwise
    raise BadInput(
        f"{where}: split: got {shown(value)}; expected 'train' or 'test'; read no such column with --columns split="
    )
