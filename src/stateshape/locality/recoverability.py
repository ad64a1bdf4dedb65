"""Can a right answer still be reached from a training state? Shares of graded continuations by depth of the state.

DAgger's u bounds what a mistake costs an expert afterwards; here it is the teacher's score from the prompt alone minus its
share correct from a state (Ross et al. 2011, theorem 2.2). Grades texts; knows no sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from stateshape.core.signals import Imitate, Signal
from stateshape.core.states import Origin, Trajectory

QUARTERS = 4
Grader = Callable[[str, str], bool | None]
"""(item id, response text) -> right or wrong, or None where it can't be told."""


class Graded(NamedTuple):
    fraction: float  # of the response that stood before the continuation, 0 to 1
    is_correct: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class GradeCounts:
    """Graded continuations by quarter of the prefix fraction, shallow first."""

    num: list[int] = field(default_factory=lambda: [0] * QUARTERS)
    num_correct: list[int] = field(default_factory=lambda: [0] * QUARTERS)

    def plus(self, other: GradeCounts) -> GradeCounts:
        return GradeCounts(
            num=[a + b for a, b in zip(self.num, other.num)],
            num_correct=[a + b for a, b in zip(self.num_correct, other.num_correct)],
        )

    @property
    def share(self) -> float | None:
        return sum(self.num_correct) / sum(self.num) if sum(self.num) else None

    @property
    def by_quarter(self) -> list[float | None]:
        return [right / num if num else None for right, num in zip(self.num_correct, self.num)]


def count_grades(graded: Iterable[Graded]) -> GradeCounts:
    counts = GradeCounts()
    for fraction, is_correct in graded:
        quarter = min(int(QUARTERS * fraction), QUARTERS - 1)
        counts.num[quarter] += 1
        counts.num_correct[quarter] += is_correct
    return counts


def taken_over_at(row: Trajectory) -> int | None:
    """Where the teacher's last run of tokens begins, if the row ends with one; it may begin right after the prompt."""
    start = len(row.ids)
    while start and row.origins[start - 1] == Origin.TEACHER:
        start -= 1
    return start if start < len(row.ids) else None


def prefix_fraction(row: Trajectory, at: int) -> float:
    """Share of the row's response before token `at`."""
    return (at - row.prompt_length) / (len(row.ids) - row.prompt_length)


def graded_teacher(signal: Signal, decode: Callable[[list[int]], str], grader: Grader) -> list[Graded]:
    """The teacher's own continuations, where they are what is imitated; prefix and continuation graded as one response."""
    graded: list[Graded] = []
    if not isinstance(signal, Imitate):
        return graded
    for row in signal.states.trajectories():
        at = taken_over_at(row)
        verdict = None if at is None else grader(row.item_id, decode(row.response))
        if at is not None and verdict is not None:
            graded.append(Graded(prefix_fraction(row, at), verdict))
    return graded
