"""DPO and IPO by hand, at the reference, and by their slopes."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from loss_table import LN2, P, batch, response, table_of
from stateshape.core.signals import Prefer
from stateshape.core.tensors import before
from stateshape.losses.preference import Preference, dpo, ipo


def prefer(reference_logps, supervise=True):
    states = batch()
    supervise_BT = response(states) & supervise
    return Prefer(
        states=states, supervise_BT=supervise_BT, reference_logp_B=torch.tensor(reference_logps, dtype=torch.float64)
    )


def test_preferences_by_hand():
    """Row sums under P: -(1 + 4 + 4) ln 2 and -2 ln 2. Reference -8 ln 2 and -4 ln 2: scores -ln 2 and 2 ln 2."""
    signal = prefer([-8 * LN2, -4 * LN2])
    beta, margin = 0.5, -3 * LN2
    value = Preference(shape="dpo", beta=beta).total(table_of(P), signal)
    assert value.total.item() == pytest.approx(math.log(1 + math.exp(-beta * margin)), rel=1e-12)
    assert value.sums["margin_nats"].item() == pytest.approx(margin, rel=1e-12)
    assert value.sums["accuracy"].item() == 0
    slope = beta / (1 + math.exp(beta * margin))  # of the loss by the margin, times -1
    assert value.per_token["mass"].tolist() == pytest.approx(
        [slope * (1 - p) for p in (1 / 2, 1 / 16, 1 / 16, 1 / 4)], rel=1e-9
    )
    value = Preference(shape="ipo", beta=beta).total(table_of(P), signal)
    assert value.total.item() == pytest.approx((-LN2 / 3 - 2 * LN2 - 1 / (2 * beta)) ** 2, rel=1e-12)
    assert Preference().count(signal) == 1


@pytest.mark.parametrize(("shape", "wanted"), [("dpo", LN2), ("ipo", 1 / (4 * 0.2**2))])
def test_at_the_reference_a_preference_loss_is_what_the_papers_say(shape, wanted):
    value = Preference(shape=shape, beta=0.2).total(table_of(P), prefer([-9 * LN2, -2 * LN2]))
    assert value.total.item() == pytest.approx(wanted, rel=1e-12)


def test_a_preference_makes_the_chosen_likelier_and_the_rejected_rarer():
    learner = table_of(P)
    (slope,) = torch.autograd.grad(Preference().total(learner, prefer([-9 * LN2, -2 * LN2])).total, learner.logits_BTV)
    states = batch()
    at, token = before(response(states)), states.ids_BT[response(states)]
    pushed = slope[at].gather(-1, token[:, None])[:, 0]
    assert (pushed[:3] < 0).all()  # descent raises these logits
    assert pushed[3] > 0


def test_gradcheck_of_preferences():
    margin = torch.tensor([-1.5, 0.0, 2.5], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda m: dpo(m, beta=0.3), (margin,))
    assert gradcheck(lambda m: ipo(m, beta=0.3), (margin,))


def test_a_pair_in_which_nothing_is_supervised_counts_nothing():
    signal = prefer([0.0, 0.0], supervise=False)
    value = Preference().total(table_of(P), signal)
    assert Preference().count(signal) == 0
    assert value.total.item() == 0
