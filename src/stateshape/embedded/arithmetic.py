"""Worded arithmetic problems in four disjoint splits, by index from a seed.

A problem's split is decided by a checksum of its tuple of numbers, so no tuple of numbers (and so no question) is in
two splits. "pretrain" feeds the base alone; "train" is fresh for post-training. Knows nothing of prompts or models.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Literal

from stateshape.embedded import stories_money, stories_things
from stateshape.embedded.draft import Draft
from stateshape.embedded.records import ArithmeticProblem

ArithmeticSplit = Literal["pretrain", "train", "validation", "test"]
STORIES = stories_money.STORIES + stories_things.STORIES
NUM_BUCKETS = 20
# Buckets of the numbers' checksum, first to past-the-last.
SPLIT_BUCKETS: dict[str, tuple[int, int]] = {
    "pretrain": (0, 10),
    "train": (10, 14),
    "validation": (14, 17),
    "test": (17, 20),
}
MIN_STEPS, MAX_STEPS = 2, 5


def bucket_of(numbers: tuple[int, ...]) -> int:
    """The bucket of a tuple of numbers; the same on every platform and Python version."""
    return zlib.crc32(",".join(map(str, numbers)).encode()) % NUM_BUCKETS


def split_of(numbers: tuple[int, ...]) -> str:
    """The one split that problems with these numbers belong to."""
    bucket = bucket_of(numbers)
    return next(name for name, (low, high) in SPLIT_BUCKETS.items() if low <= bucket < high)


def arithmetic_stream(split: ArithmeticSplit, *, seed: int = 0) -> Iterator[ArithmeticProblem]:
    """Endless problems of one split, each question once."""
    if split not in SPLIT_BUCKETS:
        raise ValueError(f"split: got {split!r}; expected one of {', '.join(SPLIT_BUCKETS)}")
    rng = random.Random(f"stateshape-arithmetic:{split}:{seed}")
    low, high = SPLIT_BUCKETS[split]
    seen: set[str] = set()
    while True:
        draft = Draft(rng)
        story = rng.choice(STORIES)
        story(draft)
        if not low <= bucket_of(tuple(draft.numbers)) < high or not MIN_STEPS <= len(draft.equations) <= MAX_STEPS:
            continue
        question = " ".join(draft.sentences)
        if question in seen:
            continue
        seen.add(question)
        yield _freeze(draft, question, item_id=f"arithmetic-{split}-{seed}-{len(seen) - 1}", story=story.__name__)


def _freeze(draft: Draft, question: str, *, item_id: str, story: str) -> ArithmeticProblem:
    return ArithmeticProblem(
        item_id=item_id,
        question=question,
        solution=" ".join(equation.sentence() for equation in draft.equations),
        answer=str(draft.equations[-1].result),
        num_steps=len(draft.equations),
        story=story,
        numbers=tuple(draft.numbers),
        equations=tuple(draft.equations),
    )


def arithmetic(split: ArithmeticSplit, num: int, *, seed: int = 0) -> tuple[ArithmeticProblem, ...]:
    """The first `num` problems of a split; a longer call starts with a shorter call's problems."""
    return tuple(islice(arithmetic_stream(split, seed=seed), num))
