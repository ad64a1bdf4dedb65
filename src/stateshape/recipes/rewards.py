"""A recipe's reward by name: the task's exact answer, or a function of the user's own."""

from __future__ import annotations

import math

from stateshape.core.dotted import load_object
from stateshape.core.files import BadInput
from stateshape.recipes.recipe import Parts
from stateshape.signals.reward import Reward

EXACT_ANSWER = "exact-answer"


def reward_of(name: str, parts: Parts) -> Reward:
    """(item id, text, finish) -> reward. A function of one's own is given the item itself. Raises BadInput."""
    if name == EXACT_ANSWER:
        return lambda item_id, text, finish: float(parts.is_right(item_id, text))
    if ":" not in name:
        raise BadInput(f"reward: got {name!r}; expected {EXACT_ANSWER}, or file.py:name of a function")
    own = load_object(name, what="reward")
    if not callable(own):
        raise BadInput(f"reward: got {name!r}, which is no function; expected one of (item, text, finish)")

    def reward(item_id: str, text: str, finish: str) -> float | None:
        value = own(parts.items[item_id], text, finish)
        if value is None:
            return None
        try:
            number = float(value)  # numpy's and torch's scalars are numbers too
        except (TypeError, ValueError):
            number = math.inf
        if math.isinf(number):
            raise BadInput(
                f"reward: {name!r} gave {value!r} for {item_id}; expected a finite number, or None for no grade"
            )
        return number

    return reward
