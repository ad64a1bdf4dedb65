"""The model itself as its own teacher, once it has been shown a demonstration: a distribution at the learner's states.

The teacher is a slow copy of the learner: after every step theta_ema <- rate * theta + (1 - rate) * theta_ema; with rate 0 it
stays the untrained learner, with 1 it is the learner itself. It reads a longer prompt, which holds the worked solution, and
then the learner's response; the learner reads its own prompt alone.
Source: self-distillation fine-tuning, arXiv:2601.19897. Differs: the prompt's wording is the task's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from stateshape.core.chat import Chat
from stateshape.core.dealt import DealtRows
from stateshape.core.method import Draw, SignalKind
from stateshape.core.signals import MatchDistribution
from stateshape.core.states import Origin, States
from stateshape.policy.policy import Policy
from stateshape.signals.reference import no_states
from stateshape.tasks.items import GenerationItem

ADAPTER = "ema"


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstrated:
    """`template`: the teacher's prompt, made of {prompt} and {solution}."""

    items: Mapping[str, GenerationItem]
    rate: float
    template: str
    kind: ClassVar[SignalKind] = "teacher distribution"
    carries: ClassVar[tuple[str, ...]] = (ADAPTER,)

    def read(self, learner: Policy, states: States, draw: Draw) -> MatchDistribution:
        teacher = self.slow_copy(learner)
        supervise_BT = states.written_by(Origin.LEARNER)
        dealt = DealtRows(states, supervise_BT)
        written, marks_BT = states.trajectories(), supervise_BT.tolist()
        rows, places = [], []
        for row, marks in ((written[b], marks_BT[b]) for b in dealt.rows):
            item = self.items[row.item_id]
            prompt, response = learner.encode_prompt(self.shown(item)), row.response
            shift = len(prompt) - row.prompt_length
            rows.append([*prompt, *response])
            places.append([t + shift - 1 for t, is_supervised in enumerate(marks) if is_supervised])
        speaking = [row for row, at in zip(rows, places, strict=True) if at]
        hidden_nD = teacher.hidden_at(speaking, [at for at in places if at]) if speaking else no_states(teacher)
        return MatchDistribution(
            states=states,
            supervise_BT=supervise_BT,
            teacher_hidden_ND=dealt.spread(hidden_nD),
            teacher_head=teacher.head,
        )

    def shown(self, item: GenerationItem) -> str | Chat:
        """The teacher's prompt. Of a chat: the chat with its reply, and then its last question again."""
        if item.chat is None:
            return self.template.format(prompt=item.prompt, solution=(item.completion or "").strip())
        assert item.solved is not None, item.item_id
        return replace(item.solved, messages=(*item.solved.messages, item.chat.messages[-1]))

    @torch.no_grad()
    def slow_copy(self, learner: Policy) -> Policy:
        """The teacher, moved one step towards the learner. The first time it is the current learner."""
        weights = learner.weights
        assert learner.adapter is not None
        own = weights.adapter_state(learner.adapter)
        if not weights.has_adapter(ADAPTER):
            weights.copy_adapter(learner.adapter, ADAPTER)
        slow = weights.adapter_state(ADAPTER)
        weights.set_adapter_state(ADAPTER, {key: torch.lerp(slow[key], own[key], self.rate) for key in slow})
        return Policy(weights, ADAPTER)
