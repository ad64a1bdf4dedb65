"""The columns of a state on record, one row per trajectory, and the metadata of a part file. Torch-free.

The columns are described in docs/states.md. Does not know how they are filled or read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from stateshape.core.files import sha256_text

ORIGINS = ("prompt", "dataset", "learner", "teacher", "environment", "mixture")  # by number, as core.states.Origin
PER_TOKEN = (
    "learner_logp",
    "mass",
    "divergence",
    "teacher_entropy",
    "advantage",
    "ratio",
)  # keys of LossValue.per_token

SCHEMA = pa.schema(
    [
        ("step", pa.int32()),
        ("term", pa.string()),
        ("row", pa.int32()),
        ("item_id", pa.string()),
        ("group", pa.int32()),
        ("ids", pa.list_(pa.int32())),
        ("origins", pa.list_(pa.uint8())),
        ("behaviour_logp", pa.list_(pa.float32())),
        ("supervised", pa.list_(pa.bool_())),
        ("prompt_length", pa.int32()),
        ("cut", pa.int32()),
        ("finish", pa.string()),
        ("policy_version", pa.int32()),
        ("teacher", pa.string()),
        ("reward", pa.float32()),
        ("target", pa.list_(pa.int32())),
        *((name, pa.list_(pa.float32())) for name in PER_TOKEN),
    ]
)


class Source(NamedTuple):
    """Whose token ids these are, as recorded in the metadata of every part."""

    model: str  # "embedded", a folder or a hub id
    vocabulary_sha256: str

    def metadata(self) -> dict[str, str]:
        return {f"stateshape.{name}": value for name, value in self._asdict().items()}


def source_of(schema: pa.Schema) -> Source | None:
    """None where the file was not written by this package."""
    metadata = schema.metadata or {}
    keys = [f"stateshape.{name}".encode() for name in Source._fields]
    return Source(*(metadata[key].decode() for key in keys)) if all(key in metadata for key in keys) else None


def vocabulary_sha256(vocabulary: Mapping[str, int]) -> str:
    """The same for tokenizers that give every token the same id."""
    return sha256_text(json.dumps(sorted(vocabulary.items())))


@dataclass(frozen=True, kw_only=True, slots=True)
class StatesSummary:
    """states/summary.json. stopped_at_step: the first step that did not fit into the budget; None: all were recorded."""

    num_steps: int
    num_rows: int
    num_tokens: int  # prompts included
    num_bytes: int
    bytes_per_token: float | None
    budget_mb: float  # in 10^6 bytes
    stopped_at_step: int | None
