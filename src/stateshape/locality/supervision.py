"""The supervision map: how many tokens were supervised, and how much probability the loss asked to move, where.

Cells: who wrote the token x tenth of the response it is in x surprisal of the token under the learner. A combination's
terms add up, unweighted; those that are apart add up by themselves. Knows no policy. N: supervised token, B: row, C: cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from torch import Tensor

from stateshape.core.records import SupervisionCell, SupervisionMap
from stateshape.core.signals import Signal
from stateshape.core.states import Origin

DEPTHS = 10
EDGES_NATS = (0.0, 0.05, 0.2, 0.7, 1.5, 3.0, 6.0)  # lower edges: .05 nats is p = .95, .7 is p = .5, 6 is p = .0025
SHAPE = (len(Origin), DEPTHS, len(EDGES_NATS))
NUM_CELLS = int(np.prod(SHAPE))


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Tokens and mass of every cell. Sums are fp64, in the order in which steps are added: a resumed run's are the same."""

    num_C: Int64[ndarray, " C"] = field(default_factory=lambda: np.zeros(NUM_CELLS, np.int64))
    mass_C: Float64[ndarray, " C"] = field(default_factory=lambda: np.zeros(NUM_CELLS))

    def plus(self, other: Tally) -> Tally:
        return Tally(num_C=self.num_C + other.num_C, mass_C=self.mass_C + other.mass_C)

    def cells(self) -> list[SupervisionCell]:
        """Those that have tokens, in order."""
        cells = []
        for place in self.num_C.nonzero()[0]:
            origin, depth, bin_ = (int(part) for part in np.unravel_index(place, SHAPE))
            cells.append(
                SupervisionCell(
                    origin=Origin(origin).name.lower(),
                    depth=depth,
                    surprisal=bin_,
                    num_tokens=int(self.num_C[place]),
                    mass=float(self.mass_C[place]),
                )
            )
        return cells

    def as_map(self, apart: Tally | None = None) -> SupervisionMap:
        """apart: of terms about other prompts than the run's."""
        return SupervisionMap(
            num_depths=DEPTHS,
            surprisal_edges_nats=list(EDGES_NATS),
            cells=self.cells(),
            apart=[] if apart is None else apart.cells(),
        )

    def mass_by_depth(self) -> list[float | None]:
        """Each tenth's share of the mass; None where there is none at all."""
        mass_by_depth = self.mass_C.reshape(SHAPE).sum((0, 2))
        total = float(mass_by_depth.sum())
        return [float(mass) / total if total > 0 else None for mass in mass_by_depth]


def tally_of(signal: Signal, per_token: Mapping[str, Tensor]) -> Tally:
    """One step of one term. `per_token`: see LossValue; a loss that does not report its mass adds nothing here."""
    if "mass" not in per_token:
        return Tally()
    states = signal.states
    row_N, at_N = (index.cpu().numpy() for index in signal.supervise_BT.nonzero(as_tuple=True))
    prompt_B, length_B = states.prompt_lengths_B.cpu().numpy(), states.lengths_B.cpu().numpy()
    origin_N = states.origin_BT[signal.supervise_BT].cpu().numpy().astype(np.int64)
    depth_N = DEPTHS * (at_N - prompt_B[row_N]) // (length_B - prompt_B)[row_N]
    mass_N, logp_N = (per_token[name].detach().double().cpu().numpy() for name in ("mass", "learner_logp"))
    return tally_at(origin_N, depth_N, logp_N, mass_N)


def tally_at(
    origin_N: Int64[ndarray, " N"],
    depth_N: Int64[ndarray, " N"],
    logp_N: Float64[ndarray, " N"],
    mass_N: Float64[ndarray, " N"],
) -> Tally:
    """Of supervised tokens: who wrote each, the tenth of the response it is in, its log-prob under the learner, its mass."""
    bin_N = np.searchsorted(EDGES_NATS, np.maximum(-logp_N, 0.0), side="right") - 1
    place_N = np.ravel_multi_index((origin_N, depth_N, bin_N), SHAPE)
    return Tally(
        num_C=np.bincount(place_N, minlength=NUM_CELLS),
        mass_C=np.bincount(place_N, weights=mass_N, minlength=NUM_CELLS),
    )
