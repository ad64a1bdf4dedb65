"""What a model's own code allows: whether padding changes its numbers, and whether its cache gives those of whole rows.

Found out by comparing numbers, once, when a model is loaded that no pass over prefix trees fits. Some of transformers' caches
mix up rows that stand side by side; some models have none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stateshape.policy.own_cache import CachedRows, Growing, WholeRows
from stateshape.policy.own_code import FOREIGN, accepted

STEPS = 2  # in the cache


class Habits(NamedTuple):
    """All True for most models."""

    batches: bool  # rows of one length side by side are each as if alone
    pads_right: bool  # tokens behind a row change nothing
    caches: bool  # a row may grow in the cache
    caches_batches: bool  # so may rows of one length side by side
    pads_left: bool  # and rows of different lengths
    selects: bool  # the cache's rows can be copied and dropped

    def growing(self, model: Any) -> Growing:
        return CachedRows(model) if self.caches else WholeRows(model)


def find_habits(model: Any, rows: Sequence[Sequence[int]], *, limit: float, cached_limit: float) -> Habits:
    """Tries them out on two rows of one length, cut where needed.

    `limit`: largest difference of logits, as a share of the largest logit; `cached_limit`: of those from a cache.

    Raises: ValueError if a token's logits depend on later ones.
    """
    first, second = (list(row) for row in rows)
    short = first[: max(1, len(first) - 3)]
    if not _agree(_logits(model, [first])[0, : len(short)], _logits(model, [short])[0], limit):
        raise ValueError("tokens that see later ones")
    alone = {name: _logits(model, [row])[0] for name, row in (("first", first), ("second", second), ("short", short))}

    def batches() -> bool:
        made = _logits(model, [first, second])
        return _agree(made[0], alone["first"], limit) and _agree(made[1], alone["second"], limit)

    def pads_right() -> bool:
        made = _logits(model, [second, short + second[len(short) :]])
        return _agree(made[0], alone["second"], limit) and _agree(made[1, : len(short)], alone["short"], limit)

    def grows(begin: Callable[[CachedRows, int], Tensor], rows: Sequence[list[int]], wholes: Sequence[Tensor]) -> bool:
        """Whether rows go on in the cache as they do as wholes. `begin`: starts the rows without so many last tokens."""
        cached, made = CachedRows(model), []
        made.append(begin(cached, STEPS))
        for step in range(STEPS, 0, -1):
            made.append(cached.step(torch.tensor([row[-step] for row in rows], device=model.device)))
        together = torch.stack(made, dim=1)
        return all(_agree(together[r], whole[-STEPS - 1 :], cached_limit) for r, whole in enumerate(wholes))

    def caches() -> bool:
        return grows(lambda cached, n: cached.start([first[:-n]]), [first], [alone["first"]])

    def caches_batches() -> bool:
        return grows(
            lambda cached, n: cached.start([first[:-n], second[:-n]]),
            [first, second],
            [alone["first"], alone["second"]],
        )

    def pads_left() -> bool:
        def begin(cached: CachedRows, n: int) -> Tensor:
            return cached.start([first[:-n], short[:-n]])

        return grows(begin, [first, short], [alone["first"], alone["short"]])

    def selects() -> bool:
        def begin(cached: CachedRows, n: int) -> Tensor:
            logits_RV = cached.start([second[:-n], first[:-n]])
            for index in ([0, 1, 1], [1, 0]):  # a row is copied, another dropped
                index_R = torch.tensor(index, device=model.device)
                cached.select(index_R)
                logits_RV = logits_RV[index_R]
            return logits_RV

        return grows(begin, [first, second], [alone["first"], alone["second"]])

    can_batch, can_cache = _holds(batches), _holds(caches)
    can_both = can_cache and _holds(caches_batches)
    return Habits(
        batches=can_batch,
        pads_right=can_batch and _holds(pads_right),
        caches=can_cache,
        caches_batches=can_both,
        pads_left=can_both and _holds(pads_left),
        selects=can_both and _holds(selects),
    )


def _holds(trial: Callable[[], bool]) -> bool:
    """A model's code may fail in any way where it does not know what is asked: then the answer is no."""
    try:
        return trial()
    except torch.OutOfMemoryError:
        raise
    except FOREIGN:
        return False


def _logits(model: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    """[B, T, V], without a cache."""
    return model(input_ids=torch.tensor(list(rows), device=model.device), **accepted(model, use_cache=False)).logits


def _agree(found: Tensor, expected: Tensor, limit: float) -> bool:
    return bool((found - expected).abs().max() <= limit * expected.abs().max())
