"""A teacher of which only the likeliest tokens are told, as a protocol. Knows no engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable


class Top(NamedTuple):
    """The likeliest K tokens at each of N places, the likeliest first, with their log-probs in nats at temperature 1."""

    ids_NK: list[list[int]]
    logp_NK: list[list[float]]


@runtime_checkable
class TopTeacher(Protocol):
    """A teacher that tells the likeliest `top_k` tokens."""

    @property
    def top_k(self) -> int: ...

    def top(self, rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> Top:
        """Of what it expects at each place of each row, given the tokens before it. Row by row; no place is a row's first."""
        ...
