"""The largest numbers a user may give: above them a typing mistake would fill the memory, or a loop would never end.

Far above what any run needs; whether a number fits a model or a task is checked where these are known. Torch-free.
"""

from __future__ import annotations

from stateshape.core.wording import BadInput, shown

MOST = {
    # of a run
    "steps": 100_000_000,
    "checkpoint_every": 100_000_000,
    "batch_prompts": 100_000,
    "supervised_per_step": 1_000_000_000,
    "chunk_tokens": 1_000_000_000,
    "states_mb": 1e9,
    "rank": 8_192,
    "alpha": 1_000_000,
    # of a recipe
    "rollout_tokens": 1_000_000,
    "max_new_tokens": 1_000_000,
    "retention_tokens": 1_000_000,
    "samples": 10_000,
    "group": 10_000,
    # of what is measured
    "limit": 1_000_000_000,
    "shots": 10_000,
    "prompts": 1_000_000,
    "cuts": 1_000,
    "every": 100_000_000,
    "positions": 10_000_000,
    "points": 10_000,
    # of the machine
    "jobs": 1_024,
    "processes": 1_024,
    "cpus": 1_024,
    "minutes": 100_000_000,
    "retries": 1_000,
    "threads": 1_024,
    "seed": 2**31 - 1,  # recorded states keep it in 32 bits
}


def check_most(prefix: str = "", /, **fields: object) -> None:
    """Fields that are not in MOST, and values that are no numbers, pass. Raises BadInput."""
    for name, value in fields.items():
        if name in MOST and isinstance(value, int | float) and value > MOST[name]:
            raise BadInput(f"{prefix}{name}: got {shown(value)}; expected at most {MOST[name]:,.0f}")
