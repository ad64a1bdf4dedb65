"""Questions with popular misconceptions, in TruthfulQA's shape (arXiv:2109.07958).

The best true answer and all false ones share one wording, so that their summed log-probs differ by the value alone.
Knows nothing of prompts or scoring. Each question's wording is held out of pretraining for its fact.
"""

from __future__ import annotations

from typing import Literal

from stateshape.embedded.lore import LoreFact, lore
from stateshape.embedded.records import Fact

FactSplit = Literal["validation", "test"]


def facts(split: FactSplit, num: int) -> tuple[Fact, ...]:
    """The first `num` questions of a split, subjects mixed. ValueError if there are fewer."""
    chosen = [fact for fact in _mixed() if fact.is_test == (split == "test")]
    if split not in ("validation", "test") or num > len(chosen):
        raise ValueError(f"facts: got split {split!r}, num {num}; expected validation (<= 160) or test (<= 640)")
    return tuple(_question(fact, split) for fact in chosen[:num])


def _mixed() -> list[LoreFact]:
    """Facts ordered so that neighbours are of different subjects and entities (stride coprime to their number)."""
    all_facts, stride = lore(), 301
    return [all_facts[(position * stride) % len(all_facts)] for position in range(len(all_facts))]


def _question(fact: LoreFact, split: str) -> Fact:
    best, *others = ((fact.held_out + shift) % 3 for shift in range(3))
    return Fact(
        item_id=f"facts-{split}-{fact.index}",
        subject=fact.subject,
        question=fact.question(fact.held_out),
        true_answers=tuple(fact.statement(fact.value, wording) for wording in (best, *others)),
        false_answers=tuple(fact.statement(value, best) for value in fact.mistakes),
    )
