"""From rollouts to prefix states s_t = (x, y_<t): positions within a response.

Works on decoded token pieces; does not know tokenizers, models or distances. Source: arXiv:2605.22731 sec. 4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from stateshape.core.files import BadInput

NUM_CUTS = 4  # states per rollout: more cuts repeat the same text rather than add evidence


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollouts:
    """One model's sampled responses. Row i: item id, prompt text, response as decoded token pieces (may be empty)."""

    prompt_ids: Sequence[str]
    prompts: Sequence[str]
    pieces: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        sizes = (len(self.prompt_ids), len(self.prompts), len(self.pieces))
        if len(set(sizes)) != 1:
            raise BadInput(f"rollouts: expected one prompt and one response per item id, got {sizes} of the three")


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixStates:
    """Prefix states as text, aligned: the response prefix alone, prompt + prefix, and the item id each came from."""

    responses: list[str]
    states: list[str]
    prompt_ids: list[str]

    def __len__(self) -> int:
        return len(self.responses)

    def take(self, index: Sequence[int]) -> PrefixStates:
        return PrefixStates(
            responses=[self.responses[i] for i in index],
            states=[self.states[i] for i in index],
            prompt_ids=[self.prompt_ids[i] for i in index],
        )


def prefix_states(rollouts: Rollouts, *, generator: np.random.Generator, num_cuts: int = NUM_CUTS) -> PrefixStates:
    """Cuts each response at `num_cuts` places drawn uniformly, without repeats, from 1..its length in tokens.

    A response shorter than `num_cuts` gives one state per token; an empty one gives none, as it has no state after the
    prompt that the model wrote itself.
    """
    states = PrefixStates(responses=[], states=[], prompt_ids=[])
    for prompt_id, prompt, pieces in zip(rollouts.prompt_ids, rollouts.prompts, rollouts.pieces):
        if not pieces:
            continue
        cuts = generator.choice(len(pieces), size=min(num_cuts, len(pieces)), replace=False) + 1
        for cut in sorted(cuts.tolist()):
            prefix = "".join(pieces[:cut])
            states.responses.append(prefix)
            states.states.append(prompt + prefix)
            states.prompt_ids.append(prompt_id)
    return states


class Matched(NamedTuple):
    """Which states of each side are compared: row i of all sides belongs to prompt `prompt_M[i]`, numbered from 0."""

    rows: list[Int64[np.ndarray, " M"]]
    prompt_M: Int64[np.ndarray, " M"]
    num_prompts: int


def matched(sides: Sequence[PrefixStates], *, seed: int) -> Matched:
    """The same number of states of each prompt on all sides: as many as the side has that has fewest.

    Where a side has more, they are drawn without replacement. A prompt without a state on
    some side is left out.
    """
    counts = [Counter(side.prompt_ids) for side in sides]
    fewest = {each: min(count[each] for count in counts) for each in counts[0]}
    limits = {each: number for each, number in fewest.items() if number}
    numbers = {each: number for number, each in enumerate(limits)}
    limit_P = np.array(list(limits.values()), np.int64)
    rows = [
        _drawn(side.prompt_ids, numbers, limit_P, np.random.default_rng([seed, len(sides) + stream]))
        for stream, side in enumerate(sides)
    ]
    return Matched(rows, np.repeat(np.arange(len(limit_P)), limit_P), len(limit_P))


def _drawn(
    prompt_ids: Sequence[str],
    numbers: dict[str, int],
    limit_P: Int64[np.ndarray, " P"],
    generator: np.random.Generator,
) -> Int64[np.ndarray, " M"]:
    """Rows by prompt, and within a prompt in their own order."""
    prompt_N = np.array([numbers.get(each, -1) for each in prompt_ids], np.int64)
    shuffled = np.lexsort((generator.random(len(prompt_N)), prompt_N))
    shuffled = shuffled[prompt_N[shuffled] >= 0]
    prompts = prompt_N[shuffled]
    rank = np.arange(len(prompts)) - np.searchsorted(prompts, prompts)
    chosen = np.sort(shuffled[rank < limit_P[prompts]])
    return chosen[np.argsort(prompt_N[chosen], kind="stable")]


def number_labels(*sides: Sequence[str]) -> list[Int64[np.ndarray, " N"]]:
    """Each label as a number, the same on all sides."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys(label for side in sides for label in side))}
    return [np.array([numbers[label] for label in side], np.int64) for side in sides]
