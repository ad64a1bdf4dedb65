"""Where responses are cut: shares, uncertainty, first errors, and a function of one's own."""

import random
from collections import Counter

import pytest
import torch

import tiny
from stateshape.core.files import BadInput
from stateshape.core.states import Origin, pack
from stateshape.states.cuts import Cut, OneState, response_entropies
from stateshape.tasks.equations import equations
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.load import load_task
from stateshape.tasks.steps import first_error, value_of


def kept(cut, num_tokens, num=4000):
    rows = [tiny.row([3], [5] * num_tokens, Origin.LEARNER)] * num
    return [len(row.ids) - 1 for row in cut.applied(None, rows, {}, random.Random(0))]


@pytest.mark.parametrize("num_tokens", [0, 1, 2, 7, 50])
def test_a_uniform_cut_always_leaves_the_teacher_something_to_say(num_tokens):
    """Even at high = 1 the last token goes: it may be the end token."""
    assert set(kept(Cut(low=0.0, high=1.0), num_tokens)) == set(range(max(num_tokens, 1)))


def test_a_uniform_cut_stays_within_its_shares():
    lengths = kept(Cut(low=0.25, high=0.5), 100)
    assert (min(lengths), max(lengths)) == (25, 49)
    assert sum(lengths) / len(lengths) == pytest.approx(37, abs=0.7)
    assert set(kept(Cut(low=0.0, high=0.0), 100)) == {0}
    assert set(kept(Cut(low=0.4, high=0.4), 100)) == {40}, "a fixed fraction"


@pytest.mark.parametrize(("low", "high"), [(-0.1, 0.5), (0.6, 0.5), (0.0, 1.1)])
def test_a_cut_outside_the_response_is_refused(low, high):
    with pytest.raises(BadInput, match="expected 0 <= low <= high <= 1"):
        Cut(low=low, high=high)


def test_a_cut_that_is_not_there_is_refused():
    with pytest.raises(
        BadInput, match=r"cut\.at: got 'entrpy'; expected uniform, entropy, first-error, or file.py:name"
    ):
        Cut(at="entrpy")


def test_one_state_is_uniform_over_the_states_of_a_rollout():
    """Of n written tokens each is the last one kept equally often: first and last included."""
    counts = Counter(kept(OneState(), 5, num=5000))
    assert counts.keys() == {1, 2, 3, 4, 5}
    assert all(abs(count - 1000) < 130 for count in counts.values())  # 4.6 standard deviations


def test_entropies_stand_before_each_token_of_the_response():
    policy = tiny.learner(tiny.weights(), size=0.1)
    rows = [tiny.row([3, 4], [5, 6, 7], Origin.LEARNER), tiny.row([3], [9], Origin.LEARNER)]
    found = response_entropies(policy, rows)
    states = pack(rows, device="cpu")
    with torch.no_grad():
        logp = (tiny.hidden(policy, states.ids_BT, states.lengths_B) @ policy.head.weight_VD.T).log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    assert [len(one) for one in found] == [3, 1]
    assert found[0] == pytest.approx(entropy[0, 1:4].tolist(), abs=1e-5)
    assert found[1] == pytest.approx(entropy[1, :1].tolist(), abs=1e-5)


def test_the_entropy_cut_hands_over_at_the_most_uncertain_token():
    policy = tiny.learner(tiny.weights(), size=0.1)
    rows = [tiny.row([3, 4], [5, 6, 7, 8, 9, 10, 11, 12], Origin.LEARNER)]
    entropies = response_entropies(policy, rows)[0]
    cut = Cut(at="entropy", low=0.25, high=0.75)
    (row,) = cut.applied(policy, rows, {}, random.Random(0))
    place = len(row.ids) - 2
    assert 2 <= place < 6
    assert entropies[place] == max(entropies[2:6])


# First errors: real near misses included


