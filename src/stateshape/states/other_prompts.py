"""States from other prompts than the run's own, a few in each step: what a frozen policy writes there.

Which prompts a step takes depends on the run's seed and the step alone. Knows nothing of where the prompts come from.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Draw, StateKind
from stateshape.core.seeds import seed_for
from stateshape.core.states import States
from stateshape.policy.policy import Policy
from stateshape.states.sampled import TeacherStates


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherPrompts:
    """`num_prompts` of the source's items, chosen anew in each step, none twice in one; the step's own prompts are not used."""

    source: TeacherStates
    num_prompts: int
    kind: ClassVar[StateKind] = "teacher"

    def draw(self, learner: Policy, draw: Draw) -> States:
        return self.source.draw(learner, self.own(draw))

    def steps_ahead(self, num_prompts: int) -> int:
        """See DrawnAhead. The step's prompts are others."""
        return self.source.steps_ahead(self.num_prompts)

    def draw_several(self, learner: Policy, draws: Sequence[Draw]) -> list[States]:
        return self.source.draw_several(learner, [self.own(draw) for draw in draws])

    def own(self, draw: Draw) -> Draw:
        """The draw of this source's prompts in the same step."""
        seed = seed_for(draw.seed, "other prompts")
        names = list(self.source.items)
        rng = random.Random(seed_for(seed, "which", draw.step))
        taken = rng.sample(names, min(self.num_prompts, len(names)))
        return draw._replace(item_ids=tuple(taken), seed=seed)
