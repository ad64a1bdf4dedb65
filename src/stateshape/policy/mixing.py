"""How one layer's attention mixes tokens, beyond plain causal attention: what a model hands over with its queries and keys.

Knows no layout: which tokens are a row, and where they lie, is the business of policy/tree_attention.py and sampling/slots.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Window:
    """Which earlier tokens a token sees, by their places in the row. The same object serves all layers that share it."""

    sees: Callable[[Tensor, Tensor], Tensor]  # places of queries and of keys, broadcast -> bool
    reach: int | None  # rows of up to so many tokens are plainly causal; None: not known

    def cuts(self, num_tokens: int) -> bool:
        """Whether a row of so many tokens may have tokens that do not see all earlier ones."""
        return self.reach is None or num_tokens > self.reach


class Mixing(NamedTuple):
    """softmax(cap(scale q k)) v. `softcap` c: c tanh(x / c). `sinks_H`: one more score per head, which adds no value."""

    scale: float
    softcap: float | None = None
    sinks_H: Tensor | None = None
    window: Window | None = None

    @property
    def is_product(self) -> bool:
        """Whether scores are the scaled products alone, which fused kernels compute."""
        return self.softcap is None and self.sinks_H is None


def capped(score: Tensor, softcap: float | None) -> Tensor:
    return score if softcap is None else softcap * (score / softcap).tanh()
