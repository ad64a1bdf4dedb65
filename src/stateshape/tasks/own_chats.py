"""Messages as people write them, checked and brought into one form: role and content, as chat templates take them.

Reads OpenAI's keys (role, content, tool_calls) and ShareGPT's (from, value). Knows no template and no task.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from stateshape.core.chat import ASSISTANT, Message
from stateshape.core.files import BadInput
from stateshape.tasks.own_rows import shown

SHAREGPT = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant", "bot": "assistant",
    "model": "assistant", "system": "system", "tool": "tool", "observation": "tool", "function_response": "tool",
    "function_call": "assistant",
}  # fmt: skip


def messages_of(value: object, *, where: str, column: str) -> tuple[Message, ...]:
    """A list of messages. Raises BadInput naming the row, the column and the message."""
    if not isinstance(value, list) or not value:
        raise BadInput(
            f"{where}: {column}: got {shown(value)}; expected a list of messages, each with role and content"
        )
    return tuple(_message(one, where=f"{where}: {column}: message {k}") for k, one in enumerate(value, 1))


def tools_of(value: object, *, where: str) -> tuple[Mapping[str, Any], ...] | None:
    """The tools that a chat may call, as JSON schemas; a text is read as JSON. Raises BadInput."""
    tools = _from_json(value, where=f"{where}: tools")
    if tools in (None, []):
        return None
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadInput(f"{where}: tools: got {shown(value)}; expected a list of JSON schemas")
    return tuple(tools)


def variables_of(value: object, *, where: str) -> Mapping[str, Any]:
    """`chat_template_kwargs`: variables for the template. Raises BadInput."""
    variables = _from_json(value, where=f"{where}: chat_template_kwargs")
    if variables is None:
        return {}
    if not isinstance(variables, dict):
        raise BadInput(f"{where}: chat_template_kwargs: got {shown(value)}; expected a mapping")
    if odd := variables.keys() & {"messages", "tools", "add_generation_prompt", "tokenize", "chat_template"}:
        raise BadInput(
            f"{where}: chat_template_kwargs: got {min(odd)!r}, which is set here; expected variables of the template"
        )
    return {key: value for key, value in variables.items() if value is not None}


def said_by(role: str, text: str) -> Message:
    return {"role": role, "content": text}


def _message(value: object, *, where: str) -> Message:
    if not isinstance(value, dict):
        raise BadInput(f"{where}: got {shown(value)}; expected role and content")
    fields = {key: part for key, part in value.items() if part is not None}
    if "role" not in fields and "from" in fields:
        fields = _from_sharegpt(fields, where=where)
    role = fields.get("role")
    if not isinstance(role, str) or not role.strip():
        raise BadInput(f"{where}: role: got {shown(role)}; expected system, user, assistant or tool")
    fields["content"] = _content(fields.get("content", ""), where=where)
    if "tool_calls" in fields:
        fields["tool_calls"] = _calls(fields["tool_calls"], where=where)
    is_silent = not fields["content"].strip() and not fields.get("tool_calls")
    if is_silent and role in (ASSISTANT, "user"):
        raise BadInput(
            f"{where}: content: got {shown(value.get('content'))} from the {role}; expected a text; drop the row"
        )
    return fields


def _from_sharegpt(fields: dict[str, Any], *, where: str) -> dict[str, Any]:
    known = SHAREGPT.get(str(fields["from"]))
    if known is None:
        raise BadInput(f"{where}: from: got {shown(fields['from'])}; expected one of {', '.join(SHAREGPT)}")
    return {"role": known, "content": fields.get("value", "")}


def _content(value: object, *, where: str) -> str:
    """A text; a list of text parts is joined."""
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else [value]
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part for part in parts]
    if odd := [part for part, text in zip(parts, texts, strict=True) if not isinstance(text, str)]:
        kind = odd[0].get("type") if isinstance(odd[0], dict) else None
        raise BadInput(
            f"{where}: content: got {shown(kind or odd[0])}; expected a text: images and other parts can't be trained on; "
            "drop the "
            "row"
        )
    return "".join(str(text) for text in texts)


def _calls(value: object, *, where: str) -> list[Any]:
    """Arguments that are JSON in a text, as OpenAI writes them, become mappings, as templates take them."""
    if not isinstance(value, list) or not all(isinstance(call, dict) for call in value):
        raise BadInput(f"{where}: tool_calls: got {shown(value)}; expected a list of calls")
    return [_call(call, where=where) for call in value]


def _call(call: dict[str, Any], *, where: str) -> dict[str, Any]:
    inner = call.get("function")
    if isinstance(inner, dict):
        return {key: part for key, part in call.items() if part is not None} | {"function": _call(inner, where=where)}
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        call = call | {"arguments": _from_json(arguments, where=f"{where}: tool_calls: arguments")}
    if isinstance(call.get("arguments"), dict):  # Parquet fills up what other calls have
        call = call | {"arguments": {key: part for key, part in call["arguments"].items() if part is not None}}
    return {key: part for key, part in call.items() if part is not None}


def _from_json(value: object, *, where: str) -> Any:
    if not isinstance(value, str):
        return value
    if not value.strip():
        return None
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise BadInput(f"{where}: got {shown(value)}; expected JSON") from None
