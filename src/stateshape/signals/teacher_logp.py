"""Teacher log-prob: how much likelier a frozen teacher finds each of the learner's own tokens, as credit.

    A_t = log p_teacher(y_t | s_t) - log p_behaviour(y_t | s_t)

Over tokens that the learner wrote its mean at a state is -KL(learner || teacher) there, and a policy gradient with it follows
that KL's own gradient: on-policy distillation from one number per token. Source: Thinking Machines, "On-policy distillation",
2025.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from stateshape.core.method import Draw, SignalKind
from stateshape.core.signals import Credit
from stateshape.core.states import Origin, States
from stateshape.core.tensors import row_sums, spread
from stateshape.policy.policy import Policy
from stateshape.signals.reference import score
from stateshape.signals.rendering import Items


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherLogProb:
    """`reward_B`: each row's sum of log ratios, in nats.

    temperature: that of the rollouts, at which both are scored. centre: the batch's mean is taken off every advantage, which
    leaves the expected gradient what it is, up to 1 / the number of tokens, and may lower its variance.
    """

    teacher: Policy
    temperature: float = 1.0
    centre: bool = False
    items: Items | None = None  # of chats, which the teacher reads in its own template
    kind: ClassVar[SignalKind] = "teacher log-prob"

    @torch.no_grad()
    def read(self, learner: Policy, states: States, draw: Draw) -> Credit:
        supervise_BT = states.written_by(Origin.LEARNER)
        scored = score(
            self.teacher, states, supervise_BT, temperature=self.temperature, learner=learner, items=self.items
        )
        advantage_N = scored.logp_N - states.behaviour_logp_BT[supervise_BT]
        reward_B = row_sums(advantage_N, supervise_BT)
        if self.centre and len(advantage_N):
            advantage_N = advantage_N - advantage_N.mean()
        return Credit(
            states=states, supervise_BT=supervise_BT, advantage_BT=spread(advantage_N, supervise_BT), reward_B=reward_B
        )
