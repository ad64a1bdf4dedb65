"""Which prompts a step works on: a fixed permutation an epoch, so a resumed run sees what it would have seen."""

from __future__ import annotations

import random

from stateshape.core.method import Draw
from stateshape.core.seeds import seed_for


def draw_for(item_ids: tuple[str, ...], *, batch: int, step: int, seed: int, num_steps: int = 1) -> Draw:
    """The `step`-th batch of the endless stream epoch 0, epoch 1, ..., each shuffled by its own seed."""
    num_items = len(item_ids)
    orders: dict[int, list[int]] = {}
    chosen = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(position, num_items)
        if epoch not in orders:
            orders[epoch] = list(range(num_items))
            random.Random(seed_for(seed, "order", epoch)).shuffle(orders[epoch])
        chosen.append(item_ids[orders[epoch][place]])
    return Draw(item_ids=tuple(chosen), step=step, seed=seed, num_steps=num_steps, epoch=step * batch // num_items)
