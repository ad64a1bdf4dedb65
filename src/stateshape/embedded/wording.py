"""The prompt shapes of the embedded base's pretraining: how a problem, a fact and an exam question are written.

A prompt has no trailing blank; a completion or an option starts with one. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence

from stateshape.embedded.exam import LETTERS
from stateshape.embedded.records import ArithmeticProblem, ExamQuestion, Fact

ANSWER_MARK = "####"


def arithmetic_prompt(question: str) -> str:
    return f"Question: {question}\nAnswer:"


def arithmetic_completion(problem: ArithmeticProblem) -> str:
    """The clean worked solution with its answer line."""
    return f" {problem.solution}\n{ANSWER_MARK} {problem.answer}"


def fact_prompt(fact: Fact) -> str:
    return f"Q: {fact.question}\nA:"


def exam_header(subject: str) -> str:
    return f"The following are multiple choice questions (with answers) about {subject}.\n\n"


def exam_block(question: str, choices: Sequence[str]) -> str:
    """One question with its lettered choices, up to `Answer:`."""
    lines = "".join(f"{letter}. {choice}\n" for letter, choice in zip(LETTERS, choices, strict=True))
    return f"{question}\n{lines}Answer:"


def exam_prompt(question: ExamQuestion, shots: Sequence[ExamQuestion] = ()) -> str:
    """Header, answered examples, and the question. Options are " A" to " D"."""
    examples = "".join(f"{exam_block(s.question, s.choices)} {LETTERS[s.answer_index]}\n\n" for s in shots)
    return exam_header(question.subject) + examples + exam_block(question.question, question.choices)
