"""Layers of which every rank keeps a part: all ranks put the same one together at the same time, whatever each is doing.

To put a layer together takes all ranks, but one samples longer than another, has more chunks, or is watched. So whoever needs a
layer asks for it, and each time the lowest one that anybody asked for is put together; ranks that asked for another, or have
nothing to do, help and go on waiting. Ranks that are at the same place are thus served together, and one that lags behind
catches up first. Who has come to an exchange with the others helps until all have. Knows no model.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.distributed as dist

NONE = 2**62  # the number of no layer: larger than any


class SplitLayer(Protocol):
    """A layer of a frozen model, of which this rank keeps a part."""

    def is_whole(self) -> bool: ...

    def put_together(self) -> None:
        """All ranks do this at once; afterwards the layer is whole on each."""

    def let_go(self) -> None:
        """Keeps this rank's part only."""


class InStep:
    """The split layers of all models, numbered in the order in which they were loaded, which is the same on all ranks."""

    def __init__(self) -> None:
        self.layers: list[SplitLayer] = []

    def add(self, layer: SplitLayer) -> int:
        """The layer's number."""
        self.layers.append(layer)
        return len(self.layers) - 1

    def put_together(self, wanted: int) -> None:
        """Returns when this layer is whole here. Until it is this one's turn, others are."""
        if self.layers[wanted].is_whole():
            return
        while (served := lowest(wanted)) != wanted:
            self.help(served)
        self.layers[wanted].put_together()

    def help_until_all_wait(self) -> None:
        """Returns when no rank asks for a layer."""
        while self.layers and (served := lowest(NONE)) != NONE:
            self.help(served)

    def help(self, number: int) -> None:
        layer = self.layers[number]
        is_needed = layer.is_whole()  # by a backward pass of this rank that comes back to it
        if is_needed:
            layer.let_go()
        layer.put_together()
        if not is_needed:
            layer.let_go()


def lowest(wanted: int) -> int:
    """Of what all ranks want. A CPU tensor: a GPU's queue goes on meanwhile."""
    asked = torch.tensor([wanted])
    dist.all_reduce(asked, op=dist.ReduceOp.MIN)
    return int(asked)
