"""The generated world, in one place: arithmetic problems, facts with misconceptions, and an exam.

Everything is deterministic, made in memory from the standard library, and the same on every machine and Python version.
Knows nothing of prompts, models or tokenizers (wording.py has the prompt shapes that pretraining used).
"""

from __future__ import annotations

from stateshape.embedded.arithmetic import ArithmeticSplit, arithmetic
from stateshape.embedded.exam import ExamSplit, exam
from stateshape.embedded.facts import FactSplit, facts
from stateshape.embedded.records import ArithmeticProblem, ExamQuestion, Fact

__all__ = [
    "ArithmeticProblem",
    "ArithmeticSplit",
    "ExamQuestion",
    "ExamSplit",
    "Fact",
    "FactSplit",
    "arithmetic",
    "exam",
    "facts",
]
