"""Chats as token ids: rendered by a tokenizer's chat template, with the tokens that the assistant wrote.

The template's own mask says what the assistant wrote, where it has {% generation %}. Elsewhere the chat is rendered up to and
with each assistant turn: what that adds is the turn. A turn ends with its last special token; the white space that a template
puts behind it is nobody's. Does not know what is learned from which token.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from stateshape.core.chat import ASSISTANT, Chat, content_of
from stateshape.core.files import BadInput
from stateshape.core.wording import one_line, shown

# the date of today in a fixed format, as almost all templates ask for it that do
DATE_CALL = re.compile(r"""\bstrftime_now\(\s*(["'])((?:(?!\1)[^\\])*)\1\s*\)""")
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
DAY = datetime.date(
    2024, 7, 26
)  # what templates that write the date of today are told: a row must be the same every day
PROBE = ({"role": "user", "content": "x"}, {"role": "assistant", "content": "y"})


class Rendered(NamedTuple):
    """A chat's ids up to its last learned token; `written`: which of them the assistant wrote, in turns that are learned."""

    ids: list[int]
    written: list[bool]

    @property
    def prompt_length(self) -> int:
        """Tokens before the first learned one."""
        return self.written.index(True)


_RENDERED: dict[Hashable, WeakKeyDictionary[Chat, Rendered]] = {}
_SPECIAL: WeakKeyDictionary[Any, frozenset[int]] = WeakKeyDictionary()
_PROMPTS: dict[Hashable, WeakKeyDictionary[Chat, list[int]]] = {}


def prompt_ids(tokenizer: Any, chat: Chat) -> list[int]:
    """The chat up to where the assistant begins to write. Rendered once per tokenizer. Raises BadInput."""
    known = _PROMPTS.setdefault(_same(tokenizer), WeakKeyDictionary())
    if chat not in known:
        known[chat] = _encoded(tokenizer, prompt_text(tokenizer, chat))
    return list(known[chat])


def prompt_text(tokenizer: Any, chat: Chat) -> str:
    text = _text(tokenizer, chat, len(chat.messages), is_open=True)
    _check_said(chat, text)
    return text


def rendered(tokenizer: Any, chat: Chat) -> Rendered:
    """The chat up to its last learned turn. Rendered once per tokenizer. Raises BadInput naming the message."""
    known = _RENDERED.setdefault(_same(tokenizer), WeakKeyDictionary())
    if chat not in known:
        known[chat] = _rendered(tokenizer, chat)
    return known[chat]


def turn_ends(tokenizer: Any) -> tuple[int, ...]:
    """The token by which the template ends an assistant's turn; none without a template, or where a turn ends in plain
    text."""
    if not tokenizer.chat_template:
        return ()
    try:
        row = _rendered(tokenizer, Chat(messages=PROBE))
    except BadInput:
        return ()
    return (row.ids[-1],) if row.ids[-1] in special_ids(tokenizer) else ()


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Tokens that no text is made of: those with a role, and all that the tokenizer calls special."""
    if tokenizer not in _SPECIAL:
        added = {token for token, one in tokenizer.added_tokens_decoder.items() if one.special}
        _SPECIAL[tokenizer] = frozenset({*tokenizer.all_special_ids, *added})
    return _SPECIAL[tokenizer]


def check_template(tokenizer: Any, *, model: str, where: str) -> None:
    """Whether there is a chat template. Raises BadInput."""
    if not tokenizer.chat_template:
        raise BadInput(
            f"model: got {shown(model)}, which has no chat template, for the chat of {where}; expected one; give a template's "
            "file with --chat-template FILE (a study: model_settings: {chat_template: FILE}), or use the model's chat version"
        )


def _same(tokenizer: Any) -> Hashable:
    """The same for two tokenizers of one model with one template: what was rendered to check a run is not rendered again."""
    name = getattr(tokenizer, "name_or_path", "") or id(tokenizer)
    return name, str(tokenizer.chat_template), tokenizer.eos_token


# One chat


def _rendered(tokenizer: Any, chat: Chat) -> Rendered:
    turns = chat.turns()
    assert turns, chat.where
    whole = chat.until(turns[-1] + 1)
    _check_no_ends(tokenizer, whole)
    _check_said(whole, _text(tokenizer, whole, len(whole.messages), is_open=False))
    template = str(tokenizer.get_chat_template(tools=_tools(chat)))
    ids, written = _by_mask(tokenizer, whole) if GENERATION.search(template) else _by_prefixes(tokenizer, whole, turns)
    if not any(written):
        raise BadInput(f"{_message(chat, turns[-1])}: got a turn that the chat template leaves out; expected its text")
    end = len(written) - written[::-1].index(True)
    return Rendered(ids[:end], written[:end])


def _by_mask(tokenizer: Any, chat: Chat) -> tuple[list[int], list[bool]]:
    """By the template's own {% generation %}."""
    made = tokenizer.apply_chat_template(
        list(chat.messages),
        tools=_tools(chat),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        **_variables(tokenizer, chat),
    )
    ids, written = list(made["input_ids"]), [bool(mark) for mark in made["assistant_masks"]]
    if chat.given:
        context = _encoded(tokenizer, _text(tokenizer, chat, chat.given, is_open=True))
        if ids[: len(context)] != context:
            raise BadInput(_unstable(chat, chat.given))
        written = [mark and at >= len(context) for at, mark in enumerate(written)]
    return ids, written


def _by_prefixes(tokenizer: Any, chat: Chat, turns: list[int]) -> tuple[list[int], list[bool]]:
    """By rendering up to and with each turn. A token that would span the start of a turn is split there."""
    text = _text(tokenizer, chat, len(chat.messages), is_open=False)
    ids: list[int] = []
    written: list[bool] = []
    done = ""
    for turn in turns:
        before = _text(tokenizer, chat, turn, is_open=True)
        behind = _text(tokenizer, chat, turn + 1, is_open=False)
        if not (before.startswith(done) and behind.startswith(before) and text.startswith(behind)):
            raise BadInput(_unstable(chat, turn))
        for upto, is_turn in ((before, False), (behind, True)):
            added = _added(tokenizer, ids, upto, upto[len(done) :])
            marks = _own(tokenizer, added) if is_turn else [False] * len(added)
            ids, written, done = [*ids, *added], [*written, *marks], upto
    return ids, written


def _added(tokenizer: Any, before: list[int], upto: str, text: str) -> list[int]:
    """The ids that `text` adds to those before it: of both encoded together, or alone where a token would span both."""
    together = _encoded(tokenizer, upto)
    return together[len(before) :] if together[: len(before)] == before else _encoded(tokenizer, text)


def _own(tokenizer: Any, turn: list[int]) -> list[bool]:
    """Which of a turn's tokens are the assistant's: up to its last special token, where white space alone follows it."""
    special = special_ids(tokenizer)
    last = next((k for k in reversed(range(len(turn))) if turn[k] in special), len(turn) - 1)
    if tokenizer.decode(turn[last + 1 :]).strip():
        last = len(turn) - 1
    return [k <= last for k in range(len(turn))]


# The template


def _text(tokenizer: Any, chat: Chat, number: int, *, is_open: bool) -> str:
    """The first `number` messages as a text; is_open: and what stands before the assistant's next word."""
    try:
        return _applied(tokenizer, chat, number, is_open=is_open)
    except Exception as error:  # a template may raise anything
        at = _first_fault(tokenizer, chat, number)
        reason = one_line(str(error) or type(error).__name__, limit=200)
        role = shown(chat.messages[at]["role"]) if at < len(chat.messages) else "the chat"
        raise BadInput(
            f"{_message(chat, at)}: the chat template can't render {role} here ({reason}); expected roles, order and fields "
            "that it knows; change the row, or give another template with --chat-template FILE"
        ) from None


def _applied(tokenizer: Any, chat: Chat, number: int, *, is_open: bool) -> str:
    return tokenizer.apply_chat_template(
        list(chat.messages[:number]),
        tools=_tools(chat),
        tokenize=False,
        add_generation_prompt=is_open,
        **_variables(tokenizer, chat),
    )


def _first_fault(tokenizer: Any, chat: Chat, number: int) -> int:
    """The first message with which the template fails; the last one if it fails only on the whole."""
    for at in range(number):
        try:
            _applied(tokenizer, chat, at + 1, is_open=False)
        except Exception:
            return at
    return max(number - 1, 0)


def _variables(tokenizer: Any, chat: Chat) -> Mapping[str, Any]:
    return {**dated_template(tokenizer, _tools(chat)), **chat.template_kwargs}


def dated_template(tokenizer: Any, tools: list[Any] | None = None) -> dict[str, Any]:
    """Arguments of apply_chat_template: the tokenizer's template with DAY where it writes the date of today.

    The date stands in the template: transformers 5.24 gives templates plain data only, and no function of ours. It is given as
    a function, which older versions take, where the template makes up the format.
    """
    template = DATE_CALL.sub(
        lambda call: json.dumps(DAY.strftime(call[2]), ensure_ascii=False),
        str(tokenizer.get_chat_template(tools=tools)),
    )
    return {"chat_template": template} | ({"strftime_now": DAY.strftime} if "strftime_now(" in template else {})


def _tools(chat: Chat) -> list[Any] | None:
    return list(chat.tools) if chat.tools else None


def _encoded(tokenizer: Any, text: str) -> list[int]:
    """A template writes the special tokens itself: none is added."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _check_no_ends(tokenizer: Any, chat: Chat) -> None:
    """No message holds the text of the tokens that end a text or a turn. Raises BadInput."""
    ends = [tokenizer.eos_token, *(one for one in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>"))]
    special = special_ids(tokenizer)
    known = [end for end in dict.fromkeys(ends) if end and tokenizer.convert_tokens_to_ids(end) in special]
    for at, message in enumerate(chat.messages):
        if found := [end for end in known if end in content_of(message)]:
            raise BadInput(
                f"{_message(chat, at)}: content: got the special token {found[0]!r} in it; expected none, since the chat "
                "template "
                "adds it; remove it"
            )


def _check_said(chat: Chat, text: str) -> None:
    """Tools, and calls of them, are in the rendered text: many templates know none, and leave them out. Raises BadInput."""
    calls = [(at, call) for at, one in enumerate(chat.messages) for call in one.get("tool_calls") or ()]
    asked = [(_message(chat, at), "tool_calls", call) for at, call in calls]
    asked += [(chat.where, "tools", tool) for tool in chat.tools or ()]
    for where, column, one in asked:
        name = (one.get("function") or one).get("name")
        if isinstance(name, str) and name not in text:
            raise BadInput(
                f"{where}: {column}: the chat template leaves out {shown(name)}; expected one that writes tools and their "
                "calls; give "
                "another template with --chat-template FILE, or drop the row"
            )


def _unstable(chat: Chat, at: int) -> str:
    return (
        f"{_message(chat, at)}: the chat template writes what comes before this turn differently once later messages follow; "
        "expected the same text, or it could not be said which tokens the assistant wrote; train on last turns only (--turns "
        "last), or give a template with {% generation %} marks with --chat-template FILE"
    )


def _message(chat: Chat, at: int) -> str:
    role = chat.messages[at]["role"] if at < len(chat.messages) else ASSISTANT
    return f"{chat.where}: message {at + 1} ({role})"
