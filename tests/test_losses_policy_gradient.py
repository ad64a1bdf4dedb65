"""Options of the policy gradient: what divides, which ratio, and which KL, each by hand, by enumeration or in closed form."""

import dataclasses

import pytest
import torch
from torch.autograd import gradcheck

from loss_table import LN2, P, Table, batch, credit, noise, response, table_of
from stateshape.core.head import Head
from stateshape.core.signals import Credit, Reference
from stateshape.core.states import Origin, pack
from stateshape.core.tensors import before, spread
from stateshape.losses.divergence import forward_kl, reverse_kl
from stateshape.losses.policy_gradient import PolicyGradient, sampled_kl
from tiny import row

# Options of the policy gradient


def test_trap_length_bias_dr_grpo_divides_by_rows_times_the_longest_completion():
    signal = credit([[-LN2, -4 * LN2, -4 * LN2], [-2 * LN2]], [1.0, -2.0])
    loss = PolicyGradient(normalise="constant", max_tokens=16)
    value = loss.total(table_of(P), signal)
    assert loss.count(signal) == 32
    assert value.total.item() == pytest.approx(-3 + 2, rel=1e-6)
    assert value.sums["ratio"].item() / loss.count(signal) == pytest.approx(
        1, rel=1e-6
    )  # logged as a mean all the same


def test_dapo_is_grpo_where_all_rows_have_the_same_length():
    states = pack([row([1, 2], [0, 3], Origin.LEARNER, logps=[-1.0, -2.0]) for _ in range(3)], device="cpu")
    advantage_BT = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)[:, None].expand(3, 4).contiguous()
    signal = Credit(states=states, supervise_BT=response(states), advantage_BT=advantage_BT, reward_B=torch.zeros(3))
    learner = Table(noise(3, 4, 5))
    a, b, c = (
        loss.total(learner, signal).total.item() / loss.count(signal)
        for loss in (
            PolicyGradient(normalise="token-mean"),
            PolicyGradient(normalise="sequence-mean"),
            PolicyGradient(normalise="constant", max_tokens=2),
        )
    )
    assert a == pytest.approx(b, rel=1e-12)
    assert a == pytest.approx(c, rel=1e-12)


def test_gspo_by_hand():
    """Row 1: ratios 1, 2, 1/2 -> their geometric mean 1; row 2: 2. A = 1 | -2: -(1) and -(min(-4, -2.4)) = 4."""
    signal = credit([[-LN2, -5 * LN2, -3 * LN2], [-3 * LN2]], [1.0, -2.0])
    value = PolicyGradient(ratio="sequence", normalise="sequence-mean").total(table_of(P), signal)
    assert value.total.item() == pytest.approx(-1 + 4, rel=1e-6)
    assert value.per_token["ratio"].tolist() == pytest.approx([1, 1, 1, 2], rel=1e-6)
    signal = credit([[-LN2, -5 * LN2, -3 * LN2], [-3 * LN2]], [1.0, 2.0])  # now row 2 is clipped at 1.2
    value = PolicyGradient(ratio="sequence", normalise="sequence-mean").total(table_of(P), signal)
    assert value.total.item() == pytest.approx(-1 - 2.4, rel=1e-6)
    assert value.per_token["mass"].tolist()[3] == 0
    assert value.sums["frac_clipped"].item() == 1


