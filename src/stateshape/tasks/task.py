"""What a task is: items, how they are graded, and the score of blind guessing. Made by load.py.

Knows nothing of models. The grader of a generation task is a pure function of the completion's text and the item.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from stateshape.core import html
from stateshape.tasks.items import ChoiceItem, GenerationItem, Grade

Progress = Callable[[int, int], None]  # done, total


@dataclass(frozen=True, kw_only=True, slots=True)
class Grades:
    """One completion graded both ways. `text` is what was graded: the completion cut at its end of answer."""

    strict: Grade
    flexible: Grade
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationTask:
    """Problems answered in free text. Prompts of `train` are zero-shot; shots are in the prompts of `test` only."""

    name: str
    label: str
    train: Sequence[GenerationItem]
    test: tuple[GenerationItem, ...]
    grade: Callable[[str, GenerationItem], Grades]
    data_sha256: str
    stops: tuple[str, ...]
    max_new_tokens: int = 256
    metric: str = "strict"  # strict or flexible; of lm-evaluation-harness's tasks (harness.py), one of theirs
    metrics: tuple[str, ...] = ("strict", "flexible", "truncated")
    chance: float = 0.0  # free text cannot be guessed blindly
    notes: tuple[str, ...] = ()  # oddities in the data, one sentence each

    def __repr__(self) -> str:
        return f"<Task {self.name}: {len(self.train):,} training and {len(self.test):,} test items, graded by {self.metric}>"

    def _repr_html_(self) -> str:
        pairs: list[tuple[str, object]] = [
            ("training items", f"{len(self.train):,}"),
            ("test items", f"{len(self.test):,}"),
            ("metric", self.metric),
            ("first test prompt", self.test[0].prompt if self.test else None),
            ("its answer", self.test[0].gold if self.test else None),
        ]
        return html.facts(f"Task {self.label}", pairs, paragraphs=self.notes)

    def is_right(self, text: str, item: GenerationItem, *, is_flexible: bool = False) -> bool | None:
        """By the task's own metric, or by the flexible one; None where no answer is known, so that nothing can be graded."""
        if item.gold is None:
            return None
        grades = self.grade(text, item)
        return (grades.strict if self.metric == "strict" and not is_flexible else grades.flexible).is_correct


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceTask:
    """Multiple-choice questions. `chance`: mean over items of the primary metric under uniform guessing."""

    name: str
    label: str
    metric: Literal["mc1", "acc", "acc_norm"]
    items: tuple[ChoiceItem, ...]
    metrics: tuple[str, ...]
    chance: float
    data_sha256: str
    is_lettered: bool = False  # the options are letters for choices written in the prompt
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Task {self.name}: {len(self.items):,} items, scored by {self.metric}, chance {self.chance:.3g}>"

    def _repr_html_(self) -> str:
        first = self.items[0] if self.items else None
        pairs: list[tuple[str, object]] = [
            ("items", f"{len(self.items):,}"),
            ("metric", self.metric),
            ("chance", f"{self.chance:.3g}"),
            ("first question", first.prompt if first else None),
            ("its options", "\n".join(first.options) if first else None),
        ]
        return html.facts(f"Task {self.label}", pairs, paragraphs=self.notes)


Task = GenerationTask | ChoiceTask


def acc_chance(items: tuple[ChoiceItem, ...]) -> float:
    """Mean over items of (number of true options) / (number of options)."""
    return sum(sum(item.is_true) / len(item.options) for item in items) / len(items)


def mc1_chance(items: tuple[ChoiceItem, ...]) -> float:
    """Mean over items of 1 / (number of MC1 options): exactly one of them is true."""
    return sum(1 / sum(item.in_mc1 or (True,) * len(item.options)) for item in items) / len(items)
