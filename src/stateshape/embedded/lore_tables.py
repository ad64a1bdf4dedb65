"""The record types of the invented world's lore, and the names in it.

Knows nothing of facts' truth, splits or prompts; `lore_nature.py` and `lore_people.py` fill the tables.
"""

from __future__ import annotations

from dataclasses import dataclass

NUM_WORDINGS = 3  # statements and questions per attribute
_HEADS = (
    "gro", "vel", "tar", "mo", "quin", "bra", "zu", "fen", "ka", "dor", "il", "pes", "ru", "sha", "wen", "yo", "lum",
    "cri", "hob", "nar",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """One property: its possible values, and wordings with {e} (the entity) and {v} (the value)."""

    key: str
    values: tuple[str, ...]
    statements: tuple[str, str, str]
    questions: tuple[str, str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """One exam subject: what its entities are called, and their attributes."""

    name: str
    entities: tuple[str, ...]
    attributes: tuple[Attribute, ...]


def invented_names(tails: tuple[str, ...], *, article: bool) -> tuple[str, ...]:
    """Twenty names, each head once, tails in turn; "the grommel" with an article, "Velmora" without."""
    bare = [head + tails[index % len(tails)] for index, head in enumerate(_HEADS)]
    return tuple(f"the {name}" if article else name.capitalize() for name in bare)


def split_words(words: str) -> tuple[str, ...]:
    return tuple(words.split())
