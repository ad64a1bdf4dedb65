"""A chat as plain data: messages by role, in order, and which of the assistant's are learned from.

Knows no tokenizer and no template: policy/chat.py renders it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Message = Mapping[str, Any]  # role and content; perhaps tool_calls, name, reasoning_content
ASSISTANT = "assistant"
FIRST_ROLES = ("system", "developer")  # what may stand before the first exchange, and is never dropped
END_OF_TURN = "<end of turn>"
"""Among a task's stop texts it stands for the token by which the model's chat template ends a turn."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False, weakref_slot=True)
class Chat:
    """Messages in order. Assistant turns before message `given` are context and never supervised.

    tools: as the template takes them. template_kwargs: further variables of the template. where: file and line, for messages.
    """

    messages: tuple[Message, ...]
    given: int = 0
    tools: tuple[Mapping[str, Any], ...] | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    where: str = ""

    def until(self, number: int) -> Chat:
        """The first `number` messages."""
        return replace(self, messages=self.messages[:number])

    def turns(self) -> list[int]:
        """The messages that are learned: assistant turns from `given` on."""
        return [k for k in range(self.given, len(self.messages)) if self.messages[k]["role"] == ASSISTANT]

    def shortened(self) -> Iterator[Chat]:
        """The chat without its oldest exchange, without its two oldest, ...: each begins with the user again.

        System messages stay. What is cut off is never a part of a message, and at least the last question stays.
        """
        first = next((k for k, one in enumerate(self.messages) if one["role"] not in FIRST_ROLES), len(self.messages))
        starts = [k for k in range(first + 1, len(self.messages)) if self.messages[k]["role"] == "user"]
        for start in starts:
            given = max(self.given - (start - first), first) if self.given else 0
            yield replace(self, messages=(*self.messages[:first], *self.messages[start:]), given=given)


def content_of(message: Message) -> str:
    """The message as a text for readers: its content, and the tools that it calls."""
    calls = message.get("tool_calls")
    said = [str(message.get("content") or ""), json.dumps(calls, ensure_ascii=False) if calls else ""]
    return "\n".join(part for part in said if part)


def transcript(messages: tuple[Message, ...]) -> str:
    """All messages as one text for readers, in no model's template."""
    return "\n".join(f"{message['role']}: {content_of(message)}" for message in messages)
