"""The two shapes a task item can have: generate-and-grade, and choose-among-options.

Knows nothing of models, tokenizers or files. Text conventions: a prompt has no trailing space; a completion and an
option start with the delimiter (most often one space) that joins them to the prompt, so `prompt + option` is the scored text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stateshape.core.chat import Chat


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationItem:
    """One problem answered in free text. `completion` is a worked solution (None where the data has none).

    gold None: no answer is known, so nothing can be graded.
    rejected: a worse solution, for preferences. preferred: the text it is compared with, where that is not the completion.
    tag: what kind of problem it is, where teachers are chosen by kind. columns: the row's other columns, for rewards.

    Of a chat, `prompt` is a transcript for readers, and models read `chat`, rendered by their own template; `solved` is the
    chat with the turns that are learned, `refused` the one with the worse reply.
    """

    item_id: str
    prompt: str
    gold: str | None
    completion: str | None = None
    rejected: str | None = None
    preferred: str | None = None
    tag: str | None = None
    chat: Chat | None = None
    solved: Chat | None = None
    refused: Chat | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def asked(self) -> str | Chat:
        """What a policy encodes as the prompt."""
        return self.prompt if self.chat is None else self.chat


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceItem:
    """One multiple-choice question; `is_true[i]` says whether `options[i]` is right (several may be).

    in_mc1 (TruthfulQA's two scores have different option sets): the options MC1 chooses among, exactly one of them
    true; MC2 uses all options. None: every option takes part in every score.
    """

    item_id: str
    prompt: str
    options: tuple[str, ...]
    is_true: tuple[bool, ...]
    subject: str = ""
    in_mc1: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.options) != len(self.is_true) or len(self.options) < 2 or not any(self.is_true):
            raise ValueError(
                f"item {self.item_id}: options and is_true: got {len(self.options)} options, {len(self.is_true)} "
                f"marks, {sum(self.is_true)} true; expected >= 2 options, one mark each, at least one true"
            )
        if self.in_mc1 is not None:
            true_ones = sum(t for t, chosen in zip(self.is_true, self.in_mc1) if chosen)
            if len(self.in_mc1) != len(self.options) or sum(self.in_mc1) < 2 or true_ones != 1:
                raise ValueError(
                    f"item {self.item_id}: in_mc1: got {len(self.in_mc1)} marks for {len(self.options)} options, "
                    f"{sum(self.in_mc1)} set, {true_ones} of them true; expected one mark each, >= 2 set, one true"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Grade:
    """A graded completion. `prediction` None: no answer could be extracted (counts as wrong, and is shown)."""

    prediction: str | None
    is_correct: bool
