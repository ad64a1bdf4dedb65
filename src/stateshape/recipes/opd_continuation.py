"""On-policy distillation by teacher continuation: learner prefixes, teacher text, cross-entropy.

Source: arXiv:2605.22731 section 2.5; the strongest published relative is OLIVE, arXiv:2609.36246.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from stateshape.core.method import Composition, Method
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.recipes.recipe import Parts
from stateshape.sampling.settings import SamplingSettings
from stateshape.signals.continuation import TeacherContinuation
from stateshape.states.cuts import UniformCut
from stateshape.states.rollouts import Rollouts


@dataclass(frozen=True, kw_only=True, slots=True)
class OPDContinuation:
    """On-policy distillation: the learner writes a prefix, a frozen teacher continues it, the learner imitates."""

    composition: ClassVar[Composition] = Composition(
        states="learner", signal="teacher continuation", loss="cross-entropy"
    )
    source: ClassVar[str] = "arXiv:2605.22731 section 2.5"

    teacher: str
    """Teacher: a run folder, an adapter folder, or a model that shares the vocabulary. Frozen."""
    cut: UniformCut = field(default_factory=UniformCut)
    """Where in the learner's rollout the teacher takes over."""
    max_new_tokens: int = 128
    """Longest continuation, in tokens."""
    rollout_tokens: int = 128
    """Longest learner rollout before it is cut, in tokens."""
    samples: int = 1
    """Learner prefixes a prompt."""
    temperature: float = 1.0
    """Temperature of the learner's rollouts."""
    teacher_temperature: float = 1.0
    """Temperature of the teacher's continuations; 0 is greedy."""

    def build(self, parts: Parts) -> Method:
        stops = parts.task.stops
        return Method(
            states=Rollouts(
                items={item.item_id: item for item in parts.task.train},
                sampler=parts.sampler,
                settings=SamplingSettings(
                    max_new_tokens=self.rollout_tokens,
                    temperature=self.temperature,
                    num_samples=self.samples,
                    stops=stops,
                ),
                cut=self.cut,
            ),
            signal=TeacherContinuation(
                teacher=parts.teacher(self.teacher),
                sampler=parts.sampler,
                settings=SamplingSettings(
                    max_new_tokens=self.max_new_tokens, temperature=self.teacher_temperature, stops=stops
                ),
            ),
            loss=CrossEntropy(),
        )
