"""Recorded states as the DuckDB view `states`: one run's, or a whole study's with columns run and seed. Torch-free.

DuckDB sees the rows, and nothing else of the machine: it may not open files, and a statement may only select.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import LocalFileSystem

from stateshape.core.files import BadInput
from stateshape.core.wording import one_line
from stateshape.record.parts import check_part, read_part, tokens_in
from stateshape.record.reading import RecordedRun, has_same_vocabulary, recorded_runs
from stateshape.record.schema import ORIGINS, SCHEMA
from stateshape.record.text import open_decoder

PLACE = [pa.field("run", pa.string()), pa.field("seed", pa.int32())]
DECODE = "text_of"


class Answer(NamedTuple):
    columns: list[str]
    rows: list[tuple[object, ...]]


class StatesView:
    """A connection to the states of a run's or a study's folder. Use as a context: it is closed at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: list[RecordedRun] = recorded_runs(folder)
        for part in (part for run in self.runs for part in run.recording.parts):
            check_part(part.path)
        self.is_study = self.runs[0].run is not None
        self.connection = duckdb.connect()
        self.connection.register("states", dataset_of(self.runs, is_study=self.is_study))
        self.connection.execute("SET enable_external_access = false; SET python_enable_replacements = false")

    def __enter__(self) -> StatesView:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def select(self, sql: str, values: Sequence[object] = ()) -> Answer:
        """The answer to one SELECT. Raises BadInput with DuckDB's reason in one line."""
        try:
            statements = self.connection.extract_statements(sql)
            kinds = [statement.type.name for statement in statements]
            if kinds not in (["SELECT"], ["EXPLAIN"]):
                shown = ", ".join(kinds) or "nothing"
                raise BadInput(f"sql: got {shown}; expected one SELECT over the view `states`")
            if DECODE in sql.lower():
                self._register_decode()
            answer = self.connection.execute(statements[0], list(values))
            return Answer([column[0] for column in answer.description], answer.fetchall())
        except duckdb.Error as error:
            reason = str(error).strip().splitlines()
            told = one_line(reason[0] if reason else type(error).__name__, limit=300)
            raise BadInput(f"sql: {told}; see docs/states.md") from None

    def _register_decode(self) -> None:
        if not has_same_vocabulary(self.runs):
            raise BadInput(f"sql: {DECODE}: the runs have different tokenizers; expected one; ask one run's folder")
        decoder = open_decoder(self.runs[0].recording.source)

        def text_of(ids: list[int]) -> str:
            return decoder.decode([token for token in ids if token is not None], skip_special_tokens=False)

        self.connection.create_function(DECODE, text_of, ["INTEGER[]"], "VARCHAR")  # type: ignore[list-item, arg-type]

    def summary(self) -> Answer:
        """A row for each run and term: rows, tokens, who wrote them, bytes per token, and the steps."""
        shares = ", ".join(
            f"sum(len(list_filter(origins, lambda o: o = {number}))) / nullif(sum(len(ids) - prompt_length), 0) AS {name}"
            for number, name in enumerate(ORIGINS)
            if name != "prompt"
        )
        place = "run, seed, " if self.is_study else ""
        columns, rows = self.select(
            f"SELECT {place}term, min(step) AS first_step, max(step) AS last_step, count(*) AS rows, sum(len(ids)) AS tokens, "
            f"sum(len(list_filter(supervised, lambda s: s))) AS supervised, {shares} FROM states "
            f"GROUP BY {place}term ORDER BY {place}term"
        )
        sizes = {(run.run, run.seed): bytes_per_token(run) for run in self.runs}
        per_row = [(*row, sizes[row[:2] if self.is_study else (None, None)]) for row in rows]  # type: ignore[index]
        return Answer([*columns, "bytes_per_token"], per_row)


def dataset_of(runs: Sequence[RecordedRun], *, is_study: bool) -> ds.Dataset:
    paths, partitions = [], []
    for run in runs:
        for part in run.recording.parts:
            paths.append(str(part.path))
            partitions.append(
                (ds.field("run") == run.run) & (ds.field("seed") == run.seed) if is_study else ds.scalar(True)
            )
    return ds.FileSystemDataset.from_paths(
        paths,
        schema=pa.schema([*PLACE, *SCHEMA]) if is_study else SCHEMA,
        format=ds.ParquetFileFormat(),
        filesystem=LocalFileSystem(),
        partitions=partitions,
    )


def bytes_per_token(run: RecordedRun) -> float | None:
    """On the disk, of all terms and columns together."""
    parts = run.recording.parts
    num_tokens = sum(tokens_in(read_part(part.path, ["origins"])) for part in parts)
    return sum(part.path.stat().st_size for part in parts) / num_tokens if num_tokens else None
