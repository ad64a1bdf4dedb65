"""From rollouts to prefix states s_t = (x, y_<t): where in its own text a model may stand.

Works on decoded token pieces; does not know tokenizers, models or distances. Source: arXiv:2605.22731 sec. 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
    made = PrefixStates(responses=[], states=[], prompt_ids=[])
    for prompt_id, prompt, pieces in zip(rollouts.prompt_ids, rollouts.prompts, rollouts.pieces):
        if not pieces:
            continue
        cuts = generator.choice(len(pieces), size=min(num_cuts, len(pieces)), replace=False) + 1
        for cut in sorted(cuts.tolist()):
            prefix = "".join(pieces[:cut])
            made.responses.append(prefix)
            made.states.append(prompt + prefix)
            made.prompt_ids.append(prompt_id)
    return made
