"""Distillation on teacher rollouts: teacher states, teacher distribution, divergence. Source: arXiv:1503.02531."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Combination, Composition, Method
from stateshape.losses.divergence import Direction, Divergence
from stateshape.policy.policy import Policy
from stateshape.recipes.recipe import Need, Parts, taught
from stateshape.signals.distribution import TeacherDistribution
from stateshape.states.sampled import TeacherStates


@dataclass(frozen=True, kw_only=True, slots=True)
class KDOnTeacher:
    """Offline distillation where the teacher goes: its next-token distributions along what it writes by itself."""

    compositions: ClassVar = (Composition(states="teacher", signal="teacher distribution", loss="divergence"),)
    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "arXiv:1503.02531, on the teacher's own text"

    teacher: str
    """Teacher: a run folder, an adapter folder, or a model that shares the vocabulary. Frozen."""
    direction: Direction = "forward"
    """forward: KL(teacher || learner); reverse: KL(learner || teacher); jsd: between the two, see beta."""
    beta: float = 0.5
    """Where the generalised Jensen-Shannon divergence stands: 0 is forward, 1 is reverse."""
    max_new_tokens: int = 128
    """Longest response of the teacher, in tokens."""
    samples: int = 1
    """Teacher responses a prompt."""
    teacher_temperature: float = 1.0
    """Temperature of the teacher's responses; 0 is greedy."""

    def build(self, parts: Parts) -> Method | Combination:
        settings = parts.sampling(self.max_new_tokens, temperature=self.teacher_temperature, samples=self.samples)
        loss = Divergence(direction=self.direction, beta=self.beta)

        def under(teacher: Policy) -> Method:
            return Method(
                states=TeacherStates(items=parts.items, sampler=parts.sampler, settings=settings, teacher=teacher),
                signal=TeacherDistribution(teacher=teacher, positions="all"),
                loss=loss,
            )

        return taught(parts, self.teacher, under)
