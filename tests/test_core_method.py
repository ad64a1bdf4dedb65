"""Which triples are methods: every one is either built or refused with its reason."""

from itertools import product
from types import SimpleNamespace
from typing import get_args

import pytest

from stateshape.core.method import Composition, LossKind, Method, SignalKind, StateKind, why_illegal

LEGAL = {
    ("dataset", "gold tokens", "cross-entropy"),
    ("dataset", "teacher continuation", "cross-entropy"),
    ("learner", "teacher continuation", "cross-entropy"),
    ("dataset", "teacher distribution", "divergence"),
    ("learner", "teacher distribution", "divergence"),
    ("learner", "reward", "policy gradient"),
}
TRIPLES = list(product(get_args(StateKind), get_args(SignalKind), get_args(LossKind)))


@pytest.mark.parametrize("triple", TRIPLES, ids=" x ".join)
def test_every_triple_is_a_method_or_refused_with_the_reason_and_an_alternative(triple):
    states, signal, loss = triple
    parts = [SimpleNamespace(kind=kind) for kind in triple]
    if triple in LEGAL:
        assert why_illegal(*triple) is None
        Composition(states=states, signal=signal, loss=loss)
        Method(states=parts[0], signal=parts[1], loss=parts[2])
        return
    with pytest.raises(ValueError, match=f"^{states} states x {signal} x {loss}: .* use ") as declared:
        Composition(states=states, signal=signal, loss=loss)
    with pytest.raises(ValueError, match=r".") as built:
        Method(states=parts[0], signal=parts[1], loss=parts[2])
    assert str(declared.value) == str(built.value)


def test_every_legal_triple_is_among_those_tried():
    assert len(TRIPLES) == 24
    assert set(TRIPLES) >= LEGAL


def test_trap_cross_entropy_on_the_students_own_samples():
    """ms-swift#6857: imitating what the learner itself wrote teaches nothing; the reason says what would."""
    reason = why_illegal("learner", "gold tokens", "cross-entropy")
    assert "dataset's own prefixes, not learner prefixes" in reason
    assert "teacher continuation" in reason


def test_reward_on_dataset_states_is_refused_for_want_of_log_probs():
    assert "log-probs" in why_illegal("dataset", "reward", "policy gradient")


def test_a_signal_a_loss_cannot_read_names_the_loss_that_can():
    assert why_illegal("learner", "reward", "divergence").endswith("use policy gradient")


def test_on_policy_and_density_follow_from_the_choices():
    grpo = Composition(states="learner", signal="reward", loss="policy gradient")
    sft = Composition(states="dataset", signal="gold tokens", loss="cross-entropy")
    assert (grpo.is_on_policy, sft.is_on_policy) == (True, False)
    assert grpo.density.startswith("sparse")
    assert sft.density.startswith("dense")
