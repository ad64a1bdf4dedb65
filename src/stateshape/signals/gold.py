"""Gold tokens: the dataset's own next tokens, on the dataset's own prefixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Draw, SignalKind
from stateshape.core.signals import Imitate
from stateshape.core.states import Origin, States
from stateshape.policy.policy import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldTokens:
    kind: ClassVar[SignalKind] = "gold tokens"

    def read(self, learner: Policy, states: States, draw: Draw) -> Imitate:
        return Imitate(states=states, supervise_BT=states.written_by(Origin.DATASET))
