"""Where a response is cut so that another policy can continue there: by depth, by the writer's uncertainty, at the first error.

    uniform       a uniformly random share of the response, between `low` and `high`; low == high is a fixed fraction
    entropy       the most uncertain token between `low` and `high`: where the policy's next-token entropy is largest
    first-error   before the first wrong step (tasks/steps.py); uniform if there is none
    file.py:name  a function of your own: (policy, rows, items, rng) -> tokens kept of each response

Knows tasks only through their items' text.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import ClassVar

import torch

from stateshape.core.dotted import load_object
from stateshape.core.files import BadInput
from stateshape.core.ranks import current
from stateshape.core.states import Trajectory, pack
from stateshape.core.tensors import entropy
from stateshape.core.wording import shown
from stateshape.policy.policy import Policy
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.steps import first_error

Items = Mapping[str, GenerationItem]
CutFunction = Callable[[Policy, Sequence[Trajectory], Items, random.Random], list[int]]
KINDS = ("uniform", "entropy", "first-error")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """Where another policy takes over."""

    at: str = "uniform"
    """uniform (random), entropy (most uncertain token), first-error, or your own function as file.py:name."""
    low: float = 0.0
    """Smallest share of the response to keep."""
    high: float = 0.9
    """Largest share of the response to keep."""

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise BadInput(f"cut: got low {self.low}, high {self.high}; expected 0 <= low <= high <= 1")
        if self.at not in KINDS and ":" not in self.at:
            raise BadInput(f"cut.at: got {shown(self.at)}; expected {', '.join(KINDS)}, or file.py:name of a function")

    @property
    def reads_policy(self) -> bool:
        """Whether the policy's weights decide, or may."""
        return self.at not in ("uniform", "first-error")

    def applied(self, policy: Policy, rows: Sequence[Trajectory], items: Items, rng: random.Random) -> list[Trajectory]:
        """Each row up to its cut, which is in its last turn. `policy`: the policy whose entropy is read."""
        if not rows:
            return []
        rows = [row.in_last_turn() for row in rows]
        lengths = self.function()(policy, rows, items, rng)
        if len(lengths) != len(rows):
            raise BadInput(f"cut.at: {self.at!r} gave {len(lengths)} cuts for {len(rows)} rows; expected one per row")
        for row, keep in zip(rows, lengths, strict=True):
            length = len(row.ids) - row.prompt_length
            if not isinstance(keep, Integral) or not 0 <= keep < max(length, 1):  # numpy's integers too
                raise BadInput(
                    f"cut.at: {self.at!r} kept {keep!r} of {length} tokens of {row.item_id}; expected a whole number from "
                    "0 to "
                    f"{max(length - 1, 0)}: behind the last token nothing is left to continue"
                )
        return [row.cut(row.prompt_length + keep) for row, keep in zip(rows, lengths, strict=True)]

    def function(self) -> CutFunction:
        own: dict[str, CutFunction] = {
            "uniform": self.uniform,
            "entropy": self.most_uncertain,
            "first-error": self.before_first_error,
        }
        return own[self.at] if self.at in own else load_object(self.at, what="cut.at")

    def uniform(self, policy: Policy, rows: Sequence[Trajectory], items: Items, rng: random.Random) -> list[int]:
        return [self.share_of(len(row.ids) - row.prompt_length, rng) for row in rows]

    def share_of(self, num_tokens: int, rng: random.Random) -> int:
        share = rng.uniform(self.low, self.high)
        return min(int(share * num_tokens), max(num_tokens - 1, 0))

    def most_uncertain(self, policy: Policy, rows: Sequence[Trajectory], items: Items, rng: random.Random) -> list[int]:
        """The state before the token whose distribution has the largest entropy."""
        lengths = []
        for entropies in response_entropies(policy, rows):
            low = min(int(self.low * len(entropies)), max(len(entropies) - 1, 0))
            high = max(low + 1, int(self.high * len(entropies)))
            window = entropies[low:high]
            lengths.append(low + max(range(len(window)), key=lambda i: window[i]) if window else 0)
        return lengths

    def before_first_error(
        self, policy: Policy, rows: Sequence[Trajectory], items: Items, rng: random.Random
    ) -> list[int]:
        lengths = []
        for row in rows:
            response = row.response
            wrong = first_error(policy.decode(response), items[row.item_id].gold or "")
            fallback = self.share_of(len(response), rng)
            lengths.append(fallback if wrong is None else tokens_before(policy, response, wrong))
        return lengths


@dataclass(frozen=True, kw_only=True, slots=True)
class OneState:
    """One uniformly drawn state of the rollout: the row is kept up to and including the token written there."""

    reads_policy: ClassVar[bool] = False

    def applied(self, policy: Policy, rows: Sequence[Trajectory], items: Items, rng: random.Random) -> list[Trajectory]:
        rows = [row.in_last_turn() for row in rows]
        return [row.cut(row.prompt_length + rng.randint(1, len(row.ids) - row.prompt_length)) for row in rows]


@torch.no_grad()
def response_entropies(policy: Policy, rows: Sequence[Trajectory]) -> list[list[float]]:
    """Next-token entropy in nats at every state of each response, the state before its first token first."""
    return current().shared([len(row.ids) for row in rows], lambda mine: entropies_of(policy, [rows[k] for k in mine]))


def entropies_of(policy: Policy, rows: Sequence[Trajectory]) -> list[list[float]]:
    """As response_entropies, in this process."""
    states = pack(rows, device=policy.device)
    position_T = torch.arange(states.ids_BT.shape[1], device=policy.device)
    first_B = states.prompt_lengths_B - 1
    at_BT = (position_T >= first_B[:, None]) & (position_T < states.lengths_B[:, None] - 1)
    entropy_N = entropy(policy.hidden(states.ids_BT, states.lengths_B, at_BT), policy.head)
    return [part.tolist() for part in entropy_N.split(at_BT.sum(1).tolist())]


def tokens_before(policy: Policy, ids: Sequence[int], place: int) -> int:
    """The number of tokens that end before a given character of the text."""
    low, high = 0, len(ids)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(policy.decode(ids[:middle])) <= place else (low, middle - 1)
    return low
