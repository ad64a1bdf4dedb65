"""On-policy distillation by teacher continuation: learner prefixes, teacher text, cross-entropy.

Source: arXiv:2605.22731 section 2.5; the strongest published relative is OLIVE, arXiv:2609.36246.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from stateshape.core.method import Combination, Composition, Method
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.recipes.recipe import LearnerRollouts, Need, Parts, Taught, TeacherText, TokenBudget, taught
from stateshape.signals.continuation import TeacherContinuation
from stateshape.states.cuts import Cut
from stateshape.states.sampled import Prefixes


@dataclass(frozen=True, kw_only=True, slots=True)
class OPDContinuation(LearnerRollouts, Taught, TeacherText):
    """On-policy distillation: the learner writes a prefix, a frozen teacher continues it, the learner imitates."""

    compositions: ClassVar = (Composition(states="learner", signal="teacher continuation", loss="cross-entropy"),)
    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "arXiv:2605.22731 section 2.5"

    cut: Cut = field(default_factory=Cut)
    """Where in the learner's rollout the teacher takes over."""
    prefixes: Prefixes = "refreshed"
    """Who writes the prefixes. refreshed: the current learner; frozen: the untrained learner; shuffled: the current learner,
    each prefix moved to another prompt."""
    keep: Literal["all", "correct"] = "all"
    """Which continuations to imitate: all, or those whose complete response has the right answer."""

    def tokens_per_prompt(self) -> TokenBudget:
        continued = self.samples * self.max_new_tokens
        return TokenBudget(supervised=continued, sampled=self.samples * self.rollout_tokens + continued)

    def build(self, parts: Parts) -> Method | Combination:
        states = self.rollouts(parts, cut=self.cut, prefixes=self.prefixes)
        settings = self.teacher_sampling(parts)
        accept = parts.is_right if self.keep == "correct" else None
        return taught(
            parts,
            self.teacher,
            lambda teacher: Method(
                states=states,
                signal=TeacherContinuation(
                    teacher=teacher, sampler=parts.sampler, settings=settings, accept=accept, items=parts.items
                ),
                loss=CrossEntropy(),
            ),
        )