@pytest.mark.parametrize(
    ("text", "gold", "at"),
    [
        ("He has 3+4=7. He gives 7*2=15 away.\n#### 15", "14", "7*2=15"),
        ("<<48/2=24>>24 in May.\n#### 25", "24", "#### 25"),
        ("It is 1/3 = 0.33 of it, 3 x $4 = $12.\n#### 12", "12", None),
        ("2 + 3 = 5 + 1 = 6", "6", None),  # a chain: 2 + 3 = 5, 5 + 1 = 6
        ("48+24 = 62", "72", "48+24 = 62"),
        ("no equation, no answer", "5", None),
        ("1,000 - 1 = 999\n#### 999", "999", None),
        ("5/0 = 3\n#### 5", "5", None),  # nothing can be said
        # numbers as people write them
        ("7 * 0.05 = 0.35", "7", None),
        ("10 * 0.05 = 5", "5", "10 * 0.05"),
        ("1.005 + 100.005 = 101.01", "0", None),
        (".5 * 4 = 2, .85 + .15 = 1", "2", None),
        (".5 * 4 = 3", "2", ".5 * 4"),
        ("1 1/2 * 4 = 6, 1 1/2 + 2 1/4 = 3 3/4", "6", None),
        ("In week 2 3/4 = 0.75 of it", "6", None),
        ("1 1/2 * 4 = 7", "6", "1 1/2"),
        ("12 x 1 and 1/4 = 15", "15", None),
        ("50 * 20% = 10, 20/50*100 = 40%", "10", None),
        ("50 * 20% = 11", "10", "50 * 20%"),
        ("30 + 15 = 3:45, 10:00 - 2 = 8", "0", None),
        ("1,5 + 2 = 3,5", "0", None),  # a decimal comma is not read
        # the right side may be an expression, and a chain may be a running total
        ("20 / 60 = 1/3", "7", None),
        ("20 / 60 = 1/4", "7", "20 / 60"),
        ("6 + 3 * 2 = 6 + 6 = 12", "12", None),
        ("6 + 3 * 2 = 6 + 6 = 13", "13", "6 + 6"),
        ("3 * 4\n= 12\n= 13", "12", "12"),
        ("2(3 + 4) = 14, 35(2/5) = 14", "14", None),
        ("2(3 + 4) = 15", "14", "2(3"),
        ("25 / 1/3 = 75 and 6 / 2 / 3 = 1", "75", None),
        ("2,430 – (1,250 + 850) = 330", "330", None),
        # rounded in the last decimal that is printed, and no further
        ("100 / 3 = 33.3, 22 / 7 = 3.142", "33", None),
        ("100 / 3 = 33.5", "33", "100 / 3"),
        ("1.5 + 1.5 = 3.1", "3", "1.5 + 1.5"),
        # what can't be read is no error
        ("3x-5=16, 13x = 260, 2x + 3 = 9, 100/5 = 5A/5", "20", None),
        ("35 questions x 2/5 = 14, 6 pens - 2 = 4, Day 1 = 5, weeks 1-2 = 96", "14", None),
        ("2^3 = 9, \\frac{1}{2} = 3, $100 000 x 10/100 = $10,000", "9", None),
        ("- 3 + 4 = 7\n* 2 + 2 = 4\n1) 12 * 2 = 24 (3 + 4 = 7)", "7", None),
        ("- 3 + 4 = 8\n", "7", "- 3"),
        ("1) 12 * 2 = 25", "7", "12 * 2"),
        ("**3 + 4 = 8**", "7", "3 + 4"),
        ("(" * 5000 + "1 = 2", "7", None),
        ("9" * 5000 + " + 1 = 2", "7", None),
        # the final answer
        ("#### Step 1\n3+4=7\n#### 7", "7", None),
        ("#### 1. Add\n3+4=7\n#### 8", "7", "#### 8"),
        ("half\n#### 1/2", "1/2", None),
        ("half\n#### 50%", "50", None),
        ("seven\n#### 7.0", "7", None),
    ],
)
def test_the_first_error_is_the_first_equation_that_does_not_hold(text, gold, at):
    assert first_error(text, gold) == (None if at is None else text.index(at))


def test_values_are_exact():
    assert value_of("0.1 + 0.2") == value_of("0.3")
    assert value_of("2*(3)") == 6
    assert value_of("__import__('os')") is None


def test_the_first_error_cut_keeps_what_was_right():
    policy = tiny.learner(tiny.weights())
    text = "3+4=7 and 7+1=9."
    items = {"x": GenerationItem(item_id="x", prompt="q", gold="8")}
    rows = [tiny.row(policy.encode("q"), policy.encode(text), Origin.LEARNER)]
    (row,) = Cut(at="first-error").applied(policy, rows, items, random.Random(0))
    assert policy.decode(row.ids[row.prompt_length :]) == "3+4=7 and "


def test_a_cut_of_your_own(tmp_path):
    (tmp_path / "mine.py").write_text("def half(policy, rows, items, rng): return [1 for row in rows]\n")
    rows = [tiny.row([3], [5, 6, 7], Origin.LEARNER)] * 2
    found = Cut(at=f"{tmp_path / 'mine.py'}:half").applied(None, rows, {}, random.Random(0))
    assert [row.ids for row in found] == [[3, 5]] * 2
    (tmp_path / "short.py").write_text("def one(policy, rows, items, rng): return [1]\n")
    with pytest.raises(BadInput, match="gave 1 cuts for 2 rows"):
        Cut(at=f"{tmp_path / 'short.py'}:one").applied(None, rows, {}, random.Random(0))
    with pytest.raises(BadInput, match="can't be imported"):
        Cut(at=f"{tmp_path / 'mine.py'}:third").applied(None, rows, {}, random.Random(0))


def test_every_worked_solution_of_the_embedded_world_is_read():
    """No error in a right one; in a wrong one the last equation, or the answer."""
    for item in load_task("arithmetic").train:
        assert first_error(item.completion, item.gold) is None, item.completion
        place = first_error(item.rejected, item.gold)
        last = max(found.start for found in equations(item.rejected))
        assert place in (last, item.rejected.index("####")), item.rejected
