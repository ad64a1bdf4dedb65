"""Self-continuation: learner prefixes that the learner, or the untrained base, continues. A control without a teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from stateshape.core.method import Composition, Method
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.recipes.recipe import LearnerRollouts, Need, Parts, TokenBudget
from stateshape.signals.continuation import OwnContinuation
from stateshape.states.cuts import Cut


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfContinuation(LearnerRollouts):
    """Control for on-policy distillation: the learner imitates its own or the base's continuation of its prefix."""

    compositions: ClassVar = (Composition(states="learner", signal="own continuation", loss="cross-entropy"),)
    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "control of arXiv:2605.22731 section 2.5"

    writer: Literal["learner", "base"] = "learner"
    """Who continues: the current learner, or the untrained base."""
    cut: Cut = field(default_factory=Cut)
    """Where in the learner's rollout the continuation begins."""
    keep: Literal["all", "correct"] = "all"
    """Which continuations to imitate: all, or those whose complete response has the right answer."""
    max_new_tokens: int = 128
    """Longest continuation, in tokens."""

    def tokens_per_prompt(self) -> TokenBudget:
        continued = self.samples * self.max_new_tokens
        return TokenBudget(supervised=continued, sampled=self.samples * self.rollout_tokens + continued)

    def build(self, parts: Parts) -> Method:
        return Method(
            states=self.rollouts(parts, cut=self.cut),
            signal=OwnContinuation(
                writer=self.writer,
                sampler=parts.sampler,
                settings=parts.sampling(self.max_new_tokens, temperature=self.temperature),
                accept=parts.is_right if self.keep == "correct" else None,
            ),
            loss=CrossEntropy(),
        )