def test_a_ratio_is_one_for_the_policy_that_wrote_the_rows():
    learner = Table(noise(2, 5, 5, seed=4))
    logp_BTV = learner.logits_BTV.detach().log_softmax(-1)
    states = batch([[0.0] * 3, [0.0]])
    written_BT = torch.cat([torch.zeros(2, 1), logp_BTV[:, :-1].gather(-1, states.ids_BT[:, 1:, None])[..., 0]], dim=1)
    states.behaviour_logp_BT.copy_(written_BT)
    states = dataclasses.replace(states, behaviour_logp_BT=written_BT)  # fp64, as the table
    signal = Credit(
        states=states, supervise_BT=response(states), advantage_BT=torch.ones(2, 5).double(), reward_B=torch.zeros(2)
    )
    for ratio in ("token", "sequence"):
        value = PolicyGradient(ratio=ratio).total(learner, signal)
        assert value.per_token["ratio"].tolist() == pytest.approx([1.0] * 4, abs=1e-12)
        assert value.sums["frac_clipped"].item() == 0
        assert value.total.item() == pytest.approx(-2, rel=1e-12)  # each row's mean advantage is 1


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"normalise": "constant"}, "max_tokens: got None with normalise 'constant'"),
        ({"max_tokens": 5}, "max_tokens: got 5 with normalise 'sequence-mean'"),
        ({"clip_high": -0.1}, r"clip_high: got -0\.1; expected 0 or more"),
        ({"kl_coefficient": float("nan")}, "kl_coefficient: got nan; expected 0 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        PolicyGradient(**choices)


def test_a_kl_without_its_reference_is_refused():
    signal = credit([[-1.0] * 3, [-1.0]], [1.0, -2.0])
    with pytest.raises(ValueError, match="a signal without a reference"):
        PolicyGradient(kl_coefficient=0.1).total(table_of(P), signal)
    spoken = dataclasses.replace(signal, reference=Reference(logp_BT=torch.zeros(2, 5)))
    with pytest.raises(ValueError, match="without the reference's hidden states"):
        PolicyGradient(kl_coefficient=0.1, kl_estimator="exact").total(table_of(P), spoken)


# KL to a reference: what each estimator's value is, and what its gradient


def expected_kl(estimator):
    """(mean value, mean gradient at the logits) of an estimator over the learner's own tokens at one state, exactly."""
    logits, reference = noise(5, seed=1).requires_grad_(), noise(5, seed=2).log_softmax(-1)
    logp = logits.log_softmax(-1)
    value = sampled_kl(logp, reference, estimator=estimator)
    p = logp.detach().exp()
    gradient = torch.zeros(5).double()
    for y in range(5):
        gradient += p[y] * torch.autograd.grad(value[y], logits, retain_graph=True)[0]
    return (p * value.detach()).sum(), gradient


def kl_and_gradient(kl):
    logits, reference = noise(1, 5, seed=1).requires_grad_(), noise(1, 5, seed=2).log_softmax(-1)
    value = kl(logits.log_softmax(-1), reference).sum()
    return value.detach(), torch.autograd.grad(value, logits)[0][0]


def test_trap_each_kl_estimator_has_the_value_and_the_gradient_it_says():
    """Over tokens the learner writes itself. k1 pulls nowhere, k3 towards another divergence (verl#2953, trl#4967)."""
    reverse, reverse_gradient = kl_and_gradient(reverse_kl)
    _, forward_gradient = kl_and_gradient(forward_kl)
    value, gradient = expected_kl("k1")
    torch.testing.assert_close(value, reverse)
    torch.testing.assert_close(gradient, torch.zeros(5).double(), rtol=0, atol=1e-12)
    value, gradient = expected_kl("k2")
    assert abs(value - reverse) > 0.01
    torch.testing.assert_close(gradient, reverse_gradient)
    value, gradient = expected_kl("k3")
    torch.testing.assert_close(value, reverse)
    torch.testing.assert_close(gradient, forward_gradient)
    assert (forward_gradient - reverse_gradient).norm() > 0.01


@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_the_exact_kl_adds_its_own_value_and_gradient(ratio):
    signal = credit([[-1.0, -2.0, -1.5], [-2.0]], [0.7, -1.3])
    supervise_BT = signal.supervise_BT
    reference = noise(4, 5, seed=9)
    spoken = dataclasses.replace(
        signal,
        reference=Reference(
            logp_BT=spread(torch.zeros(4).double(), supervise_BT),
            hidden_ND=reference,
            head=Head(torch.eye(5, dtype=torch.float64)),
        ),
    )
    shared = {"ratio": ratio, "normalise": "token-mean", "clip_low": 0.9, "clip_high": 9.0, "temperature": 0.7}
    learner = Table(noise(2, 5, 5, seed=1))
    alone = PolicyGradient(**shared).total(learner, signal)
    both = PolicyGradient(**shared, kl_coefficient=0.5, kl_estimator="exact").total(learner, spoken)
    at_ND = learner.logits_BTV[before(supervise_BT)]
    kl_N = reverse_kl((at_ND / 0.7).log_softmax(-1), (reference / 0.7).log_softmax(-1))
    wanted = alone.total + 0.5 * kl_N.sum()
    assert both.total.item() == pytest.approx(wanted.item(), rel=1e-12)
    assert both.sums["kl_to_reference_nats"].item() == pytest.approx(kl_N.sum().item(), rel=1e-12)
    (found,) = torch.autograd.grad(both.total, learner.logits_BTV)
    (expected,) = torch.autograd.grad(wanted, learner.logits_BTV)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(both.per_token["mass"], expected[before(supervise_BT)].abs().sum(-1) / 2)
    padded = dataclasses.replace(spoken.reference, head=Head(torch.cat([torch.eye(5), torch.ones(3, 5)]).double()))
    wider = dataclasses.replace(spoken, reference=padded)  # a model family pads its vocabulary, each size to its own
    again = PolicyGradient(**shared, kl_coefficient=0.5, kl_estimator="exact").total(learner, wider)
    assert again.total.item() == pytest.approx(both.total.item(), rel=1e-12)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "exact"])
def test_values_without_gradients_are_the_same_and_their_mass_is_missing(estimator):
    signal = credit([[-1.0, -2.0, -1.5], [-2.0]], [0.7, -1.3])
    reference = Reference(
        logp_BT=torch.full((2, 5), -1.2).double(), hidden_ND=noise(4, 5, seed=9), head=Head(torch.eye(5).double())
    )
    spoken = dataclasses.replace(signal, reference=reference)
    loss, learner = PolicyGradient(kl_coefficient=0.5, kl_estimator=estimator), Table(noise(2, 5, 5, seed=1))
    with_gradient = loss.total(learner, spoken)
    with torch.no_grad():
        without = loss.total(learner, spoken)
    assert without.total.item() == pytest.approx(with_gradient.total.item(), rel=1e-12)
    assert not without.total.requires_grad
    assert without.per_token["mass"].isnan().all()


def test_gradcheck_of_the_kl_estimators():
    logp = torch.tensor([-1.5, -0.2, -2.5], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-0.5, -0.1, -3.0], dtype=torch.float64)
    for estimator in ("k1", "k2", "k3"):
        assert gradcheck(lambda x, e=estimator: sampled_kl(x, reference, estimator=e), (logp,))
