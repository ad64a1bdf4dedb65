"""What a gate finds: whether a teacher and its states differ enough for a comparison of state sources. Torch-free.

A missing number is None, never zero. Does not know how any number is measured (study/gate.py).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceStates:
    """States of one source, as the untrained base sees them. The source "learner" is the base itself: the control."""

    reachability_gap_nats: float | None  # nats per token of the prefixes, minus that of the base's own
    c2st_auc: float | None
    num_prompts: int


@dataclass(frozen=True, kw_only=True, slots=True)
class GateCheck:
    """One condition. It holds where `value` is at least `least`; a missing value does not."""

    name: str
    value: float | None
    least: float
    stderr: float | None = None  # over items; None: not estimated

    @property
    def holds(self) -> bool:
        return self.value is not None and self.value >= self.least


@dataclass(frozen=True, kw_only=True, slots=True)
class GateRecord:
    """scores: by policy ("base", "teacher") and task. right: share of right answers from the same learner prefixes."""

    teacher: str
    model: str
    task: str
    data: str | None
    seed: int
    num_items: dict[str, int]  # by task
    scores: dict[str, dict[str, float]]
    states: dict[str, SourceStates]
    right: dict[str, float]
    checks: list[GateCheck]

    @property
    def holds(self) -> bool:
        return all(check.holds for check in self.checks)
