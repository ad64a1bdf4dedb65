"""How often, and on what, a run is evaluated while it trains. Loads nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from stateshape.core.files import BadInput
from stateshape.core.limits import check_most
from stateshape.core.wording import shown


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalSettings:
    """Evaluations of a run while it trains: before the first step, every so many steps, and after the last."""

    every: float | None = None
    """Steps from one evaluation to the next; below 1, a share of the run: 0.1 gives ten. Default: none while it trains."""
    tasks: list[str] = field(default_factory=list)
    """Tasks, by name. Default: the run's own."""
    limit: int = 64
    """Items of each task: the first, of an exam some of each subject. The same at every evaluation."""
    positions: int = 512
    """Token states of the base's rollouts on which the distance from the base is measured, at most; 0: no distance."""
    best: str | None = None
    """Keep the adapter of the evaluation with the highest score in this task, the earliest of equals: checkpoint-<step>/."""

    def __post_init__(self) -> None:
        if self.every is not None and not 0 < self.every < math.inf:
            raise BadInput(f"eval.every: got {self.every}; expected steps, such as 50, or a share below 1, such as 0.1")
        if self.every is not None and self.every > 1 and self.every != int(self.every):
            raise BadInput(
                f"eval.every: got {self.every}; expected whole steps, or a share below 1; write {int(self.every)}"
            )
        if self.limit < 1:
            raise BadInput(f"eval.limit: got {self.limit}; expected 1 or more")
        if self.positions < 0:
            raise BadInput(f"eval.positions: got {self.positions}; expected 0 or more")
        check_most("eval.", every=self.every, limit=self.limit, positions=self.positions)
        if twice := [name for name in self.tasks if self.tasks.count(name) > 1]:
            raise BadInput(f"eval.tasks: got {shown(twice[0])} twice; expected each task once")
        if self.every is None and (self.tasks or self.best is not None):
            raise BadInput(
                f"eval.every: got none beside {'tasks' if self.tasks else 'best'}; expected how often, such as every: 50"
            )

    def steps(self, num_steps: int) -> list[int]:
        """Numbers of completed steps at which the run is evaluated, in order; 0 and the last are among them."""
        if self.every is None:
            return []
        every = max(1, round(self.every * num_steps) if self.every < 1 else int(self.every))
        return sorted({*range(0, num_steps, every), num_steps})
