"""On-policy distillation by next-token KL: learner states, teacher distribution, divergence. Source: eq. 7."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Composition, Method
from stateshape.losses.divergence import Direction, Divergence
from stateshape.recipes.recipe import Parts
from stateshape.sampling.settings import SamplingSettings
from stateshape.signals.distribution import Positions, TeacherDistribution
from stateshape.states.cuts import OneState
from stateshape.states.rollouts import Rollouts


@dataclass(frozen=True, kw_only=True, slots=True)
class OPDOneStep:
    """On-policy distillation, one step: the teacher's next-token distribution at the learner's states."""

    composition: ClassVar[Composition] = Composition(states="learner", signal="teacher distribution", loss="divergence")
    source: ClassVar[str] = "arXiv:2605.22731 eq. 7"

    teacher: str
    """Teacher: a run folder, an adapter folder, or a model that shares the vocabulary. Frozen."""
    direction: Direction = "forward"
    """forward: KL(teacher || learner), the paper's; reverse: KL(learner || teacher)."""
    positions: Positions = "last"
    """last: one state a rollout, at a random depth; all: every state along the rollout."""
    rollout_tokens: int = 128
    """Longest learner rollout, in tokens."""
    samples: int = 1
    """Rollouts a prompt."""
    temperature: float = 1.0
    """Temperature of the learner's rollouts."""

    def build(self, parts: Parts) -> Method:
        return Method(
            states=Rollouts(
                items={item.item_id: item for item in parts.task.train},
                sampler=parts.sampler,
                settings=SamplingSettings(
                    max_new_tokens=self.rollout_tokens,
                    temperature=self.temperature,
                    num_samples=self.samples,
                    stops=parts.task.stops,
                ),
                cut=OneState() if self.positions == "last" else None,
            ),
            signal=TeacherDistribution(teacher=parts.teacher(self.teacher), positions=self.positions),
            loss=Divergence(direction=self.direction),
        )
