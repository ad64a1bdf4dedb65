"""Dataset states: gold prompts with gold prefixes. Off-policy: nobody's log-probs are known. Samples nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from stateshape.core.method import Draw, StateKind
from stateshape.core.states import Origin, States, Trajectory, pack
from stateshape.policy.policy import Policy
from stateshape.tasks.items import GenerationItem


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetStates:
    """Prompt ids, then the worked solution's ids, then EOS. The two texts are tokenised apart, as they are sampled."""

    items: Mapping[str, GenerationItem]
    kind: ClassVar[StateKind] = "dataset"

    def draw(self, learner: Policy, draw: Draw) -> States:
        rows = [self.trajectory(learner, self.items[item_id], group) for group, item_id in enumerate(draw.item_ids)]
        return pack(rows, device=learner.device)

    def trajectory(self, policy: Policy, item: GenerationItem, group: int) -> Trajectory:
        assert item.completion is not None, item.item_id
        prompt = policy.encode_prompt(item.prompt)
        completion = [*policy.encode(item.completion), policy.eos_ids[0]]
        return Trajectory(
            item_id=item.item_id,
            ids=[*prompt, *completion],
            origins=[*([Origin.PROMPT] * len(prompt)), *([Origin.DATASET] * len(completion))],
            logps=[None] * (len(prompt) + len(completion)),
            finish="dataset",
            group=group,
        )
