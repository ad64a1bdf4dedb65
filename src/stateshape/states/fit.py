"""Whether a run's training items fit its model, checked before the first step: lengths, end tokens, tokens across both texts.

A prompt that leaves no room for the text after it loses tokens on the left (Policy.fitted), as in evaluation. Knows
how states are built, not what is learned from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stateshape.core.chat import Chat
from stateshape.core.files import BadInput
from stateshape.core.method import StateSource
from stateshape.policy.policy import Joined, Policy
from stateshape.states.dataset import DatasetPairs, DatasetStates, fitted_chats
from stateshape.tasks.items import GenerationItem


def fit_notes(policy: Policy, items: Sequence[GenerationItem], sources: Sequence[StateSource[Any]]) -> list[str]:
    """Notes on items that are changed to fit, one sentence each."""
    bare = [getattr(source, "source", source) for source in sources]  # unwraps states that are kept
    chats = [item for item in items if item.chat is not None]
    if chats:
        return chat_notes(policy, chats, bare)
    num_sampled = max((one.settings.max_new_tokens + 1 for one in bare if hasattr(one, "settings")), default=0)
    asked = [(item, text) for item in items for text in _texts(item, bare) or _unless_short(policy, item, num_sampled)]
    joined = policy.encode_joined([(item.prompt, text) for item, text in asked])
    rows = [(item, one) for (item, _), one in zip(asked, joined, strict=True)]
    cut = _ids([item for item, one in rows if _is_cut(policy, one, num_sampled)])
    across = _ids([item for item, one in rows if not one.is_split])
    notes = []
    if cut:
        notes.append(
            f"prompt: {len(cut)} of {len(items)} training prompts leave no room for a response within the "
            f"model's {policy.max_positions:,} positions, and lose tokens on the left ({cut[0]} is the first)"
        )
    if across:
        notes.append(
            f"solution: in {len(across)} of {len(items)} training items one token would span the end of the prompt and "
            f"the start of the solution ({across[0]} is the first); there the two are encoded separately"
        )
    return notes


def chat_notes(policy: Policy, items: Sequence[GenerationItem], sources: Sequence[object]) -> list[str]:
    """Of chats: which lose exchanges or tokens at their beginning, and whether anything ends a turn."""
    num_sampled = max((one.settings.max_new_tokens + 1 for one in sources if hasattr(one, "settings")), default=0)
    shorter, cut = [], []
    for item in items:
        has_gold = any(isinstance(source, DatasetStates | DatasetPairs) for source in sources)
        if has_gold and (chats := chats_of(item)):
            fitted = fitted_chats(policy, chats)
            shorter += [item] if fitted.num_exchanges else []
            cut += [item] if fitted.num_tokens else []
        elif num_sampled and item.chat is not None and policy.max_positions is not None:
            whole = policy.encode_prompt(item.chat)
            is_short = policy.fitted_prompt(item.chat, behind=num_sampled) == whole
            shorter += [] if is_short else [item]
    notes = []
    if shorter:
        notes.append(
            f"chat: {len(shorter)} of {len(items)} do not fit into the model's {policy.max_positions:,} positions, and "
            "lose their "
            f"oldest exchanges, or tokens on the left where one alone is too long ({shorter[0].item_id} is the first)"
        )
    if cut:
        notes.append(
            f"chat: {len(cut)} of {len(items)} have a last question that leaves no room for the reply, and lose tokens on the "
            f"left ({cut[0].item_id} is the first)"
        )
    return notes


def check_texts(policy: Policy, items: Sequence[GenerationItem]) -> None:
    """Checks that solutions, including rejected ones, can be trained on. Raises BadInput."""
    for item in items:
        if chats := chats_of(item):
            fitted_chats(policy, chats)
    asked = [(item, text) for item in items if item.chat is None for text in (item.completion, item.rejected) if text]
    joined = policy.encode_joined([(item.prompt, text) for item, text in asked])
    rows = [(item, one) for (item, _), one in zip(asked, joined, strict=True)]
    for item, one in rows:
        if ends := set(one.text) & set(policy.eos_ids):
            end = policy.tokenizer.convert_ids_to_tokens(min(ends))
            raise BadInput(
                f"solution: got the model's end token {end!r} in a text of {item.item_id}; expected none, since one is added "
                "at the end; remove it"
            )
    limit = policy.max_positions
    long = [(item.item_id, len(one.text) + 1) for item, one in rows if limit is not None and len(one.text) + 1 >= limit]
    if long:
        raise BadInput(
            f"solution: got {len(long)} that leave no room for a prompt ({long[0][0]} is the first, {long[0][1]:,} tokens); "
            f"expected fewer than the model's {limit:,} positions; shorten or drop them, or use a model with more"
        )


def chats_of(item: GenerationItem) -> list[Chat]:
    """The chats with replies that are learned or compared."""
    return [chat for chat in (item.solved, item.refused) if chat is not None]


def _texts(item: GenerationItem, sources: Sequence[object]) -> list[str]:
    """The texts that dataset states put after the prompt."""
    texts: list[str | None] = []
    if any(isinstance(source, DatasetStates) for source in sources):
        texts.append(item.completion)
    if any(isinstance(source, DatasetPairs) for source in sources):
        texts += [item.preferred or item.completion, item.rejected]
    return [text for text in texts if text]


def _unless_short(policy: Policy, item: GenerationItem, num_sampled: int) -> list[str]:
    """An empty text if the prompt may be too long: a token is at least one byte."""
    most = len(item.prompt.encode()) + 2 + num_sampled
    return [""] if num_sampled and policy.max_positions is not None and most > policy.max_positions else []


def _is_cut(policy: Policy, one: Joined, num_sampled: int) -> bool:
    behind = max(num_sampled, len(one.text) + 1)
    return policy.max_positions is not None and len(one.prompt) + behind > policy.max_positions


def _ids(items: Sequence[GenerationItem]) -> list[str]:
    """Their ids, each once, in order."""
    return list(dict.fromkeys(item.item_id for item in items))
