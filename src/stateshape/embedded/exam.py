"""A lettered four-choice exam over eight subjects, in MMLU's shape (arXiv:2009.03300).

Test and validation ask about the same world as facts.py, with wordings that pretraining never uses for that fact. Knows
nothing of prompts or letters' tokens.
"""

from __future__ import annotations

import random
from typing import Literal

from stateshape.embedded.lore import SUBJECTS, LoreFact, lore
from stateshape.embedded.records import ExamQuestion

ExamSplit = Literal["dev", "validation", "test"]
NUM_CHOICES = 4
DEV_PER_SUBJECT = 5
LETTERS = ("A", "B", "C", "D")


def exam(split: ExamSplit, num: int) -> tuple[ExamQuestion, ...]:
    """The first `num` questions of a split, subjects in turn. ValueError if there are fewer.

    dev (40): five per subject, for few-shot prompts. validation (120), test (640).
    """
    if split not in ("dev", "validation", "test"):
        raise ValueError(f"split: got {split!r}; expected dev, validation or test")
    per_subject = [_of_subject(subject.name, split) for subject in SUBJECTS]
    longest = max(map(len, per_subject))
    chosen = [group[rank] for rank in range(longest) for group in per_subject if rank < len(group)]
    if num > len(chosen):
        raise ValueError(f"num: got {num}; expected at most {len(chosen)} for split {split!r}")
    return tuple(_item(fact, split) for fact in chosen[:num])


def _of_subject(subject: str, split: ExamSplit) -> list[LoreFact]:
    mine = [fact for fact in lore() if fact.subject == subject]
    random.Random(f"stateshape-exam:{subject}").shuffle(mine)
    kept_out = [fact for fact in mine if not fact.is_test]
    if split == "test":
        return [fact for fact in mine if fact.is_test]
    return kept_out[:DEV_PER_SUBJECT] if split == "dev" else kept_out[DEV_PER_SUBJECT:]


def _item(fact: LoreFact, split: str) -> ExamQuestion:
    rng = random.Random(f"stateshape-exam-item:{split}:{fact.index}")
    choices, answer_index = draw_choices(fact, rng)
    return ExamQuestion(
        item_id=f"exam-{split}-{fact.index}",
        subject=fact.subject,
        question=fact.question(fact.held_out),
        choices=choices,
        answer_index=answer_index,
    )


def draw_choices(fact: LoreFact, rng: random.Random) -> tuple[tuple[str, ...], int]:
    """Four values, one of them true, in a random order; and the true one's place."""
    wrong = [value for value in fact.attribute.values if value != fact.value]
    choices = [fact.value, *rng.sample(wrong, NUM_CHOICES - 1)]
    rng.shuffle(choices)
    return tuple(choices), choices.index(fact.value)
