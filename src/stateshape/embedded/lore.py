"""What is true in the invented world, what people wrongly believe, and how known each fact is.

One LoreFact per (entity, attribute): 8 subjects x 20 entities x 5 attributes = 800. Knows nothing of prompts, options
or documents; facts.py, exam.py and corpus.py word it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

from stateshape.embedded import lore_nature, lore_people
from stateshape.embedded.lore_tables import NUM_WORDINGS, Attribute

SUBJECTS = lore_nature.SUBJECTS + lore_people.SUBJECTS
NUM_FALSE = (3, 4)  # wrong popular answers per fact, drawn evenly
NUM_TEST_FACTS = 640  # the other 160 are for validation
# How often a statement of the fact is the popular mistake. A quarter of the mistakes are told more often than the truth:
# with rates of 0.05 to 0.45 a base that knew the facts was hardly ever fooled (validation MC1 0.89).
MISTAKE_RATES = (0.1, 0.35, 0.5, 0.65)
# Relative number of documents on the fact: rare facts stay half-learned.
POPULARITIES = (1, 1, 2, 3)
EXAM_SHARE = 0.6  # facts that also appear as exam questions in pretraining (other wording, other distractors)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoreFact:
    """One fact. `mistakes[0]` is the popular wrong value; wording `held_out` never asks about it in pretraining."""

    index: int
    subject: str
    entity: str
    attribute: Attribute
    value: str
    mistakes: tuple[str, ...]
    mistake_rate: float
    popularity: int
    held_out: int
    is_test: bool
    is_in_exams: bool

    def statement(self, value: str, wording: int) -> str:
        text = self.attribute.statements[wording].replace("{e}", self.entity).replace("{v}", value)
        return text[0].upper() + text[1:]

    def question(self, wording: int) -> str:
        text = self.attribute.questions[wording].replace("{e}", self.entity)
        return text[0].upper() + text[1:]


@cache
def lore() -> tuple[LoreFact, ...]:
    """Every fact of the world; the same on every call and machine."""
    rng = random.Random("stateshape-lore")
    triples = [(s.name, e, a) for s in SUBJECTS for e in s.entities for a in s.attributes]
    order = list(range(len(triples)))
    rng.shuffle(order)
    test = set(order[:NUM_TEST_FACTS])
    return tuple(_make(rng, index, *triple, is_test=index in test) for index, triple in enumerate(triples))


def _make(
    rng: random.Random, index: int, subject: str, entity: str, attribute: Attribute, *, is_test: bool
) -> LoreFact:
    value, *mistakes = rng.sample(attribute.values, 1 + rng.choice(NUM_FALSE))
    return LoreFact(
        index=index,
        subject=subject,
        entity=entity,
        attribute=attribute,
        value=value,
        mistakes=tuple(mistakes),
        mistake_rate=rng.choice(MISTAKE_RATES),
        popularity=rng.choice(POPULARITIES),
        held_out=rng.randrange(NUM_WORDINGS),
        is_test=is_test,
        is_in_exams=rng.random() < EXAM_SHARE,
    )


def pretraining_wording(fact: LoreFact, rng: random.Random) -> int:
    """A question wording that pretraining may use for this fact."""
    return rng.choice([wording for wording in range(NUM_WORDINGS) if wording != fact.held_out])
