"""Sequence-level distillation: teacher states, teacher tokens, cross-entropy. Source: arXiv:1606.07947."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Combination, Composition, Method
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.recipes.recipe import Need, Parts, taught
from stateshape.signals.gold import TeacherTokens
from stateshape.states.sampled import TeacherStates


@dataclass(frozen=True, kw_only=True, slots=True)
class SeqKD:
    """Offline distillation by imitation: the learner imitates what a frozen teacher writes by itself."""

    compositions: ClassVar = (Composition(states="teacher", signal="teacher tokens", loss="cross-entropy"),)
    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "arXiv:1606.07947"

    teacher: str
    """Teacher: a run folder, an adapter folder, or a model that shares the vocabulary. Frozen."""
    max_new_tokens: int = 128
    """Longest response of the teacher, in tokens."""
    samples: int = 1
    """Teacher responses a prompt."""
    teacher_temperature: float = 1.0
    """Temperature of the teacher's responses; 0 is greedy."""

    def build(self, parts: Parts) -> Method | Combination:
        settings = parts.sampling(self.max_new_tokens, temperature=self.teacher_temperature, samples=self.samples)
        return taught(
            parts,
            self.teacher,
            lambda teacher: Method(
                states=TeacherStates(items=parts.items, sampler=parts.sampler, settings=settings, teacher=teacher),
                signal=TeacherTokens(),
                loss=CrossEntropy(),
            ),
        )
