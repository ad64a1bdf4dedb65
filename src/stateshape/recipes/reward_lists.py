"""Reward functions of lists, as TRL has them, taken as they are: f(prompts, completions, **columns) -> list.

Called once per sample, with lists of one. A chat's prompt is its messages, and its completion the assistant's message; other
texts are texts. Does not know what a reward is used for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any

from stateshape.core.chat import ASSISTANT
from stateshape.core.files import BadInput
from stateshape.tasks.items import GenerationItem

NAMES = {"prompts", "completions"}  # by which such a function is known
NOT_GIVEN = {
    "completion_ids": "tokens",
    "trainer_state": "a trainer",
    "log_extra": "a trainer",
    "log_metric": "a trainer",
}


def is_of_lists(signature: inspect.Signature) -> bool:
    return bool(NAMES & signature.parameters.keys())


def one_at_a_time(
    name: str, own: Callable[..., Any], signature: inspect.Signature, items: Mapping[str, GenerationItem]
) -> Callable[[GenerationItem, str, str], Any]:
    """The function of an item, a text and a finish reason. Raises BadInput where it asks for what rows do not have."""
    taken = {key for key, one in signature.parameters.items() if one.kind is not Parameter.VAR_KEYWORD}
    takes_all = len(taken) < len(signature.parameters)
    required = {key for key in taken if signature.parameters[key].default is Parameter.empty}
    known = set.intersection(*(set(given(item, "")) for item in items.values())) if items else set()
    if lacking := sorted(required - known):
        why = "".join(f"; rewards here are not given {NOT_GIVEN[key]}" for key in lacking if key in NOT_GIVEN)
        raise BadInput(
            f"reward: got {name!r}, which takes {', '.join(lacking)}; expected arguments among {', '.join(sorted(known))}{why}"
            "; add the column to every row, or give the argument a default"
        )

    def one(item: GenerationItem, text: str, finish: str) -> Any:
        lists = {key: [value] for key, value in given(item, text).items() if takes_all or key in taken}
        values = own(**lists)
        if not isinstance(values, list | tuple) or len(values) != 1:
            raise TypeError(f"got {values!r} for lists of one sample; expected a list of one number")
        return values[0]

    return one


def given(item: GenerationItem, text: str) -> dict[str, Any]:
    """What stands for the sample in the lists, by argument: its texts, the row's own columns, the answer and the solution."""
    texts: dict[str, Any] = {"prompts": item.prompt, "completions": text}
    if item.chat is not None:
        texts = {
            "prompts": [dict(message) for message in item.chat.messages],
            "completions": [{"role": ASSISTANT, "content": text}],
        }
    return {"answer": item.gold, "solution": item.completion, **item.columns, **texts}
