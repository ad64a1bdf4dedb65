"""Notes on oddities in a user's own data that do not prevent its use: one sentence each, with a count and the first case.

Knows rows and items; knows nothing of files or models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from stateshape.core.files import BadInput
from stateshape.tasks.items import ChoiceItem, GenerationItem, Grade
from stateshape.tasks.own_rows import shown


class Read(NamedTuple):
    """An item, its split and its place (file:line)."""

    where: str
    split: str
    item: GenerationItem

    @property
    def line(self) -> str:
        return line_of(self.where)


def line_of(where: str) -> str:
    place = where.rpartition(":")[2]
    return place if place.startswith("row") else f"line {place}"


def generation_notes(rows: Sequence[Read], grade: Callable[[str, GenerationItem], Grade] | None) -> list[str]:
    """grade None: a grader that is not asked here, since it is the user's own code."""
    notes = [
        "" if grade is None else _wrong_solutions(rows, grade),
        _equal_pairs(rows),
        _shared_prompts(rows),
        _twofold_prompts(rows),
        _returns(rows),
    ]
    return [note for note in notes if note]


def _wrong_solutions(rows: Sequence[Read], grade: Callable[[str, GenerationItem], Grade]) -> str:
    """Solutions that the task's own grader marks wrong: training on them teaches answers that are not rewarded."""
    solved = [row for row in rows if row.item.completion is not None and row.item.gold is not None]
    read = [(row, grade(row.item.completion or "", row.item)) for row in solved]
    wrong = [(row, one) for row, one in read if not one.is_correct]
    if not wrong:
        return ""
    row, one = wrong[0]
    return (
        f"solution: {len(wrong)} of {len(solved)} are graded wrong by this task's own grader ({row.line} is the first: it "
        f"reads {shown(one.prediction)}, the answer is {shown(row.item.gold)}); fix them, or drop these rows"
    )


def _equal_pairs(rows: Sequence[Read]) -> str:
    pairs = [row for row in rows if row.item.rejected is not None]
    equal = [row for row in pairs if row.item.rejected == row.item.preferred]
    if not equal:
        return ""
    return (
        f"rejected: {len(equal)} of {len(pairs)} are the same text as their solution ({equal[0].line} is the first), which "
        "cannot teach a preference"
    )


def _shared_prompts(rows: Sequence[Read]) -> str:
    trained = {row.item.prompt for row in rows if row.split == "train" and row.item.prompt}
    test = [row for row in rows if row.split == "test"]
    shared = [row for row in test if row.item.prompt in trained]
    if not shared:
        return ""
    return (
        f"prompt: {len(shared)} of {len(test)} test prompts are also training prompts ({shared[0].line} is the first); "
        "a score on them is not a score on unseen problems"
    )


def _twofold_prompts(rows: Sequence[Read]) -> str:
    golds: dict[str, str | None] = {}
    odd = [
        row
        for row in rows
        if row.item.gold is not None and golds.setdefault(row.item.prompt, row.item.gold) != row.item.gold
    ]
    if not odd:
        return ""
    return (
        f"answer: {len(odd)} of {len(rows)} rows repeat the prompt of an earlier row with a different answer "
        f"({odd[0].line} is the first); at most one of the two is right"
    )


def _returns(rows: Sequence[Read]) -> str:
    """Windows line ends inside texts: a model reads and learns them."""
    odd = [row for row in rows if "\r" in row.item.prompt + (row.item.completion or "") + (row.item.rejected or "")]
    if not odd:
        return ""
    return (
        f"prompt: {len(odd)} of {len(rows)} rows contain Windows line ends (\\r\\n), which are kept ({odd[0].line} is the "
        "first); write \\n if the model should not read them"
    )


def choice_notes(items: Sequence[tuple[str, ChoiceItem]]) -> list[str]:
    """items: each with its place."""
    beaten = [(where, item, pair) for where, item in items if (pair := _always_beaten(item))]
    if not beaten:
        return []
    where, _, (right, wrong) = beaten[0]
    return [
        f"options: {len(beaten)} of {len(items)} right options begin with a wrong one ({line_of(where)} is the first: "
        f"{shown(right)} and {shown(wrong)}); summed log-probs favour the shorter of the two; reword them"
    ]


def _always_beaten(item: ChoiceItem) -> tuple[str, str] | None:
    """The first right option and a wrong option it begins with, if every right option begins with a wrong one."""
    right = [option for option, is_true in zip(item.options, item.is_true) if is_true]
    wrong = [option for option, is_true in zip(item.options, item.is_true) if not is_true]
    beaten = [next(((r, w) for w in wrong if r.startswith(w)), None) for r in right]
    return beaten[0] if all(beaten) else None


def check_ids(placed_ids: Sequence[tuple[str, str]]) -> None:
    """placed_ids: where, id. Raises BadInput if two are the same."""
    place_of: dict[str, str] = {}
    for where, item_id in placed_ids:
        if item_id in place_of:
            raise BadInput(
                f"{where}: id: got {shown(item_id)} twice (also {place_of[item_id]}); expected each once, since rows are "
                "paired by it; rename one"
            )
        place_of[item_id] = where
