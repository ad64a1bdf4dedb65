"""Teacher continuation: a frozen teacher writes on from the learner's state; its tokens are the target.

The teacher's ids are spliced behind the learner's ids. A continuation that ran out of tokens gets no end token. The
prefix itself is never a target. Source: arXiv:2605.22731 section 2.5; DAgger, Ross et al. 2011.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Draw, SignalKind
from stateshape.core.seeds import seed_for
from stateshape.core.signals import Imitate
from stateshape.core.states import Origin, States, pack
from stateshape.policy.policy import Policy
from stateshape.sampling.settings import Sampler, SamplingSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherContinuation:
    teacher: Policy
    sampler: Sampler
    settings: SamplingSettings
    kind: ClassVar[SignalKind] = "teacher continuation"

    def read(self, learner: Policy, states: States, draw: Draw) -> Imitate:
        rows = states.trajectories()
        written = self.sampler.sample(
            self.teacher, [row.ids for row in rows], self.settings, seed=seed_for(draw.seed, "continuation", draw.step)
        )
        extended = [
            row.extended(part.ids, Origin.TEACHER, logps=part.logps, finish=part.finish)
            for row, part in zip(rows, written, strict=True)
        ]
        joined = pack(extended, device=learner.device)
        return Imitate(states=joined, supervise_BT=joined.written_by(Origin.TEACHER))
