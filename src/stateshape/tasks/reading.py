"""How a user's rows are to be read: columns under other names, the kind of rows, their split, turns and grader.

Knows no file and no model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stateshape.core.files import BadInput
from stateshape.core.wording import shown

Kind = Literal["task", "choice", "messages", "completion", "preference", "alpaca", "text", "prompt"]
Turns = Literal["all", "last"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What the rows do not say themselves. Everything may be left out."""

    columns: dict[str, str] = field(default_factory=dict)
    """Our name of a column -> the rows' own, e.g. {prompt: question, completion: answer}. An empty name: no such column."""
    kind: Kind | None = None
    """Kind of rows (docs/guides/your-data.md). Default: recognised by the columns."""
    split: Literal["train", "test"] | None = None
    """Split of rows that do not say. Default: train; test for prompts with answers and for multiple choice."""
    turns: Turns = "all"
    """Of a chat, the assistant's turns that are learned: all, or the last one."""
    as_chat: bool = False
    """Texts in prompt and completion are a user's and the assistant's messages, written by the model's chat template."""
    grader: str | None = None
    """How answers are graded: exact, numeric, numeric:TOLERANCE, choice, regex, math, or file.py:name of a function."""

    def __post_init__(self) -> None:
        if odd := [name for name in self.columns if not name.strip()]:
            raise BadInput(f"columns: got {shown(odd[0])} for a column; expected a name, as in prompt=question")

    @property
    def is_default(self) -> bool:
        return self == Reading()


def columns_of(text: str | None) -> dict[str, str]:
    """`prompt=question,completion=answer` as a mapping. Raises BadInput."""
    pairs = [pair.partition("=") for pair in (text or "").split(",") if pair.strip()]
    if any(not mark or not ours.strip() for ours, mark, _ in pairs):
        raise BadInput(f"columns: got {shown(text)}; expected pairs like prompt=question,completion=answer")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
