"""Rows as a prefix tree: nothing lost, nothing shared that differs, nothing long stored twice."""

import random

import pytest

from stateshape.core.prefix_tree import MIN_SHARED, common_length, prefix_tree


def paths(tree):
    """For each row: (segment, offset) of each of its tokens."""
    of_segment = []
    for number, segment in enumerate(tree.segments):
        assert -1 <= segment.parent < number  # a parent comes first
        before = of_segment[segment.parent] if segment.parent >= 0 else []
        assert segment.depth == len(before)
        of_segment.append([*before, *((number, i) for i in range(len(segment.ids)))])
    return [of_segment[leaf] for leaf in tree.leaf_of_row]


def rows_of(tree):
    return [[tree.segments[number].ids[i] for number, i in path] for path in paths(tree)]


def random_rows(seed):
    """Few different tokens; rows that go on from any place of another row, equal rows, rows that begin another."""
    rng = random.Random(seed)
    rows = [[rng.randrange(3) for _ in range(rng.randint(1, 30))]]
    for _ in range(rng.randint(0, 14)):
        other = rng.choice(rows)
        kept = other[: rng.randint(0, len(other))]
        rows.append([*kept, *(rng.randrange(3) for _ in range(rng.choice([0, 1, 5, 20])))] or [0])
    rng.shuffle(rows)
    return rows


@pytest.mark.parametrize("min_shared", [1, 3, MIN_SHARED])
def test_random_rows_come_back_and_share_their_beginnings(min_shared):
    num_shared = 0
    for seed in range(300):
        rows = random_rows(seed)
        tree = prefix_tree(rows, min_shared=min_shared)
        assert rows_of(tree) == rows
        assert all(tree.segments[k].ids for k in range(len(tree.segments)))
        made = paths(tree)
        for a in range(len(rows)):
            for b in range(a):
                common, shared = common_length(rows[a], rows[b]), common_length(made[a], made[b])
                assert shared <= common
                assert common - shared < min_shared  # what is stored twice is short
                if rows[a] == rows[b]:
                    assert shared == common
                num_shared += shared
        used = {node for path in made for node in path}
        assert len(used) == sum(len(segment.ids) for segment in tree.segments)  # no token that is nobody's
    assert num_shared > 10_000


def test_a_group_by_hand():
    prompt = list(range(10, 20))
    tree = prefix_tree([[*prompt, 1, 2], [*prompt, 3], prompt, [*prompt, 1, 2], [7]])
    assert [(list(s.ids), s.parent, s.depth) for s in tree.segments] == [
        ([7], -1, 0),
        (prompt, -1, 0),
        ([1, 2], 1, 10),
        ([3], 1, 10),
    ]
    assert tree.leaf_of_row == [2, 3, 1, 2, 0]


@pytest.mark.parametrize(("num_common", "num_segments"), [(MIN_SHARED - 1, 2), (MIN_SHARED, 3)])
def test_a_short_beginning_is_not_worth_a_segment(num_common, num_segments):
    common = list(range(num_common))
    tree = prefix_tree([[*common, 50, 51], [*common, 60]])
    assert len(tree.segments) == num_segments
    assert rows_of(tree) == [[*common, 50, 51], [*common, 60]]


@pytest.mark.parametrize("rows", [[[]], [[1, 2], []]])
def test_an_empty_row_is_refused(rows):
    with pytest.raises(ValueError, match="expected at least one token in each"):
        prefix_tree(rows)


def test_no_rows_are_no_tree():
    assert prefix_tree([]) == ([], [])


def test_common_length():
    assert common_length([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_length([1, 2], [1, 2, 4]) == 2
    assert common_length([], [1]) == 0
    assert common_length([2], [1]) == 0
