"""Chats as a teacher reads them: the same text in the teacher's own chat template, with the learner's tokens behind it.

Learner and teacher share token ids, not templates: a state of a chat is a text, and each policy reads it as it was trained to.
Texts that are no chats have the same ids for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from torch import Tensor

from stateshape.core.files import BadInput
from stateshape.core.states import Origin, States, Trajectory
from stateshape.policy.policy import Policy
from stateshape.tasks.items import GenerationItem

Items = Mapping[str, GenerationItem]


class OwnRow(NamedTuple):
    """ids: as the policy reads the row. at: the places that predict the row's supervised tokens, in order."""

    ids: list[int]
    at: np.ndarray


def own_rows(
    policy: Policy, learner: Policy, states: States, supervise_BT: Tensor, items: Items
) -> list[OwnRow] | None:
    """Each row as `policy` reads it; None where it reads all of them as the learner does. Raises BadInput."""
    rows = states.trajectories()
    chats = [chat for row in rows if row.item_id in items and (chat := items[row.item_id].chat) is not None]
    if policy.tokenizer is learner.tokenizer or all(
        policy.encode_prompt(chat) == learner.encode_prompt(chat) for chat in chats
    ):
        return None
    marks = supervise_BT.cpu().numpy()
    return [own_row(policy, row, marks[b].nonzero()[0], items) for b, row in enumerate(rows)]


def own_row(policy: Policy, row: Trajectory, tokens: np.ndarray, items: Items) -> OwnRow:
    """One row in the policy's template. tokens: the supervised ones, in the learner's rendering."""
    item = items.get(row.item_id)
    if item is None or item.chat is None or not len(tokens):
        return OwnRow(row.ids, tokens - 1)
    if Origin.ENVIRONMENT in row.origins:
        return whole_chat(policy, row, tokens, item)
    response = row.response
    prompt = policy.fitted_prompt(item.chat, behind=len(response))
    return OwnRow([*prompt, *response], tokens - row.prompt_length + len(prompt) - 1)


def whole_chat(policy: Policy, row: Trajectory, tokens: np.ndarray, item: GenerationItem) -> OwnRow:
    """A chat of several turns: the tokens that the assistant wrote must be the same in both renderings. Raises BadInput."""
    assert item.solved is not None, row.item_id
    own = policy.rendered(item.solved)
    theirs = np.flatnonzero(own.written)
    ours = np.array([t for t, origin in enumerate(row.origins) if origin == Origin.DATASET])
    theirs = (
        theirs[len(theirs) - len(ours) :] if len(theirs) >= len(ours) else theirs
    )  # the learner's may have lost turns
    if [own.ids[t] for t in theirs] != [row.ids[t] for t in ours]:
        raise BadInput(
            f"{item.solved.where}: the chat templates of learner and teacher ({policy.weights.source}) write the "
            "assistant's turns "
            "with different tokens; expected the same between the turns' marks; give both the same template with "
            "--chat-template FILE, or train on last turns only (--turns last)"
        )
    return OwnRow(own.ids, theirs[np.searchsorted(ours, tokens)] - 1)
