"""A recipe's reward by name: the task's exact answer, functions of the user's own, or a weighted sum of such.

A function is checked before and while it is called. What it is given and may return: docs/recipes.md. Does not know what a
reward is used for.
"""

from __future__ import annotations

import inspect
import math
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stateshape.core.dotted import load_object
from stateshape.core.files import BadInput
from stateshape.recipes.recipe import Parts
from stateshape.recipes.reward_lists import is_of_lists, one_at_a_time
from stateshape.signals.reward import Reward, Summed
from stateshape.tasks.items import GenerationItem

EXACT_ANSWER, FLEXIBLE_ANSWER = "exact-answer", "flexible-answer"
EXPECTED = (
    "expected a function (item, text, finish) -> number or None, called once per sample, or one of lists as in TRL: "
    "(prompts, completions, **columns) -> list"
)
WEIGHTED = re.compile(r"(?P<weight>[^*:]*)\*(?P<name>.*)")
LARGEST = float(np.finfo(np.float32).max)
GIVEN = ("item_id", "prompt", "gold", "completion", "rejected", "tag")  # as docs/recipes.md explains them
SHOWN = 60  # characters of a text or a value in a message


def reward_of(names: str, parts: Parts) -> Reward:
    """(item id, text, finish) -> reward. names: one, or several, whose weighted sum it is: `exact-answer,0.2*file.py:name`.

    A part that is unknown is left out of the sum; the sum is unknown where all parts are. Raises BadInput.
    """
    weighted = [weight_and_name(one.strip()) for one in names.split(",")]
    rewards = [(weight, one_reward(name, parts)) for weight, name in weighted]
    if len(rewards) == 1 and rewards[0][0] == 1:
        return rewards[0][1]
    short = short_names([name for _, name in weighted])

    def total(item_id: str, text: str, finish: str) -> Summed:
        values = [(weight, reward(item_id, text, finish)) for weight, reward in rewards]
        known = [weight * value for weight, value in values if value is not None and not math.isnan(value)]
        parts = {name: value for name, (_, value) in zip(short, values, strict=True)}
        return Summed(number_of(sum(known), names, item_id) if known else None, parts)

    return total


def short_names(names: Sequence[str]) -> list[str]:
    """Of file.py:name the name, as TRL calls a reward in its logs; the whole text where two would be called the same."""
    short = [name.rpartition(":")[2] for name in names]
    return [one if short.count(one) == 1 else whole for one, whole in zip(short, names, strict=True)]


def weight_and_name(text: str) -> tuple[float, str]:
    """1 where there is no weight. Raises BadInput."""
    found = WEIGHTED.fullmatch(text)
    if found is None:
        return 1.0, text
    try:
        weight = float(found["weight"])
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight) or weight == 0:
        raise BadInput(
            f"reward: got weight {found['weight'].strip()!r} in {text!r}; expected a finite number other than 0, as in "
            "0.2*file.py:name"
        )
    return weight, found["name"].strip()


def one_reward(name: str, parts: Parts) -> Callable[[str, str, str], float | None]:
    """A user's function gets the item itself. Raises BadInput."""
    if name in (EXACT_ANSWER, FLEXIBLE_ANSWER):
        parts.check_gradable()
        is_flexible = name == FLEXIBLE_ANSWER
        return lambda item_id, text, finish: float(parts.is_right(item_id, text, is_flexible=is_flexible))
    if ":" not in name:
        raise BadInput(
            f"reward: got {name!r}; expected {EXACT_ANSWER}, {FLEXIBLE_ANSWER}, or file.py:name of a function"
        )
    own = function_of(name, load_object(name, what="reward"), parts.items)

    def reward(item_id: str, text: str, finish: str) -> float | None:
        try:
            value = own(parts.items[item_id], text, finish)
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            raise BadInput(
                f"reward: {name!r} raised {described(error)} for {item_id}, whose text ends in {text[-SHOWN:]!r}; expected a "
                f"number, or None where it cannot decide; {fields_of_item(error)}fix the function and run the same command "
                "again"
            ) from None
        return None if value is None else number_of(value, name, item_id)

    return reward


def fields_of_item(error: BaseException) -> str:
    """What an item has, for a function that asked it for something else."""
    if not (isinstance(error, AttributeError) and isinstance(error.obj, GenerationItem)):
        return ""
    return f"an item has {', '.join(GIVEN)}, and other columns of its row as item.columns[name]; "


def function_of(name: str, own: Any, items: Mapping[str, GenerationItem]) -> Callable[[GenerationItem, str, str], Any]:
    """The function as one of an item, a text and a finish reason. Raises BadInput where it is none."""
    if not callable(own):
        raise BadInput(f"reward: got {name!r}, which is not a function; {EXPECTED}")
    called = own if inspect.isroutine(own) else type(own).__call__
    if inspect.iscoroutinefunction(called) or inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise BadInput(f"reward: got {name!r}, which is async or a generator; {EXPECTED}; return the number itself")
    try:
        signature = inspect.signature(own)
    except (TypeError, ValueError):  # some built-in functions have none
        return own
    if is_of_lists(signature):
        return one_at_a_time(name, own, signature, items)
    try:
        signature.bind("item", "text", "finish")
    except TypeError as error:
        raise BadInput(
            f"reward: got {name!r}, which takes {signature} ({error} when given three); {EXPECTED}; give it these three"
        ) from None
    return own


def number_of(value: Any, name: str, item_id: str) -> float:
    """The value as a float; numbers of numpy and torch are numbers, too. NaN stays: a missing reward. Raises BadInput."""
    try:
        number = None if isinstance(value, str | bytes) else float(one_element(value))
    except (TypeError, ValueError, OverflowError, RuntimeError):  # torch raises RuntimeError for several elements
        number = None
    if number is None or abs(number) > LARGEST:
        shown = " ".join(repr(value).split())
        raise BadInput(
            f"reward: {name!r} gave {shown[:SHOWN]} for {item_id}; expected a finite number, or None for no grade; the "
            "largest is float32's, 3.4e38"
        )
    return number


def one_element(value: Any) -> Any:
    """Of an array or tensor of one element, the element."""
    return value.item() if hasattr(value, "item") else value


def described(error: BaseException) -> str:
    """The error in one line, with the place where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    reason = " ".join(str(error).split())[: 2 * SHOWN]
    return f"{type(error).__name__}{f': {reason}' if reason else ''} ({Path(place.filename).name}:{place.lineno})"
