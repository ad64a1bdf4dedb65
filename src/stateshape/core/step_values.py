"""Which of a step's many numbers say how a method is doing: its loss, and what it optimises under that loss. Torch-free.

The loss of policy gradients is noise around zero: the reward is the number to look at. A combination's terms have a value each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from stateshape.core.records import StepRecord

OPTIMISED = {"reward": "reward", "kl_nats": "KL", "accuracy": "accuracy"}  # by the last part of a name in `stats`
PART = re.compile(r"(?:(?P<term>.+)/)?rewards/(?P<name>.+)/mean")  # of a reward that is a weighted sum


def optimised(records: Iterable[StepRecord]) -> dict[str, str]:
    """Names in `stats` of what the method optimises, each with a heading; a combination's with the term: 'reward, money'."""
    names = dict.fromkeys(name for record in records for name in record.stats)
    found = {}
    for name in names:
        term, _, key = name.rpartition("/")
        if key in OPTIMISED:
            found[name] = f"{OPTIMISED[key]}, {term}" if term else OPTIMISED[key]
    return found


def reward_parts(records: Iterable[StepRecord]) -> dict[str, str]:
    """Names in `stats` of the parts of a reward that is a weighted sum, each with a heading."""
    names = dict.fromkeys(name for record in records for name in record.stats)
    parts = {name: found for name in names if (found := PART.fullmatch(name))}
    return {
        name: f"reward {found['name']}" + (f", {found['term']}" if found["term"] else "")
        for name, found in parts.items()
    }


def telling(record: StepRecord) -> dict[str, float]:
    """The numbers of one step to show while it trains, by heading; what is missing is left out."""
    values = {"loss": record.loss}
    values |= {heading: record.stats[name] for name, heading in optimised([record]).items()}
    return {heading: value for heading, value in values.items() if value is not None}
