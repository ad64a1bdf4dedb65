"""Dataset states: gold prompts with gold prefixes. Off-policy: there are no behaviour log-probs. Samples nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Draw, StateKind
from stateshape.core.seeds import seed_for
from stateshape.core.states import Origin, States, Trajectory, pack
from stateshape.policy.policy import Policy
from stateshape.states.cuts import Items
from stateshape.states.sampled import PrefixCut
from stateshape.tasks.items import GenerationItem


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetStates:
    """Prompt ids, then the worked solution's ids, then EOS; up to the cut, if there is one."""

    items: Items
    cut: PrefixCut | None = None
    kind: ClassVar[StateKind] = "dataset"

    def draw(self, learner: Policy, draw: Draw) -> States:
        rows = [solved(learner, self.items, item_id, group) for group, item_id in enumerate(draw.item_ids)]
        if self.cut is not None:
            rows = self.cut.applied(learner, rows, self.items, random.Random(seed_for(draw.seed, "cut", draw.step)))
        return pack(rows, device=learner.device)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetPairs:
    """Two rows per prompt, next to each other: the worked solution, then the rejected one."""

    items: Items
    kind: ClassVar[StateKind] = "dataset"

    def draw(self, learner: Policy, draw: Draw) -> States:
        rows = []
        for group, item_id in enumerate(draw.item_ids):
            item = self.items[item_id]
            assert item.completion is not None and item.rejected is not None, item_id
            rows += written(learner, item, [item.preferred or item.completion, item.rejected], group)
        return pack(rows, device=learner.device)


def solved(policy: Policy, items: Items, item_id: str, group: int) -> Trajectory:
    """A prompt with its worked solution."""
    item = items[item_id]
    assert item.completion is not None, item_id
    return written(policy, item, [item.completion], group)[0]


def written(policy: Policy, item: GenerationItem, texts: Sequence[str], group: int) -> list[Trajectory]:
    """One row per text: the item's prompt, the text, and an end token. The prompt's ids are the same in every row."""
    joined = policy.encode_joined([(item.prompt, text) for text in texts])
    completions = [[*one.text, policy.eos_ids[0]] for one in joined]
    prompt = policy.fitted(joined[0].prompt, behind=max(map(len, completions)))
    return [
        Trajectory(
            item_id=item.item_id,
            ids=[*prompt, *completion],
            origins=[*([Origin.PROMPT] * len(prompt)), *([Origin.DATASET] * len(completion))],
            logps=[None] * (len(prompt) + len(completion)),
            finish="dataset",
            group=group,
        )
        for completion in completions
    ]
