"""Documents to rows of a fixed length: whole documents, positions from 0 in each, no attention across them.

Knows nothing of models or of what the documents say. Suffixes: B row, T position.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from transformers import PreTrainedTokenizerFast

from stateshape.embedded.corpus import DOMAINS, Document

LOOKAHEAD = 64  # documents to choose from when filling a row; fills rows to about 0.99
IGNORED = -100  # cross_entropy's default ignore_index


class Batch(NamedTuple):
    """`targets_BT[:, t]` is the token after t in the same document, or IGNORED; `domains_BT` indexes DOMAINS."""

    ids_BT: Int[torch.Tensor, "B T"]
    positions_BT: Int[torch.Tensor, "B T"]
    targets_BT: Int[torch.Tensor, "B T"]
    domains_BT: Int[torch.Tensor, "B T"]
    attend_B1TT: Bool[torch.Tensor, "B 1 T T"]


class _Encoded(NamedTuple):
    ids: list[int]
    domain: int


def _encode(docs: Iterator[Document], tokenizer: PreTrainedTokenizerFast) -> Iterator[_Encoded]:
    eos = tokenizer.eos_token_id
    while True:
        chunk = list(islice(docs, LOOKAHEAD))
        for doc, ids in zip(chunk, tokenizer([doc.text for doc in chunk]).input_ids, strict=True):
            yield _Encoded([*ids, eos], DOMAINS.index(doc.domain))


def _rows(encoded: Iterator[_Encoded], length: int) -> Iterator[list[_Encoded]]:
    waiting = list(islice(encoded, LOOKAHEAD))
    while True:
        row, room, rest = [], length, []
        for doc in waiting:
            if len(doc.ids) <= room:
                row.append(doc)
                room -= len(doc.ids)
            else:
                rest.append(doc)
        if not row:
            raise ValueError(f"row length: got {length}; expected at least the longest document, {len(rest[0].ids)}")
        waiting = rest + list(islice(encoded, len(row)))
        yield row


def batches(
    docs: Iterator[Document], tokenizer: PreTrainedTokenizerFast, *, num_rows: int, length: int
) -> Iterator[Batch]:
    """Endless packed batches."""
    rows = _rows(_encode(docs, tokenizer), length)
    while True:
        yield _collate(list(islice(rows, num_rows)), length, tokenizer.pad_token_id)


def _collate(rows: list[list[_Encoded]], length: int, pad_id: int) -> Batch:
    shape = (len(rows), length)
    ids, positions = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long)
    targets, domains = torch.full(shape, IGNORED), torch.zeros(shape, dtype=torch.long)
    segments = torch.zeros(shape, dtype=torch.long)
    for b, row in enumerate(rows):
        start = 0
        for number, doc in enumerate(row, start=1):
            end = start + len(doc.ids)
            ids[b, start:end] = torch.tensor(doc.ids)
            positions[b, start:end] = torch.arange(len(doc.ids))
            targets[b, start : end - 1] = ids[b, start + 1 : end]
            domains[b, start:end], segments[b, start:end] = doc.domain, number
            start = end
    same = segments[:, :, None] == segments[:, None, :]
    attend = same & torch.ones(length, length, dtype=torch.bool).tril()
    return Batch(ids, positions, targets, domains, attend[:, None])
