"""States that outlive their step, kept in the run's folder: a whole epoch's, or all states so far (DAgger).

States are written before they are used and never changed, so a resumed run reads the same ones.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from stateshape.core import layout
from stateshape.core.files import read_jsonl, write_jsonl
from stateshape.core.method import Draw, StateKind, StateSource
from stateshape.core.ranks import current
from stateshape.core.seeds import seed_for
from stateshape.core.states import States, Trajectory, pack
from stateshape.policy.policy import Policy


@dataclass(frozen=True, kw_only=True, slots=True)
class EveryEpoch:
    """The source's states for all prompts, drawn again by the current learner when each pass over the prompts begins."""

    source: StateSource[Any]
    item_ids: tuple[str, ...]
    folder: Path
    kind: ClassVar[StateKind] = "learner"

    def draw(self, learner: Policy, draw: Draw) -> States:
        path = self.folder / layout.KEPT / f"epoch-{draw.epoch}.jsonl"
        if not is_kept(path):
            whole = draw._replace(item_ids=self.item_ids)
            keep(path, self.source.draw(learner, whole).trajectories())
        rows: dict[str, list[Trajectory]] = {}
        for row in kept_rows(path):
            rows.setdefault(row.item_id, []).append(row)
        chosen = [replace(row, group=g) for g, item_id in enumerate(draw.item_ids) for row in rows[item_id]]
        return pack(chosen, device=learner.device)


@dataclass(frozen=True, kw_only=True, slots=True)
class Aggregated:
    """DAgger's aggregation: as many rows as the source draws, each from a uniformly drawn step so far."""

    source: StateSource[Any]
    folder: Path
    kind: ClassVar[StateKind] = "mixture"

    def draw(self, learner: Policy, draw: Draw) -> States:
        path = self.folder / layout.KEPT / f"step-{draw.step}.jsonl"
        if not is_kept(path):
            keep(path, self.source.draw(learner, draw).trajectories())
        num_rows = len(kept_rows(path))
        rng = random.Random(seed_for(draw.seed, "aggregated", draw.step))
        places = [(rng.randint(0, draw.step), k) for k in range(num_rows)]
        rows = {step: kept_rows(self.folder / layout.KEPT / f"step-{step}.jsonl") for step, _ in places}
        chosen = [rng.choice(rows[step]) for step, _ in places]
        return pack([replace(row, group=k) for k, row in enumerate(chosen)], device=learner.device)


def is_kept(path: Path) -> bool:
    return current().by_first(path.exists)


def kept_rows(path: Path) -> list[Trajectory]:
    return current().by_first(lambda: read_jsonl(path, Trajectory))


def keep(path: Path, rows: list[Trajectory]) -> None:
    def written() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(path, rows)

    current().by_first(written)
