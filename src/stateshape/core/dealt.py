"""A batch's rows dealt out among the ranks: whole groups, by their number of distinct tokens.

The same batch is dealt in the same way wherever it is asked, so that the rank that trains on a row is the one that has read a
frozen model's hidden states there. Knows no method and no model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stateshape.core.ranks import Ranks, current
from stateshape.core.states import States, groups_of


class DealtRows:
    """This rank's rows of a batch, and the cells [N] (supervised positions, row by row) that are in them.

    together: so many adjacent rows, counted from the first, are never parted. ranks: the current ones when this was made.
    """

    def __init__(self, states: States, supervise_BT: Tensor, *, together: int = 1) -> None:
        self.ranks: Ranks = current()
        self.states, self.supervise_BT = states, supervise_BT
        self.is_all = self.ranks.count == 1
        self.rows = list(range(len(states)))
        if not self.is_all:
            groups = groups_of(states, together=together)
            mine = self.ranks.deal([group.num_tokens for group in groups])
            self.rows = [b for i in mine for b in groups[i].rows]

    @property
    def index_B(self) -> Tensor:
        return torch.tensor(self.rows, dtype=torch.int64, device=self.supervise_BT.device)

    def read(self, of_rows: Callable[[States, Tensor], Tensor], *, nothing: Tensor) -> Tensor:
        """[n, ...] of this rank's cells, by a function of its states and their supervise_BT. nothing: [0, ...], for no rows."""
        if self.is_all:
            return of_rows(self.states, self.supervise_BT)
        if not self.rows:
            return nothing
        index_B = self.index_B
        states = self.states.rows(index_B)
        return of_rows(states, self.supervise_BT[index_B, : states.ids_BT.shape[1]])

    def own(self, value_N: Tensor) -> Tensor:
        """Of a value for every cell, those in this rank's rows."""
        return value_N if self.is_all else value_N[self._is_own_N()]

    def spread(self, own_n: Tensor) -> Tensor:
        """This rank's values at their places among all cells; 0 at the cells of other ranks."""
        if self.is_all:
            return own_n
        is_own_N = self._is_own_N()
        value_N = own_n.new_zeros(len(is_own_N), *own_n.shape[1:])
        value_N[is_own_N] = own_n
        return value_N

    def of_all(self, own_n: Tensor) -> Tensor:
        """The values of all ranks' cells: the same on every rank."""
        value_N = self.spread(own_n)
        self.ranks.sum_(value_N)
        return value_N

    def _is_own_N(self) -> Tensor:
        is_own_B = torch.zeros(len(self.states), dtype=torch.bool, device=self.supervise_BT.device)
        is_own_B[self.index_B] = True
        return is_own_B[:, None].expand(self.supervise_BT.shape)[self.supervise_BT]
