"""The plain records the generated world is made of.

Knows nothing of models, tokenizers, prompts or files: other rooms turn these into prompts and task items.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Equation:
    """One worked line: `text` holds the sentence with "{eq}" where "left op right=result" goes."""

    text: str
    left: int
    operator: str
    right: int
    result: int

    def expression(self) -> str:
        """The equation as written in solutions, without blanks: `12*3=36`."""
        return f"{self.left}{self.operator}{self.right}={self.result}"

    def sentence(self) -> str:
        return self.text.replace("{eq}", self.expression())


@dataclass(frozen=True, kw_only=True, slots=True)
class ArithmeticProblem:
    """One word problem. `solution` is the clean worked answer without its `#### N` line; `numbers` decide the split."""

    item_id: str
    question: str
    solution: str
    answer: str
    num_steps: int
    story: str
    numbers: tuple[int, ...]
    equations: tuple[Equation, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One question with a popular misconception. `true_answers[0]` is the best one; all answers are full sentences."""

    item_id: str
    subject: str
    question: str
    true_answers: tuple[str, ...]
    false_answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExamQuestion:
    """One four-choice question; `choices[answer_index]` is right."""

    item_id: str
    subject: str
    question: str
    choices: tuple[str, ...]
    answer_index: int
