"""Which triples are methods: every one is either built or refused with its reason and the nearest legal one."""

from itertools import product
from types import SimpleNamespace

import pytest

from stateshape.core.method import (
    LOSSES,
    SIGNALS,
    STATES,
    Combination,
    Composition,
    Method,
    Term,
    legal_triples,
    nearest_legal,
    terms_of,
    why_illegal,
)

# By signal: the loss that reads it, and the states it can be read at, written out by hand.
LEGAL = {
    "gold tokens": ("cross-entropy", "dataset recorded"),
    "teacher tokens": ("cross-entropy", "teacher recorded"),
    "teacher continuation": ("cross-entropy", "dataset learner teacher mixture recorded"),
    "own continuation": ("cross-entropy", "dataset learner teacher mixture recorded"),
    "teacher distribution": ("divergence", "dataset learner teacher mixture recorded"),
    "teacher log-prob": ("policy gradient", "learner recorded"),
    "reward": ("policy gradient", "learner recorded"),
    "reward filter": ("cross-entropy", "learner teacher recorded"),
    "preference": ("preference", "dataset learner recorded"),
}
TRIPLES = list(product(STATES, SIGNALS, LOSSES))


def is_legal(states, signal, loss):
    return LEGAL[signal][0] == loss and states in LEGAL[signal][1].split()


@pytest.mark.parametrize("triple", TRIPLES, ids=" x ".join)
def test_every_triple_is_a_method_or_refused_with_the_reason_and_the_nearest_legal_one(triple):
    states, signal, loss = triple
    parts = [SimpleNamespace(kind=kind) for kind in triple]
    if is_legal(*triple):
        assert why_illegal(*triple) is None
        Composition(states=states, signal=signal, loss=loss)
        Method(states=parts[0], signal=parts[1], loss=parts[2])
        return
    near = nearest_legal(*triple)
    assert is_legal(*near)
    assert sum(a == b for a, b in zip(near, triple)) == max(
        sum(a == b for a, b in zip(other, triple)) for other in TRIPLES if is_legal(*other)
    )
    reason = f"^{states} states x {signal} x {loss}: .*; nearest that works: {' x '.join(near)}$"
    with pytest.raises(ValueError, match=reason) as declared:
        Composition(states=states, signal=signal, loss=loss)
    with pytest.raises(ValueError, match=r".") as built:
        Method(states=parts[0], signal=parts[1], loss=parts[2])
    assert str(declared.value) == str(built.value)


def test_the_legal_triples_are_those_written_down():
    assert set(legal_triples()) == {triple for triple in TRIPLES if is_legal(*triple)}
    assert len(TRIPLES) == 5 * 9 * 4


def test_trap_cross_entropy_on_the_students_own_samples():
    """ms-swift#6857: imitating what the learner itself wrote teaches nothing; the reason says what would."""
    assert "not what the learner wrote" in why_illegal("learner", "gold tokens", "cross-entropy")
    assert "adds no information" in why_illegal("learner", "teacher tokens", "cross-entropy")


@pytest.mark.parametrize("states", ["dataset", "teacher", "mixture"])
def test_credit_is_refused_for_want_of_log_probs(states):
    assert f"log-probs, and {states} states have none" in why_illegal(states, "reward", "policy gradient")


def test_a_signal_a_loss_cannot_read_names_the_loss_that_can():
    reason = why_illegal("learner", "reward", "divergence")
    assert reason == "divergence can't read a reward signal; nearest that works: learner x reward x policy gradient"


def test_on_policy_and_density_follow_from_the_choices():
    grpo = Composition(states="learner", signal="reward", loss="policy gradient")
    sft = Composition(states="dataset", signal="gold tokens", loss="cross-entropy")
    assert (grpo.is_on_policy, sft.is_on_policy) == (True, False)
    assert grpo.density.startswith("sparse")
    assert sft.density.startswith("dense")


def built(*triple):
    states, signal, loss = (SimpleNamespace(kind=kind) for kind in triple)
    return Method(states=states, signal=signal, loss=loss)


def test_a_method_alone_is_one_term_without_a_name():
    method = built("dataset", "gold tokens", "cross-entropy")
    assert terms_of(method) == {"": Term(method=method, weight=1.0, takes=None)}
    named = {"a": Term(method=method, weight=2.0)}
    assert terms_of(Combination(terms=named)) == named


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_weight_that_is_none_is_refused(weight):
    method = built("dataset", "gold tokens", "cross-entropy")
    with pytest.raises(ValueError, match=r"weight of sft: got .*; expected a number above 0"):
        Combination(terms={"sft": Term(method=method, weight=weight)})
