"""On-policy distillation by next-token divergence: learner states, teacher distribution. Source: eq. 7; arXiv:2306.13649."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from stateshape.core.files import LATER, BadInput
from stateshape.core.method import Combination, Composition, Method, SignalSource
from stateshape.policy.policy import Policy
from stateshape.recipes.recipe import (
    Diverging,
    LearnerRollouts,
    Need,
    Parts,
    Taught,
    TokenBudget,
    taught_by,
    teachers_of,
)
from stateshape.sampling.served.teacher import is_address
from stateshape.signals.distribution import Positions, TeacherDistribution
from stateshape.signals.top import TeacherTop
from stateshape.states.cuts import OneState

DEFAULT_TOP = 20  # vLLM's own --max-logprobs
MOST_TOP = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class OPD(LearnerRollouts, Taught, Diverging):
    """On-policy distillation: the teacher's next-token distributions at the learner's states."""

    compositions: ClassVar = (Composition(states="learner", signal="teacher distribution", loss="divergence"),)
    needs: ClassVar[tuple[Need, ...]] = ()
    source: ClassVar[str] = "arXiv:2605.22731 eq. 7; arXiv:2306.13649"

    positions: Positions = "all"
    """all: every state along the rollout; last: one state per rollout, at a random depth (the paper's one-step OPD)."""

    top_k: int | None = field(default=None, metadata=LATER)
    """Of a teacher on a vLLM server, named by its address: the likeliest tokens of each state that it tells. Default: 20."""

    def __post_init__(self) -> None:
        LearnerRollouts.__post_init__(self)
        Diverging.__post_init__(self)
        served = [source for source in teachers_of(self.teacher).values() if is_address(source)]
        if self.top_k is not None and not served:
            raise BadInput(
                f"top_k: got {self.top_k} with teacher {self.teacher!r}; expected none, all tokens are read; leave it out, "
                "or name a vLLM server's address"
            )
        if self.top_k is not None and not 0 < self.top_k <= MOST_TOP:
            raise BadInput(f"top_k: got {self.top_k}; expected 1 to {MOST_TOP}")
        if served and self.target_temperature != 1:
            raise BadInput(
                f"target_temperature: got {self.target_temperature} with a teacher on a server; expected 1, at which it "
                "tells log-probs; leave it out"
            )

    def tokens_per_prompt(self) -> TokenBudget:
        written = LearnerRollouts.tokens_per_prompt(self)
        return written._replace(supervised=self.samples) if self.positions == "last" else written

    def build(self, parts: Parts) -> Method | Combination:
        states = self.rollouts(parts, cut=OneState() if self.positions == "last" else None)
        loss = self.divergence()

        def by(source: str) -> Method:
            signal: SignalSource[Policy]
            if is_address(source):
                signal = TeacherTop(teacher=parts.asked(source, self.top_k or DEFAULT_TOP), positions=self.positions)
            else:
                signal = TeacherDistribution(teacher=parts.teacher(source), positions=self.positions, items=parts.items)
            return Method(states=states, signal=signal, loss=loss)

        return taught_by(parts, self.teacher, by)
