"""Looks on while a run trains, and writes the states each step trained on into the run's folder. Changes nothing else.

A step's states are on the disk before its checkpoint is. When the budget is spent recording stops for good, so what is
recorded is always the run's first steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stateshape.core import layout
from stateshape.core.files import BadInput, write_json
from stateshape.core.method import Combination, Draw, Method, Versioned, terms_of
from stateshape.core.watch import StepRead, StepUpdate
from stateshape.policy.policy import Policy
from stateshape.record.parts import (
    BLOCK_STEPS,
    bytes_in,
    drop_from,
    merge_blocks,
    part_name,
    parts_of,
    read_part,
    tokens_in,
    write_part,
)  # fmt: skip
from stateshape.record.rows import rows_of
from stateshape.record.schema import SCHEMA, Source, StatesSummary, vocabulary_sha256

BYTES_A_MB = 10**6


class StateWriter:
    """A watch (core/watch.py). `teachers`: the name of each term's teacher; `budget_mb`: 10^6 bytes on the disk."""

    phase = "record"

    def __init__(
        self,
        run: Path,
        method: Method | Combination,
        *,
        budget_mb: float,
        teachers: Mapping[str, str | None] | None = None,
    ) -> None:
        if not budget_mb > 0:
            raise BadInput(f"states_mb: got {budget_mb}; expected megabytes above 0")
        self.folder = run / layout.STATES
        self.terms = terms_of(method)
        self.budget_mb = budget_mb
        self.teachers = teachers or {}
        self.stopped_at: int | None = None
        self._schema_metadata: dict[str, str] | None = None

    def resume(self, num_done: int) -> None:
        """Forgets what was recorded after `num_done` steps. Recording that had stopped before stays so."""
        self.folder.mkdir(parents=True, exist_ok=True)
        drop_from(self.folder, num_done)
        merge_blocks(self.folder, before=num_done - num_done % BLOCK_STEPS)
        recorded = self._num_steps()
        self.stopped_at = recorded if recorded < num_done else None
        if self.stopped_at is None:
            (self.folder / layout.SUMMARY).unlink(missing_ok=True)

    def before_update(self, learner: Policy, read: StepRead) -> None: ...

    def after_update(self, learner: Policy, read: StepRead, update: StepUpdate) -> None:
        if self.stopped_at is not None:
            return
        table = self._rows(learner, read, update)
        write_part(self.folder / part_name(read.step, read.step), [table], table.schema)
        if not self._fits():
            merge_blocks(self.folder, before=read.step + 1)  # a merged part is smaller
        if not self._fits():
            drop_from(self.folder, read.step)
            self.stopped_at = read.step
            self._summarise()
            return
        if (read.step + 1) % BLOCK_STEPS == 0:
            merge_blocks(self.folder, before=read.step + 1)

    def finish(self, learner: Policy) -> None:
        merge_blocks(self.folder, before=self._num_steps())
        self._summarise()

    def _rows(self, learner: Policy, read: StepRead, update: StepUpdate) -> pa.Table:
        if self._schema_metadata is None:
            source = Source(learner.weights.source, vocabulary_sha256(learner.tokenizer.get_vocab()))
            self._schema_metadata = source.metadata()
        tables = [SCHEMA.empty_table()]  # a step may have no prompts for any term
        for name, signal in read.signals.items():
            tables.append(
                rows_of(
                    signal,
                    update.per_token.get(name, {}),
                    drawn=read.states.get(name),
                    step=read.step,
                    term=name,
                    policy_version=version_of(self.terms[name].method, read.draw),
                    teacher=self.teachers.get(name),
                )
            )
        return pa.concat_tables(tables).replace_schema_metadata(self._schema_metadata)

    def _fits(self) -> bool:
        return bytes_in(self.folder) <= self.budget_mb * BYTES_A_MB

    def _num_steps(self) -> int:
        return max((part.last + 1 for part in parts_of(self.folder)), default=0)

    def _summarise(self) -> None:
        paths = [part.path for part in parts_of(self.folder)]
        num_tokens = sum(tokens_in(read_part(path, ["origins"])) for path in paths)
        num_bytes = bytes_in(self.folder)
        summary = StatesSummary(
            num_steps=self._num_steps(),
            num_rows=sum(pq.read_metadata(path).num_rows for path in paths),
            num_tokens=num_tokens,
            num_bytes=num_bytes,
            bytes_per_token=num_bytes / num_tokens if num_tokens else None,
            budget_mb=self.budget_mb,
            stopped_at_step=self.stopped_at,
        )
        write_json(self.folder / layout.SUMMARY, summary)


def version_of(method: Method, draw: Draw) -> int | None:
    """Completed updates of the learner that wrote the drawn states, where their source reports it; some keep older states."""
    return method.states.policy_version(draw) if isinstance(method.states, Versioned) else None
