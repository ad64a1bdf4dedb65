"""Sampling for models that no pass over prefix trees fits: batches of rows in the model's own cache (policy/own_cache.py).

A prompt's cache is made once and copied to its samples, where the cache can be copied; rows that ended are dropped when enough
of them have. Prompts of different lengths share a batch only where left padding changes nothing. Draws are those of
sampling/draw.py by row and step, so what is drawn does not depend on the batch. Knows nothing of tasks or states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from stateshape.core.tensors import cooled
from stateshape.policy.habits import Habits
from stateshape.policy.policy import Policy
from stateshape.sampling.draw import draw
from stateshape.sampling.rows import Results, Row
from stateshape.sampling.settings import SamplingSettings

DROP_SHARE = 1 / 8  # of a batch's rows must have ended before the others' cache is copied: a copy costs about a step
MAX_PADDING = 1.5  # a prompt may be so many times shorter than its batch's longest


def sample_general(
    policy: Policy, prompts: Sequence[Sequence[int]], settings: SamplingSettings, uniform_CS: Tensor, results: Results
) -> None:
    """Fills `results`; see Sampler. `uniform_CS`: a number in [0, 1) for each row of the result and each step."""
    habits = policy.weights.passes.habits
    assert habits is not None
    for batch in batches([len(prompt) for prompt in prompts], settings, habits):
        _Batch(policy, settings, uniform_CS, results).run(prompts, batch, habits)


def batches(lengths: Sequence[int], settings: SamplingSettings, habits: Habits) -> Iterator[list[tuple[int, range]]]:
    """Prompts with the numbers of their samples, batch by batch, longest first."""
    size = settings.batch_rows if habits.caches_batches or not habits.caches else 1
    batch: list[tuple[int, range]] = []
    num_rows = 0
    for prompt in np.argsort([-length for length in lengths], kind="stable").tolist():
        for first in range(0, settings.num_samples, size):
            samples = range(first, min(first + size, settings.num_samples))
            longest = lengths[batch[0][0]] if batch else lengths[prompt]
            fits = longest <= MAX_PADDING * lengths[prompt] if habits.pads_left else longest == lengths[prompt]
            if batch and (num_rows + len(samples) > size or not fits):
                yield batch
                batch, num_rows = [], 0
            batch.append((prompt, samples))
            num_rows += len(samples)
    if batch:
        yield batch


class _Batch:
    """Rows that are sampled side by side, step by step."""

    def __init__(self, policy: Policy, settings: SamplingSettings, uniform_CS: Tensor, results: Results) -> None:
        self.policy, self.settings, self.uniform_CS, self.results = policy, settings, uniform_CS, results

    def run(self, prompts: Sequence[Sequence[int]], batch: list[tuple[int, range]], habits: Habits) -> None:
        growing, copies = habits.growing(self.policy.weights.model), self.settings.num_samples
        rows = [Row(i * copies + k, len(prompts[i])) for i, samples in batch for k in samples]
        of_row = [place for place, (_, samples) in enumerate(batch) for _ in samples]
        can_copy = habits.selects or not habits.caches
        started = [prompts[batch[place][0]] for place in (range(len(batch)) if can_copy else of_row)]
        logits_RV = growing.start(started)
        self.count(sum(map(len, started)), sum(len(row) * (len(row) + 1) // 2 for row in started), len(started))
        if can_copy and len(of_row) > len(batch):
            index_R = torch.tensor(of_row, device=self.policy.device)
            growing.select(index_R)
            logits_RV = logits_RV[index_R]
        while True:
            token_R = self.take(rows, logits_RV)
            left = [r for r, row in enumerate(rows) if row.ending is None]
            if not left:
                return
            if can_copy and len(rows) - len(left) >= DROP_SHARE * len(rows):
                index_R = torch.tensor(left, device=self.policy.device)
                growing.select(index_R)
                rows, token_R = [rows[r] for r in left], token_R[index_R]
            logits_RV = growing.step(token_R)
            self.count(len(rows), sum(row.length for row in rows), len(rows))

    def take(self, rows: list[Row], logits_RV: Tensor) -> Tensor:
        """Draws a token for each row; rows that have ended ignore theirs."""
        logits_RV = logits_RV.to(torch.promote_types(logits_RV.dtype, torch.float32))
        numbers = torch.tensor([row.number for row in rows], device=logits_RV.device)
        steps = torch.tensor([min(len(row.ids), self.uniform_CS.shape[1] - 1) for row in rows], device=logits_RV.device)
        greedy = self.settings.temperature == 0
        cooled_RV = cooled(logits_RV, self.settings.temperature or 1.0)
        token_R, logp_R = draw(cooled_RV, self.uniform_CS[numbers, steps], greedy=greedy)
        self.results.record(rows, token_R.tolist(), logp_R.tolist())
        return token_R

    def count(self, tokens: int, pairs: int, positions: int) -> None:
        self.policy.count_work(tokens=tokens, pairs=pairs, positions=positions)
