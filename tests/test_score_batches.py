"""Which rows are scored in one forward pass: all of them once, in order, and cut where neighbours share least."""

import numpy as np
import pytest

from stateshape.evals.scoring import ScoredRow, batches


def row(*ids):
    return ScoredRow(list(ids), 0, [0])


def num_tokens(batch):
    """Computed by a slow way: every distinct beginning is a token."""
    return len({tuple(one.ids[:end]) for one in batch for end in range(1, len(one.ids) + 1)})


SUBJECT_A, SUBJECT_B = (1, 2, 3, 4), (5, 6, 7, 8)


def test_a_batch_ends_between_subjects():
    rows = [row(*SUBJECT_A, 20 + k) for k in range(3)] + [row(*SUBJECT_B, 20 + k) for k in range(3)]
    found = list(batches(rows, 12))  # the first five would fit
    assert [len(batch) for batch in found] == [3, 3]
    assert sum(map(num_tokens, found)) == num_tokens(rows) == 14


def test_a_subject_that_is_larger_than_a_batch_is_cut_where_the_batch_is_full():
    rows = [row(*SUBJECT_A, 20 + k) for k in range(9)]
    assert [len(batch) for batch in batches(rows, 8)] == [4, 4, 1]


def test_no_batch_ends_in_its_first_half():
    rows = [row(1), *(row(*SUBJECT_A[1:], 20 + k) for k in range(9))]
    assert len(next(batches(rows, 9))) == 6  # not after the first, with which the next shares nothing


@pytest.mark.parametrize("limit", [1, 7, 20, 50, 10_000])
def test_batches_are_all_rows_in_order_and_no_larger_than_asked(limit):
    generator = np.random.default_rng(0)
    rows = sorted((row(*generator.integers(0, 3, size=generator.integers(1, 9)).tolist()) for _ in range(60)), key=str)
    found = list(batches(rows, limit))
    assert [one for batch in found for one in batch] == rows
    for batch in found:
        assert len(batch) == 1 or num_tokens(batch) <= limit
    assert list(batches([], limit)) == []
