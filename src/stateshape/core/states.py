"""States: trajectories of token ids with a provenance per token.

Rows are right-padded; masks come from lengths, never from token values. Knows nothing of policies or supervision.

Suffixes used in the package: B row, T position, V vocabulary, N supervised position, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor


class Origin(IntEnum):
    """Who wrote a token. ENVIRONMENT: turns of a user or a tool between the assistant's, which nobody supervises.

    MIXTURE: drawn from a blend of learner and teacher; neither of the two wrote it.
    """

    PROMPT = 0
    DATASET = 1
    LEARNER = 2
    TEACHER = 3
    ENVIRONMENT = 4
    MIXTURE = 5


PADDING = 255  # origin value of cells beyond a row's length


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectory:
    """One row as plain lists. `logps` are the writer's log-probs in nats at its sampling temperature, None if unknown.

    `finish`: "eos" | "stop" | "length" | "dataset". A row cut for a continuation ends where the next writer takes over.
    """

    item_id: str
    ids: list[int]
    origins: list[Origin]
    logps: list[float | None]
    finish: str
    group: int = 0

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.origins) == len(self.logps), self.item_id

    def extended(self, ids: Sequence[int], origin: Origin, *, logps: Sequence[float | None], finish: str) -> Trajectory:
        """The same row with another writer's tokens spliced on, as ids."""
        return Trajectory(
            item_id=self.item_id,
            ids=[*self.ids, *ids],
            origins=[*self.origins, *([origin] * len(ids))],
            logps=[*self.logps, *logps],
            finish=finish,
            group=self.group,
        )

    def cut(self, length: int) -> Trajectory:
        """The first `length` tokens."""
        return Trajectory(
            item_id=self.item_id,
            ids=self.ids[:length],
            origins=self.origins[:length],
            logps=self.logps[:length],
            finish="length",
            group=self.group,
        )

    def in_last_turn(self) -> Trajectory:
        """The same row with everything up to its last turn as its prompt; itself where there is one turn."""
        last = max((t for t, origin in enumerate(self.origins) if origin == Origin.ENVIRONMENT), default=-1)
        if last < 0:
            return self
        return replace(self, origins=[*([Origin.PROMPT] * (last + 1)), *self.origins[last + 1 :]])

    @property
    def prompt_length(self) -> int:
        return sum(origin == Origin.PROMPT for origin in self.origins)

    @property
    def response(self) -> list[int]:
        """The ids behind the prompt."""
        return self.ids[self.prompt_length :]


@dataclass(frozen=True, kw_only=True, slots=True)
class States:
    """A batch of trajectories.

    `behaviour_logp_BT` is NaN where nobody's log-prob is known. `group_B`: rows of one prompt share a number.
    """

    ids_BT: Tensor  # int64
    lengths_B: Tensor  # int64
    origin_BT: Tensor  # uint8, Origin or PADDING
    behaviour_logp_BT: Tensor  # fp32, nats
    group_B: Tensor  # int64
    item_ids: list[str] = field(default_factory=list)
    finishes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return self.ids_BT.shape[0]

    @property
    def prompt_lengths_B(self) -> Tensor:
        return (self.origin_BT == Origin.PROMPT).sum(dim=1)

    def written_by(self, *origins: Origin) -> Tensor:
        """bool [B, T]: tokens of the given origins."""
        return torch.isin(self.origin_BT, torch.tensor(origins, dtype=torch.uint8, device=self.origin_BT.device))

    def rows(self, index: Tensor) -> States:
        """The chosen rows, trimmed to their longest. `index`: int64 [n]."""
        width = int(self.lengths_B[index].max())
        chosen = index.tolist()
        return States(
            ids_BT=self.ids_BT[index, :width],
            lengths_B=self.lengths_B[index],
            origin_BT=self.origin_BT[index, :width],
            behaviour_logp_BT=self.behaviour_logp_BT[index, :width],
            group_B=self.group_B[index],
            item_ids=[self.item_ids[i] for i in chosen],
            finishes=[self.finishes[i] for i in chosen],
        )

    def trajectories(self) -> list[Trajectory]:
        """The rows as plain lists."""
        rows = []
        # from a GPU in one go: a row at a time would wait for it four times per row
        ids_BT, origin_BT, logp_BT = (part.cpu() for part in (self.ids_BT, self.origin_BT, self.behaviour_logp_BT))
        groups = self.group_B.tolist()
        for b, length in enumerate(self.lengths_B.tolist()):
            logps = logp_BT[b, :length].tolist()
            rows.append(
                Trajectory(
                    item_id=self.item_ids[b],
                    ids=ids_BT[b, :length].tolist(),
                    origins=[Origin(o) for o in origin_BT[b, :length].tolist()],
                    logps=[None if logp != logp else logp for logp in logps],
                    finish=self.finishes[b],
                    group=groups[b],
                )
            )
        return rows


