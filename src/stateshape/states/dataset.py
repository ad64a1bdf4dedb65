"""Dataset states: gold prompts with gold prefixes. Off-policy: there are no behaviour log-probs. Samples nothing.

A text has one response. A chat has as many as the assistant has turns; what a user or a tool says between them is the
environment's. A chat that is too long for the model loses its oldest exchanges as a whole.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from stateshape.core.chat import Chat
from stateshape.core.files import BadInput
from stateshape.core.method import Draw, StateKind
from stateshape.core.seeds import seed_for
from stateshape.core.states import Origin, States, Trajectory, pack
from stateshape.policy.chat import Rendered, special_ids
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

    def steps_ahead(self, num_prompts: int) -> int:
        """See DrawnAhead: nothing is sampled, so nothing is gained here, but by a signal that is read ahead."""
        return 0 if self.cut is not None and self.cut.reads_policy else 1

    def draw_several(self, learner: Policy, draws: Sequence[Draw]) -> list[States]:
        return [self.draw(learner, draw) for draw in draws]


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetPairs:
    """Two rows per prompt, next to each other: the worked solution, then the rejected one."""

    items: Items
    kind: ClassVar[StateKind] = "dataset"

    def draw(self, learner: Policy, draw: Draw) -> States:
        rows = []
        for group, item_id in enumerate(draw.item_ids):
            rows += pair(learner, self.items[item_id], group)
        return pack(rows, device=learner.device)


def solved(policy: Policy, items: Items, item_id: str, group: int) -> Trajectory:
    """A prompt with its worked solution."""
    item = items[item_id]
    if item.solved is not None:
        return chats(policy, item, [item.solved], group)[0]
    assert item.completion is not None, item_id
    return written(policy, item, [item.completion], group)[0]


def pair(policy: Policy, item: GenerationItem, group: int) -> list[Trajectory]:
    """A prompt with its better and its worse response."""
    assert item.completion is not None and item.rejected is not None, item.item_id
    if item.solved is not None and item.refused is not None:
        return chats(policy, item, [item.solved, item.refused], group)
    return written(policy, item, [item.preferred or item.completion, item.rejected], group)


def written(policy: Policy, item: GenerationItem, texts: Sequence[str], group: int) -> list[Trajectory]:
    """One row per text: the item's prompt, the text, and an end token if there is one. All rows have the same prompt ids."""
    joined = policy.encode_joined([(item.prompt, text) for text in texts])
    completions = [[*one.text, *policy.eos_ids[:1]] for one in joined]
    first = joined[0].prompt
    if not first:  # running text and no token that begins one: its first token has no state before it
        first, completions = completions[0][:1], [completions[0][1:]]
    prompt = policy.fitted(first, behind=max(map(len, completions)))
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


def chats(policy: Policy, item: GenerationItem, rows: Sequence[Chat], group: int) -> list[Trajectory]:
    """One row per chat, each as this policy's template renders it; the prompt's ids are the same in every row."""
    return [
        Trajectory(
            item_id=item.item_id,
            ids=one.ids,
            origins=chat_origins(one),
            logps=[None] * len(one.ids),
            finish="dataset",
            group=group,
        )
        for one in fitted_chats(policy, rows).rows
    ]


class Fitted(NamedTuple):
    """num_exchanges: dropped at the beginning. num_tokens: lost on the left besides, of each row."""

    rows: list[Rendered]
    num_exchanges: int
    num_tokens: int


def fitted_chats(policy: Policy, rows: Sequence[Chat]) -> Fitted:
    """The chats without as many of their oldest exchanges as it takes to fit.

    Where the last exchange alone is too long, the rows lose tokens on the left, the same ones. Raises BadInput where the
    reply alone is.
    """
    num_exchanges = 0
    made = [ended(policy, policy.rendered(row)) for row in rows]
    limit = policy.max_positions
    shorter = [row.shortened() for row in rows]
    while limit is not None and max(len(one.ids) for one in made) > limit:
        fewer = [next(one, None) for one in shorter]
        if any(one is None or not one.turns() for one in fewer):
            break
        made = [ended(policy, policy.rendered(one)) for one in fewer if one is not None]
        num_exchanges += 1
    cut = 0 if limit is None else max(0, max(len(one.ids) for one in made) - limit)
    if cut >= min(one.prompt_length for one in made):
        raise BadInput(
            f"{rows[0].where}: got a reply that leaves no room for a prompt; expected fewer tokens than the model's {limit:,} "
            "positions; shorten or drop it, or use a model with more"
        )
    return Fitted([Rendered(one.ids[cut:], one.written[cut:]) for one in made], num_exchanges, cut)


def ended(policy: Policy, row: Rendered) -> Rendered:
    """The row with an end token behind it, where its template ends turns in plain text."""
    last = row.ids[-1]
    if last in policy.eos_ids or last in special_ids(policy.tokenizer):
        return row
    end = policy.eos_ids[:1]
    return Rendered([*row.ids, *end], [*row.written, *(True for _ in end)])


def chat_origins(row: Rendered) -> list[Origin]:
    """Prompt up to the first learned token; behind it the dataset's tokens, and the environment's between them."""
    start = row.prompt_length
    behind = [Origin.DATASET if is_written else Origin.ENVIRONMENT for is_written in row.written[start:]]
    return [*([Origin.PROMPT] * start), *behind]
