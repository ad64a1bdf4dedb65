"""Rows being sampled, and the results of those that have ended. Knows no engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from stateshape.policy.policy import Policy
from stateshape.sampling.settings import Completion, Finish, Progress, SamplingSettings
from stateshape.sampling.stops import StopWatch


@dataclass(slots=True)
class Row:
    """A row in use."""

    number: int  # of the result
    prompt_length: int
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    ending: Finish | None = None

    @property
    def length(self) -> int:
        return self.prompt_length + len(self.ids)


class Results:
    """Completions of one call of a sampler, by row number."""

    def __init__(
        self, policy: Policy, num_prompts: int, settings: SamplingSettings, progress: Progress | None = None
    ) -> None:
        self.settings, self.max_positions, self.progress = settings, policy.max_positions, progress
        self.watch = StopWatch(policy, settings.stops)
        self.num_prompts = num_prompts
        self.completions = [Completion([], [], "length")] * (num_prompts * settings.num_samples)
        self.num_done = 0

    def record(self, rows: Sequence[Row], tokens_R: Sequence[int], logps_R: Sequence[float]) -> None:
        """Appends one token to each row that has not ended, and keeps the rows that end with it."""
        for row, token, logp in zip(rows, tokens_R, logps_R, strict=True):
            if row.ending is not None:
                continue
            self.append(row, token, logp)
            if row.ending is not None:
                self.keep(row)

    def append(self, row: Row, token: int, logp: float) -> None:
        """One token more, which may be the row's last."""
        row.ids.append(token)
        row.logps.append(logp)
        row.ending = self.watch.ending(row.ids)
        is_full = len(row.ids) == self.settings.max_new_tokens or row.length == self.max_positions
        if row.ending is None and is_full:
            row.ending = "length"

    def keep(self, row: Row) -> None:
        """A row that has ended."""
        assert row.ending is not None
        self.completions[row.number] = Completion(row.ids, row.logps, row.ending)
        self.num_done += 1

    def tell(self) -> None:
        """Reports progress: prompts done, of all."""
        if self.progress:
            self.progress(self.num_done // self.settings.num_samples, self.num_prompts)
