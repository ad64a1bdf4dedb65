"""Tokens that are already there: the dataset's own, or a teacher's, as targets on their own prefixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from stateshape.core.files import BadInput
from stateshape.core.method import Draw, SignalKind
from stateshape.core.signals import Imitate
from stateshape.core.states import Origin, States
from stateshape.policy.policy import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldTokens:
    kind: ClassVar[SignalKind] = "gold tokens"

    def read(self, learner: Policy, states: States, draw: Draw) -> Imitate:
        return Imitate(states=states, supervise_BT=tokens_of(states, Origin.DATASET, self.kind))


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherTokens:
    kind: ClassVar[SignalKind] = "teacher tokens"

    def read(self, learner: Policy, states: States, draw: Draw) -> Imitate:
        return Imitate(states=states, supervise_BT=tokens_of(states, Origin.TEACHER, self.kind))


def tokens_of(states: States, origin: Origin, kind: SignalKind) -> Tensor:
    """Positions of tokens of this origin. Raises BadInput if there are none: recorded states may be anyone's."""
    supervise_BT = states.written_by(origin)
    if not bool(supervise_BT.any()):
        raise BadInput(
            f"signal: {kind}: the states hold no token that was written by the {origin.name.lower()}; expected some; use "
            "states of another source, or a teacher's continuation or distribution"
        )
    return supervise_BT