def pack(rows: Sequence[Trajectory], *, device: torch.device | str) -> States:
    """Right-pads plain rows into a batch. Padding cells hold id 0 and are never read."""
    if not rows:
        raise ValueError("states: got no rows; expected at least one")
    width = max(len(row.ids) for row in rows)
    ids_BT = torch.zeros(len(rows), width, dtype=torch.int64)
    origin_BT = torch.full((len(rows), width), PADDING, dtype=torch.uint8)
    logp_BT = torch.full((len(rows), width), float("nan"))
    for b, row in enumerate(rows):
        length = len(row.ids)
        ids_BT[b, :length] = torch.tensor(row.ids)
        origin_BT[b, :length] = torch.tensor([int(o) for o in row.origins], dtype=torch.uint8)
        logp_BT[b, :length] = torch.tensor([float("nan") if p is None else p for p in row.logps])
    return States(
        ids_BT=ids_BT.to(device),
        lengths_B=torch.tensor([len(row.ids) for row in rows], device=device),
        origin_BT=origin_BT.to(device),
        behaviour_logp_BT=logp_BT.to(device),
        group_B=torch.tensor([row.group for row in rows], device=device),
        item_ids=[row.item_id for row in rows],
        finishes=[row.finish for row in rows],
    )


def origin_shares(states: Sequence[States]) -> dict[str, float]:
    """Realised share of non-prompt tokens by writer, over all batches."""
    counts = {
        origin: sum(int((one.origin_BT == origin).sum()) for one in states)
        for origin in Origin
        if origin != Origin.PROMPT
    }
    total = max(sum(counts.values()), 1)
    return {origin.name.lower(): count / total for origin, count in counts.items() if count}


def chunks(states: States, tokens: int, *, together: int = 1) -> Iterator[Tensor]:
    """Indices of consecutive rows, at most `tokens` each (longer ones are alone).

    What a row has in common with the one before it is not counted again: rows of one group follow one another, and a
    forward pass computes their prompt once. `together`: so many adjacent rows, counted from the first, are never parted.
    """
    lengths, shared = states.lengths_B.tolist(), shared_with_last(states)
    chunk: list[int] = []
    num_tokens = 0
    for first in range(0, len(lengths), together):
        unit = range(first, min(first + together, len(lengths)))
        added = sum(lengths[b] - shared[b] for b in unit)
        if chunk and num_tokens + added > tokens:
            yield torch.tensor(chunk, device=states.ids_BT.device)
            chunk, num_tokens = [], 0
        num_tokens += added if chunk else added + shared[first]
        chunk.extend(unit)
    yield torch.tensor(chunk, device=states.ids_BT.device)


def shared_with_last(states: States) -> list[int]:
    """How many tokens at its beginning each row has in common with the one before it."""
    same_BT = states.ids_BT[1:] == states.ids_BT[:-1]
    shared_B = torch.minimum(
        same_BT.long().cumprod(1).sum(1), torch.minimum(states.lengths_B[1:], states.lengths_B[:-1])
    )
    return [0, *shared_B.tolist()]


class RowGroup(NamedTuple):
    """Adjacent rows of one prompt. num_tokens: distinct ones, as a forward pass computes them."""

    rows: range
    num_tokens: int


def groups_of(states: States, *, together: int = 1) -> list[RowGroup]:
    """The batch's rows in groups. `together`: as for `chunks`."""
    lengths, shared, groups = states.lengths_B.tolist(), shared_with_last(states), states.group_B.tolist()
    firsts = [b for b in range(0, len(lengths), together) if b == 0 or groups[b] != groups[b - 1]]
    return [
        RowGroup(range(first, last), lengths[first] + sum(lengths[b] - shared[b] for b in range(first + 1, last)))
        for first, last in zip(firsts, [*firsts[1:], len(lengths)], strict=True)
    ]
