"""Reward filter: answers that were good enough are imitated, the others give no signal. Rejection sampling, expert iteration.

Source: STaR, arXiv:2203.14465; RAFT, arXiv:2304.06767.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Draw, SignalKind
from stateshape.core.signals import Imitate
from stateshape.core.states import Origin, States
from stateshape.policy.policy import Policy
from stateshape.signals.reward import Reward, rewards_of


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardFilter:
    """Tokens that learner or teacher wrote, in rows whose reward is at least `threshold`. A missing reward is not enough.

    reward None: no filter; the learner imitates all it wrote, the control for what filtering does.
    """

    reward: Reward | None
    threshold: float = 1.0
    kind: ClassVar[SignalKind] = "reward filter"

    def read(self, learner: Policy, states: States, draw: Draw) -> Imitate:
        supervise_BT = states.written_by(Origin.LEARNER, Origin.TEACHER)
        if self.reward is None:
            return Imitate(states=states, supervise_BT=supervise_BT)
        reward_B, logged = rewards_of(self.reward, learner, states)
        is_good_B = reward_B >= self.threshold  # NaN isn't
        return Imitate(states=states, supervise_BT=supervise_BT & is_good_B[:, None], logged=logged)
