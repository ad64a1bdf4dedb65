"""The recorded states of one run, or of a study's runs, found and read back. Torch-free."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stateshape.core import layout
from stateshape.core.files import BadInput
from stateshape.core.wording import MAX_PATH, shown
from stateshape.record.parts import PartFile, parts_of, read_part, reading
from stateshape.record.schema import Source, source_of

SEED = re.compile(r"seed(\d+)")


class Recording:
    """A run's states. `folder`: the run's. Raises BadInput where nothing was recorded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: list[PartFile] = parts_of(folder / layout.STATES)
        if not self.parts:
            raise BadInput(
                f"states: got {shown(str(folder), limit=MAX_PATH)}, which has no recorded states; expected a run's folder with "
                f"{layout.STATES}/steps-*.parquet; train with states_mb above 0"
            )
        self._held: tuple[Path, pa.Table] | None = None

    @cached_property
    def source(self) -> Source:
        path = self.parts[0].path
        with reading(path):
            source = source_of(pq.read_schema(path))
        if source is None:
            raise BadInput(f"{path}: got no stateshape.model in its metadata; expected states that a run recorded")
        return source

    @property
    def num_steps(self) -> int:
        """Steps 0 to num_steps - 1 were recorded."""
        return self.parts[-1].last + 1

    @cached_property
    def terms(self) -> list[str]:
        terms: set[str] = set()
        for part in self.parts:
            terms |= set(pc.unique(read_part(part.path, ["term"])["term"]).to_pylist())
        return sorted(terms)

    def chosen_term(self, term: str | None) -> str:
        """The one asked for, or the only one there is. Raises BadInput."""
        known = ", ".join(self.terms)
        if term is None and len(self.terms) > 1:
            raise BadInput(f"term: got none, but {self.folder} recorded several; expected one of {known}")
        if term is not None and term not in self.terms:
            expected = f"one of {known}" if any(self.terms) else "none: the run had one method alone"
            raise BadInput(f"term: got {shown(term)}, which {self.folder} did not record; expected {expected}")
        return self.terms[0] if term is None else term

    def rows(self, step: int, term: str) -> pa.Table:
        """A step's rows of one term, in batch order. Raises BadInput for a step that was not recorded."""
        part = next((part for part in self.parts if part.first <= step <= part.last), None)
        if part is None:
            raise BadInput(
                f"steps: got step {step}, but {self.folder} recorded steps 0 to {self.num_steps - 1}; expected no step beyond "
                f"them; use --steps {self.num_steps} or fewer"
            )
        if self._held is None or self._held[0] != part.path:
            self._held = (part.path, read_part(part.path))  # the next step is most often in the same part
        return self._held[1].filter((pc.field("step") == step) & (pc.field("term") == term)).sort_by("row")

    def writers(self, term: str) -> dict[int, bool]:
        """By who wrote tokens of this term, whether the log-prob of each is known."""
        known_by_writer: dict[int, bool] = {}
        for part in self.parts:
            table = read_part(part.path, ["term", "origins", "behaviour_logp"]).filter(pc.field("term") == term)
            origins = pc.list_flatten(table["origins"])
            logps = pc.list_flatten(table["behaviour_logp"])
            is_known = pc.and_kleene(pc.is_valid(logps), pc.invert(pc.is_nan(logps)))
            for origin in pc.unique(origins).to_pylist():
                all_known = pc.all(is_known.filter(pc.equal(origins, origin))).as_py()
                known_by_writer[origin] = known_by_writer.get(origin, True) and bool(all_known)
        return known_by_writer

    def item_ids(self, term: str) -> list[tuple[str, ...]]:
        """The prompts of each step, as it drew them: one item id a group, in order."""
        groups: list[dict[int, str]] = [{} for _ in range(self.num_steps)]
        for part in self.parts:
            table = read_part(part.path, ["step", "term", "group", "item_id"]).filter(pc.field("term") == term)
            for step, group, item_id in zip(*(table[name].to_pylist() for name in ("step", "group", "item_id"))):
                groups[step][group] = item_id
        return [tuple(of_step[group] for group in sorted(of_step)) for of_step in groups]


def item_ids_by_step(folder: Path, term: str | None = None) -> list[tuple[str, ...]]:
    """What a replay draws at each recorded step. `folder`: a run's."""
    recording = Recording(folder)
    return recording.item_ids(recording.chosen_term(term))


class RecordedRun(NamedTuple):
    """run, seed: where in a study; None for a run alone."""

    run: str | None
    seed: int | None
    recording: Recording


def recorded_runs(folder: Path) -> list[RecordedRun]:
    """A run's states, or those of all runs of a study that have any. Raises BadInput where there are none."""
    if not os.path.isdir(folder):
        raise BadInput(
            f"states: got {shown(str(folder), limit=MAX_PATH)}, which is no folder; expected a run's or a study's"
        )
    if parts_of(folder / layout.STATES) or not (folder / layout.RUNS).is_dir():
        return [RecordedRun(None, None, Recording(folder))]
    runs = []
    for path in sorted(folder.glob(f"runs/*/seed*/{layout.STATES}"), key=place):
        if parts_of(path):
            run, seed = place(path)
            runs.append(RecordedRun(run, seed, Recording(path.parent)))
    if not runs:
        raise BadInput(
            f"states: got {shown(str(folder), limit=MAX_PATH)}, a study none of whose runs has recorded "
            "states; expected some; set states_mb above 0 in its train settings"
        )
    return runs


def place(path: Path) -> tuple[str, int]:
    """(run, seed) from .../runs/<run>/seed<k>/states."""
    match = SEED.fullmatch(path.parent.name)
    return path.parent.parent.name, int(match[1]) if match else -1


def has_same_vocabulary(runs: Sequence[RecordedRun]) -> bool:
    return len({run.recording.source.vocabulary_sha256 for run in runs}) == 1
