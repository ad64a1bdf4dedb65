"""The part files of a run's states: one per step as it goes, merged by blocks of steps. Torch-free.

A part is named after its first and last step and appears whole. Whatever moment a process is killed at, the parts that
count hold every finished step once: a part whose steps lie inside another one's is what an interrupted merge left behind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stateshape.core.files import BadInput, whole
from stateshape.core.wording import one_line, shown
from stateshape.record.schema import SCHEMA

BLOCK_STEPS = 64  # steps of a merged part
ROW_GROUP_TOKENS = 2**20  # what is decoded at a time: some MB
NAME = re.compile(r"steps-(\d{6,9})-(\d{6,9})\.parquet")
FLOATS = [f"{field.name}.list.element" for field in SCHEMA if field.type == pa.list_(pa.float32())]
EVERY_TOKEN = ("ids", "origins", "behaviour_logp", "supervised")
EVERY_ROW = (*EVERY_TOKEN, "step", "term", "row", "item_id", "group", "prompt_length", "finish")
DICTIONARY = [
    f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name
    for field in SCHEMA
    if field.type not in (pa.list_(pa.float32()), pa.list_(pa.bool_()))
]


class PartFile(NamedTuple):
    path: Path
    first: int
    last: int


def part_name(first: int, last: int) -> str:
    return f"steps-{first:06d}-{last:06d}.parquet"


def all_parts(folder: Path) -> list[PartFile]:
    matches = [(path, NAME.fullmatch(path.name)) for path in folder.glob("*.parquet")]
    return [PartFile(path, int(match[1]), int(match[2])) for path, match in matches if match]


def parts_of(folder: Path) -> list[PartFile]:
    """The parts that count, in order of steps."""
    valid: list[PartFile] = []
    for part in sorted(all_parts(folder), key=lambda part: (part.first, -part.last)):
        if not valid or part.last > valid[-1].last:
            valid.append(part)
    return valid


def read_part(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Raises BadInput where the file is damaged, or holds other columns or steps than its name and the schema say."""
    check_part(path)
    with reading(path):
        table = pq.read_table(path, columns=columns, partitioning=None)
        table.validate(full=True)  # texts are UTF-8, offsets lie inside their arrays
    check_rows(path, table)
    return table


def check_rows(path: Path, table: pa.Table) -> None:
    """Nothing is missing that every row has, and what goes with the tokens is as long as they are. Raises BadInput."""
    for name in (name for name in EVERY_ROW if name in table.column_names):
        if table[name].null_count:
            raise BadInput(f"{path}: {name}: got a row without it; expected it in every row; use the run's own file")
    lengths = [pc.list_value_length(table[name]) for name in EVERY_TOKEN if name in table.column_names]
    for other in lengths[1:]:
        if not other.equals(lengths[0]):
            raise BadInput(
                f"{path}: got a row whose {', '.join(EVERY_TOKEN)} differ in length; expected one for each token"
            )
    match = NAME.fullmatch(path.name)
    if match and "step" in table.column_names and len(table):
        steps = pc.min_max(table["step"]).as_py()
        if steps["min"] < int(match[1]) or steps["max"] > int(match[2]):
            raise BadInput(
                f"{path}: step: got rows of steps {steps['min']} to {steps['max']}; expected those that its name says; give "
                "it its old name"
            )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns an Arrow error about a damaged file into BadInput. A file that is gone stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, MemoryError, OverflowError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{path}: not a readable Parquet file ({one_line(reason, limit=120)})") from None


def check_part(path: Path) -> None:
    """Whether it is a Parquet file with the columns of a part, according to its footer. Raises BadInput."""
    with reading(path):
        schema = pq.read_schema(path)
    for wanted in SCHEMA:
        at = schema.get_field_index(wanted.name)
        if at < 0 or schema.field(at).type != wanted.type:
            got = "no such column" if at < 0 else str(schema.field(at).type)
            raise BadInput(
                f"{path}: {wanted.name}: got {shown(got)}; expected {wanted.type}, as a run records it; use the run's own file"
            )


def write_part(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Row group by row group into a file that appears whole."""
    with (
        whole(path) as temporary,
        pq.ParquetWriter(
            temporary, schema, compression="zstd", use_dictionary=DICTIONARY, use_byte_stream_split=FLOATS
        ) as writer,
    ):
        for table in tables:
            writer.write_table(table)


def row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of about ROW_GROUP_TOKENS."""
    waiting: list[pa.Table] = []
    num_tokens = 0
    for table in tables:
        waiting.append(table)
        num_tokens += tokens_in(table)
        if num_tokens >= ROW_GROUP_TOKENS:
            yield pa.concat_tables(waiting)
            waiting, num_tokens = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


def tokens_in(table: pa.Table) -> int:
    return pc.sum(pc.list_value_length(table["origins"])).as_py() or 0


def merge_blocks(folder: Path, *, before: int) -> None:
    """Joins the parts of each block of steps that ends before step `before`."""
    blocks: dict[int, list[PartFile]] = {}
    for part in parts_of(folder):
        if part.last < before:
            blocks.setdefault(part.first // BLOCK_STEPS, []).append(part)
    for parts in blocks.values():
        if len(parts) > 1:
            merged = folder / part_name(parts[0].first, parts[-1].last)
            tables = (read_part(part.path) for part in parts)
            write_part(merged, row_groups(tables), pq.read_schema(parts[0].path))
            for part in parts:
                part.path.unlink()


def drop_from(folder: Path, step: int) -> None:
    """Removes steps `step`, `step` + 1, ..., and what an interrupted process left behind."""
    valid = parts_of(folder)
    for path in [*folder.glob(".*.tmp"), *(part.path for part in all_parts(folder) if part not in valid)]:
        path.unlink()
    for part in reversed(valid):
        if part.last < step:
            break
        if part.first < step:
            table = read_part(part.path)
            shorter = folder / part_name(part.first, step - 1)
            write_part(shorter, row_groups([table.filter(pc.field("step") < step)]), table.schema)
        part.path.unlink()


def bytes_in(folder: Path) -> int:
    return sum(part.path.stat().st_size for part in parts_of(folder))
