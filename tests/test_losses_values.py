"""Each loss against numbers worked out by hand on five tokens, a slow loop, and finite differences.

The learner here is a table: its hidden states are its logits (the head is the identity), so a distribution can be set.
"""

import dataclasses
import math

import pytest
import torch
from torch.autograd import gradcheck

from loss_table import LN2, P, Table, batch, credit, noise, response, table_of
from stateshape.core.head import Head
from stateshape.core.signals import Credit, Imitate, MatchDistribution, Prefer, Reference
from stateshape.core.states import Origin, pack
from stateshape.core.tensors import before
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.losses.divergence import Divergence, forward_kl, generalised_jsd, reverse_kl
from stateshape.losses.policy_gradient import PolicyGradient, clipped_terms
from stateshape.losses.preference import Preference
from tiny import row

# By hand


def test_cross_entropy_by_hand():
    # Every position says P. Response tokens 0, 3, 4 and 1: -log 1/2, 1/16, 1/16, 1/4 = (1 + 4 + 4 + 2) ln 2 = 11 ln 2.
    states = batch()
    signal = Imitate(states=states, supervise_BT=response(states))
    learner = Table(torch.tensor(P, dtype=torch.float64).log().expand(2, 5, 5).clone())
    value = CrossEntropy().total(learner, signal)
    assert value.total.item() == pytest.approx(11 * LN2, rel=1e-12)
    assert value.sums["nll_nats"].item() == pytest.approx(11 * LN2, rel=1e-12)
    assert CrossEntropy().count(signal) == 4


def test_trap_first_token_skipped_and_missing_shift():
    """Only position t - 1 decides the loss of token t, the first response token included (trl#2058, ms-swift#8436)."""
    states = batch()
    learner = Table(noise(2, 5, 5))
    CrossEntropy().total(learner, Imitate(states=states, supervise_BT=response(states))).total.backward()
    touched = learner.logits_BTV.grad.abs().sum(-1) > 0
    assert touched.tolist() == [[False, True, True, True, False], [False, True, False, False, False]]


def kl_total(direction, learner_p, teacher_p):
    states = batch()
    teacher_logits = torch.tensor(teacher_p, dtype=torch.float64).log().expand(2, 5, 5)
    signal = MatchDistribution(
        states=states,
        supervise_BT=response(states),
        teacher_hidden_ND=teacher_logits[before(response(states))],
        teacher_head=Head(torch.eye(5, dtype=torch.float64)),
    )
    learner = Table(torch.tensor(learner_p, dtype=torch.float64).log().expand(2, 5, 5).clone())
    loss = Divergence(direction=direction)
    assert loss.count(signal) == 4
    return loss.total(learner, signal).total.item()


def test_trap_beta_inverted():
    """Forward is KL(teacher || learner), reverse the other way round (trl#3043).

    With powers of two the logs are whole; W = (1/16, 1/2, 1/4, 1/8, 1/16) tells the two directions apart:
    KL(P || W) = (3/2 - 1/4 - 1/8 - 1/16 + 0) ln 2 = 17/16 ln 2.
    KL(W || P) = (-3/16 + 1/2 + 1/4 + 1/8 + 0) ln 2 = 11/16 ln 2.
    """
    w = [1 / 16, 1 / 2, 1 / 4, 1 / 8, 1 / 16]
    assert kl_total("forward", w, P) == pytest.approx(4 * 17 / 16 * LN2, rel=1e-12)
    assert kl_total("reverse", w, P) == pytest.approx(4 * 11 / 16 * LN2, rel=1e-12)


def test_policy_gradient_by_hand_with_both_normalisations():
    # Every position says P; tokens 0, 3, 4 | 1 have p = 1/2, 1/16, 1/16 | 1/4.
    # Behaviour p = 1/2, 1/32, 1/8 | 1/4: ratios 1, 2, 1/2 | 1. A = 1 | -2, clip 0.2:
    # row 1: min(1, 1) + min(2, 1.2) + min(0.5, 0.8) = 1 + 1.2 + 0.5 = 2.7; row 2: -2. Loss: -2.7 and +2.
    logps = [[-LN2, -5 * LN2, -3 * LN2], [-2 * LN2]]
    signal = credit(logps, [1.0, -2.0])
    learner = Table(torch.tensor(P, dtype=torch.float64).log().expand(2, 5, 5).clone())
    by_token, by_row = PolicyGradient(normalise="token-mean"), PolicyGradient(normalise="sequence-mean")
    value = by_token.total(learner, signal)
    assert value.total.item() == pytest.approx(-2.7 + 2, rel=1e-6)
    assert by_token.count(signal) == 4
    assert value.sums["ratio"].item() == pytest.approx(1 + 2 + 0.5 + 1, rel=1e-6)
    assert value.sums["frac_clipped"].item() == 1  # only the ratio 2; 1/2 with A > 0 is not clipped
    value = by_row.total(learner, signal)
    assert value.total.item() == pytest.approx(-2.7 / 3 + 2, rel=1e-6)
    assert by_row.count(signal) == 2
    assert value.sums["frac_clipped"].item() == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "is_clipped"),
    [
        (1.0, 1.0, -1.0, -1.0, False),
        (1.5, 1.0, -1.3, 0.0, True),  # upper range 0.3
        (1.5, -1.0, 1.5, 1.5, False),  # a bad token that became likelier is still pushed down
        (0.5, 1.0, -0.5, -0.5, False),  # a good token that became rarer is still pushed up
        (0.5, -1.0, 0.8, 0.0, True),  # lower range 0.2
        (1.25, 1.0, -1.25, -1.25, False),  # inside (0.8, 1.3): the two ranges differ
        (0.75, -1.0, 0.8, 0.0, True),
        (1.0, 0.0, 0.0, 0.0, False),
    ],
)
def test_clipping_by_hand(ratio, advantage, loss, slope, is_clipped):
    """slope: d loss / d logp = -A r where not clipped, 0 where clipped."""
    logp = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    terms = clipped_terms(
        logp, torch.zeros(1, dtype=torch.float64), torch.tensor([advantage]).double(), clip_low=0.2, clip_high=0.3
    )
    terms.loss_N.sum().backward()
    assert terms.loss_N.item() == pytest.approx(loss)
    assert logp.grad.item() == pytest.approx(slope)
    assert terms.is_clipped_N.item() is is_clipped
    assert terms.ratio_N.item() == pytest.approx(ratio)


def test_scoring_temperature_by_hand():
    # Logits log P at temperature 1/2: probabilities are proportional to P^2 = 64, 16, 4, 1, 1 (/ 86 after scaling).
    signal = credit([[0.0, 0.0, 0.0], [0.0]], [1.0, 1.0])
    learner = Table(torch.tensor(P, dtype=torch.float64).log().expand(2, 5, 5).clone())
    value = PolicyGradient(normalise="token-mean", temperature=0.5).total(learner, signal)
    assert value.sums["ratio"].item() == pytest.approx((64 + 1 + 1 + 16) / 86, rel=1e-12)


def test_a_greedy_policy_gradient_is_refused():
    with pytest.raises(ValueError, match=r"temperature: got 0\.0; expected a number above 0"):
        PolicyGradient(temperature=0.0)


# Against slow loops


def slow_losses(states, supervise_BT, logits_BTV, teacher_BTV, advantage_BT, settings):
    """Every loss in one plain loop over supervised tokens, in Python floats."""
    total = dict.fromkeys(("cross-entropy", "forward", "reverse", "token-mean", "sequence-mean"), 0.0)
    for b in range(len(states)):
        num_tokens = int(supervise_BT[b].sum())
        for t in range(states.ids_BT.shape[1]):
            if not supervise_BT[b, t]:
                continue
            learner = logits_BTV[b, t - 1].softmax(-1).tolist()
            teacher = teacher_BTV[b, t - 1].softmax(-1).tolist()
            p = learner[int(states.ids_BT[b, t])]
            total["cross-entropy"] -= math.log(p)
            total["forward"] += sum(x * math.log(x / y) for x, y in zip(teacher, learner))
            total["reverse"] += sum(y * math.log(y / x) for x, y in zip(teacher, learner))
            hot = (logits_BTV[b, t - 1] / settings.temperature).softmax(-1)[int(states.ids_BT[b, t])].item()
            ratio = hot / math.exp(states.behaviour_logp_BT[b, t].item())
            advantage = advantage_BT[b, t].item()
            bounded = min(max(ratio, 1 - settings.clip_low), 1 + settings.clip_high)
            term = -min(ratio * advantage, bounded * advantage)
            total["token-mean"] += term
            total["sequence-mean"] += term / num_tokens
    return total


@pytest.mark.numerics
def test_every_loss_equals_a_slow_loop():
    logps = [[-1.0, -2.5, -1.5], [-2.0]]
    signal = credit(logps, [0.7, -1.3])
    states, supervise_BT = signal.states, signal.supervise_BT
    logits, teacher = noise(2, 5, 5, seed=1), noise(2, 5, 5, seed=2)
    settings = PolicyGradient(clip_low=0.1, clip_high=0.4, temperature=0.8)
    slow = slow_losses(states, supervise_BT, logits, teacher, signal.advantage_BT, settings)
    match = MatchDistribution(
        states=states,
        supervise_BT=supervise_BT,
        teacher_hidden_ND=teacher[before(supervise_BT)],
        teacher_head=Head(torch.eye(5).double()),
    )
    ours = {
        "cross-entropy": (CrossEntropy(), Imitate(states=states, supervise_BT=supervise_BT)),
        "forward": (Divergence(direction="forward"), match),
        "reverse": (Divergence(direction="reverse"), match),
    }
    for normalise in ("token-mean", "sequence-mean"):
        loss = PolicyGradient(normalise=normalise, clip_low=0.1, clip_high=0.4, temperature=0.8)
        ours[normalise] = (loss, signal)
    learner = Table(logits)
    values = {name: loss.total(learner, given).total.item() for name, (loss, given) in ours.items()}
    assert values == pytest.approx(slow, rel=1e-6)
    assert values.keys() == slow.keys()


# Gradients of the pure maths


def test_gradcheck_of_the_pure_maths():
    learner, teacher = noise(4, 5, seed=1).requires_grad_(), noise(4, 5, seed=2).requires_grad_()
    for kl in (forward_kl, reverse_kl):
        assert gradcheck(lambda a, b, kl=kl: kl(a.log_softmax(-1), b.log_softmax(-1)), (learner, teacher))
    logp = torch.tensor([-0.1, -0.5, -2.0, -1.0], dtype=torch.float64, requires_grad=True)
    behaviour = torch.tensor([-0.6, -0.45, -1.0, -1.05], dtype=torch.float64)  # none at the edge of a range
    advantage = torch.tensor([1.0, -2.0, 0.5, -1.0], dtype=torch.float64)
    assert gradcheck(lambda x: clipped_terms(x, behaviour, advantage, clip_low=0.2, clip_high=0.2).loss_N, (logp,))


def test_trap_kl_estimators_value_and_gradient_confused():
    """The reverse KL's gradient is that of the exact expectation (open-instruct#534): d/dz_v = S_v (l_v - KL)."""
    logits, teacher = noise(1, 5, seed=1).requires_grad_(), noise(1, 5, seed=2)
    kl = reverse_kl(logits.log_softmax(-1), teacher.log_softmax(-1))
    kl.sum().backward()
    s = logits.detach().softmax(-1)
    log_ratio = s.log() - teacher.log_softmax(-1)
    torch.testing.assert_close(logits.grad, s * (log_ratio - kl.detach()), rtol=1e-9, atol=1e-12)


def test_forward_kl_gradient_is_learner_minus_teacher():
    logits, teacher = noise(1, 5, seed=1).requires_grad_(), noise(1, 5, seed=2)
    forward_kl(logits.log_softmax(-1), teacher.log_softmax(-1)).sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - teacher.softmax(-1), rtol=1e-9, atol=1e-12)


def test_the_teacher_gets_no_gradient():
    states = batch()
    teacher = noise(4, 5, seed=2)
    head = Head(torch.eye(5, dtype=torch.float64))
    signal = MatchDistribution(
        states=states, supervise_BT=response(states), teacher_hidden_ND=teacher, teacher_head=head
    )
    learner = Table(noise(2, 5, 5, seed=1))
    Divergence().total(learner, signal).total.backward()
    assert learner.logits_BTV.grad.abs().sum() > 0
    assert teacher.grad is None
    assert head.weight_VD.grad is None


# A teacher at another temperature than the learner


def matching(teacher_BTV):
    states = batch()
    return MatchDistribution(
        states=states,
        supervise_BT=response(states),
        teacher_hidden_ND=teacher_BTV[before(response(states))],
        teacher_head=Head(torch.eye(5, dtype=torch.float64)),
    )


def test_a_teacher_sharper_than_the_learner_by_hand():
    """Both say P at 1. At 1/2 the teacher says Q = P^2 scaled = (64, 16, 4, 1, 1) / 86, and Q / P = 2^(7, 6, 5, 4, 4) / 86.

    KL(Q || P) = (64 x 7 + 16 x 6 + 4 x 5 + 4 + 4) / 86 ln 2 - ln 86 = 572 / 86 ln 2 - ln 86.
    KL(P || Q) = ln 86 - (7/2 + 6/4 + 5/8 + 4/16 + 4/16) ln 2 = ln 86 - 49/8 ln 2.
    """
    signal = matching(torch.tensor(P, dtype=torch.float64).log().expand(2, 5, 5))
    found = {
        direction: Divergence(direction=direction, target_temperature=0.5).total(table_of(P), signal)
        for direction in ("forward", "reverse")
    }
    assert found["forward"].total.item() == pytest.approx(4 * (572 / 86 * LN2 - math.log(86)), rel=1e-9)
    assert found["reverse"].total.item() == pytest.approx(4 * (math.log(86) - 49 / 8 * LN2), rel=1e-9)
    # The total variation distance: all that Q has above P is its first entry, 64/86 - 1/2 = 21/86.
    assert found["forward"].per_token["mass"].tolist() == pytest.approx([21 / 86] * 4, rel=1e-9)
    # H(Q) = ln 86 - (64 x 6 + 16 x 4 + 4 x 2) / 86 ln 2
    entropy = math.log(86) - 456 / 86 * LN2
    assert found["reverse"].per_token["teacher_entropy"].tolist() == pytest.approx([entropy] * 4, rel=1e-9)
    assert Divergence().total(table_of(P), signal).total.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("direction", ["forward", "reverse", "jsd"])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_teacher_at_a_temperature_is_a_slow_loop_over_its_powers(direction, temperature):
    logits, teacher = noise(2, 5, 5, seed=1), noise(2, 5, 5, seed=2)
    total = 0.0
    for b, t in response(batch()).nonzero().tolist():
        learner = logits[b, t - 1].softmax(-1).tolist()
        powers = [p ** (1 / temperature) for p in teacher[b, t - 1].softmax(-1).tolist()]
        target = [power / sum(powers) for power in powers]
        mixed = [0.3 * q + 0.7 * p for q, p in zip(target, learner)]
        forward, reverse = (
            sum(x * math.log(x / y) for x, y in zip(*two)) for two in ((target, learner), (learner, target))
        )
        ends = [sum(x * math.log(x / y) for x, y in zip(one, mixed)) for one in (target, learner)]
        total += {"forward": forward, "reverse": reverse, "jsd": 0.3 * ends[0] + 0.7 * ends[1]}[direction]
    loss = Divergence(direction=direction, beta=0.3, target_temperature=temperature)
    assert loss.total(Table(logits), matching(teacher)).total.item() == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("direction", ["forward", "reverse", "jsd"])
def test_gradcheck_of_a_divergence_with_a_teacher_at_a_temperature(direction):
    loss, signal = Divergence(direction=direction, target_temperature=0.5), matching(noise(2, 5, 5, seed=2))
    assert gradcheck(lambda logits: loss.total(Table(logits), signal).total, (noise(2, 5, 5, seed=1).requires_grad_(),))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_teacher_without_a_temperature_is_refused(temperature):
    with pytest.raises(ValueError, match=r"target_temperature: got .*; expected a number above 0"):
        Divergence(target_temperature=temperature)


# Masks

NUM_LOSSES = 13


def losses_and_signals(states, supervise_BT, teacher_BTD, advantage_BT):
    head = Head(torch.eye(5, dtype=torch.float64))
    hidden_ND = teacher_BTD[before(supervise_BT)]
    match = MatchDistribution(states=states, supervise_BT=supervise_BT, teacher_hidden_ND=hidden_ND, teacher_head=head)
    granted = Credit(
        states=states, supervise_BT=supervise_BT, advantage_BT=advantage_BT, reward_B=torch.zeros(len(states))
    )
    reference = Reference(logp_BT=0.1 * advantage_BT - 1, hidden_ND=hidden_ND, head=head)
    spoken = dataclasses.replace(granted, reference=reference)
    prefer = None
    if len(states) % 2 == 0:
        reference_B = torch.tensor([-1.0, -2.0], dtype=torch.float64).repeat(len(states) // 2)
        prefer = Prefer(states=states, supervise_BT=supervise_BT, reference_logp_B=reference_B)
    return [
        (CrossEntropy(), Imitate(states=states, supervise_BT=supervise_BT)),
        (Divergence(direction="forward"), match),
        (Divergence(direction="reverse"), match),
        (PolicyGradient(normalise="token-mean"), granted),
        (PolicyGradient(normalise="sequence-mean"), granted),
        (Divergence(direction="jsd", beta=0.3), match),
        (PolicyGradient(normalise="constant", max_tokens=8), granted),
        (PolicyGradient(normalise="sequence-mean", ratio="sequence"), granted),
        (PolicyGradient(kl_coefficient=0.3, kl_estimator="k2"), spoken),
        (PolicyGradient(kl_coefficient=0.3, kl_estimator="exact"), spoken),
        (Preference(shape="dpo"), prefer),
        (Preference(shape="ipo"), prefer),
        (Divergence(direction="forward", target_temperature=0.5), match),
    ]


@pytest.mark.parametrize("which", range(NUM_LOSSES))
def test_a_mask_is_the_same_as_slicing(which):
    """Supervising the first three response tokens of six is supervising all of a row of three."""
    logps = [-1.0, -2.0, -0.5, -1.5, -2.5, -0.1]
    logits, teacher, advantage = noise(2, 8, 5, seed=1), noise(2, 8, 5, seed=2), noise(2, 8, seed=3)
    long = pack([row([1, 2], [0, 3, 4, 1, 1, 2], Origin.LEARNER, logps=logps)] * 2, device="cpu")
    masked = long.written_by(Origin.LEARNER) & (torch.arange(8) < 5)
    short = pack([row([1, 2], [0, 3, 4], Origin.LEARNER, logps=logps[:3])] * 2, device="cpu")
    a_loss, a = losses_and_signals(long, masked, teacher, advantage)[which]
    b_loss, b = losses_and_signals(short, short.written_by(Origin.LEARNER), teacher[:, :5], advantage[:, :5])[which]
    learner = Table(logits)
    assert a_loss.count(a) == b_loss.count(b)
    value_a, value_b = a_loss.total(learner, a), b_loss.total(learner, b)
    assert value_a.total.item() == pytest.approx(value_b.total.item(), rel=1e-12)
    assert value_a.sums.keys() == value_b.sums.keys()
    for name in value_a.sums:
        assert float(value_a.sums[name]) == pytest.approx(float(value_b.sums[name]), rel=1e-12)
    assert value_a.per_token.keys() == value_b.per_token.keys() >= {"mass", "learner_logp"}
    for name in value_a.per_token:
        torch.testing.assert_close(value_a.per_token[name], value_b.per_token[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("which", range(NUM_LOSSES))
def test_a_loss_is_a_sum_over_rows_and_its_count_adds_up(which):
    """The same rows twice are twice the total and twice the count: nothing is averaged inside."""
    two = [
        row([1, 2], [0, 3, 4], Origin.LEARNER, logps=[-1.0, -2.0, -0.5]),
        row([1, 2], [4], Origin.LEARNER, logps=[-1.5]),
    ]
    logits, teacher, advantage = noise(2, 5, 5, seed=1), noise(2, 5, 5, seed=2), noise(2, 5, seed=3)
    totals, counts = [], []
    for copies in (1, 2):
        states = pack(two * copies, device="cpu")
        repeated = [x.repeat(copies, *[1] * (x.dim() - 1)) for x in (logits, teacher, advantage)]
        loss, signal = losses_and_signals(states, states.written_by(Origin.LEARNER), *repeated[1:])[which]
        totals.append(loss.total(Table(repeated[0]), signal).total.item())
        counts.append(loss.count(signal))
    assert totals[0] != 0
    assert totals[1] == pytest.approx(2 * totals[0], rel=1e-12)
    assert counts[1] == 2 * counts[0] > 0


@pytest.mark.parametrize("which", range(NUM_LOSSES))
def test_trap_all_masked_micro_batch(which):
    """It contributes 0, keeps the graph and gives a zero gradient (trl#7077)."""
    states = batch([[-1.0, -1.0, -1.0], [-1.0]])
    nothing = torch.zeros_like(states.ids_BT, dtype=torch.bool)
    loss, signal = losses_and_signals(states, nothing, noise(2, 5, 5, seed=2), noise(2, 5, seed=3))[which]
    learner = Table(noise(2, 5, 5, seed=1))
    total = loss.total(learner, signal).total
    assert loss.count(signal) == 0
    assert total.item() == 0
    total.backward()
    assert not learner.logits_BTV.grad.any()


# Mass by hand


def test_mass_by_hand():
    """Cross-entropy asks to move 1 - p(y); forward KL the total variation distance; a policy gradient r |A| w (1 - p(y))."""
    states = batch([[-LN2, -4 * LN2, -4 * LN2], [-2 * LN2]])
    supervise_BT = response(states)
    found = CrossEntropy().total(table_of(P), Imitate(states=states, supervise_BT=supervise_BT)).per_token
    assert found["mass"].tolist() == pytest.approx([1 / 2, 15 / 16, 15 / 16, 3 / 4], rel=1e-9)
    assert found["learner_logp"].tolist() == pytest.approx([-LN2, -4 * LN2, -4 * LN2, -2 * LN2], rel=1e-9)
    w = torch.tensor([1 / 16, 1 / 2, 1 / 4, 1 / 8, 1 / 16], dtype=torch.float64)
    match = MatchDistribution(
        states=states,
        supervise_BT=supervise_BT,
        teacher_hidden_ND=w.log().expand(4, 5),
        teacher_head=Head(torch.eye(5, dtype=torch.float64)),
    )
    found = Divergence().total(table_of(P), match).per_token
    assert found["mass"].tolist() == pytest.approx([7 / 16] * 4, rel=1e-9)  # half of 7/16 + 4/16 + 2/16 + 1/16 + 0
    # KL(W || P) = (-3/16 + 1/2 + 1/4 + 1/8 + 0) ln 2; H(W) = (4/16 + 1/2 + 2/4 + 3/8 + 4/16) ln 2
    assert found["divergence"].tolist() == pytest.approx([11 / 16 * LN2] * 4, rel=1e-9)
    assert found["teacher_entropy"].tolist() == pytest.approx([30 / 16 * LN2] * 4, rel=1e-9)
    granted = credit([[-LN2, -5 * LN2, -4 * LN2], [-2 * LN2]], [1.0, -2.0])  # ratios 1, 2 (clipped), 1 | 1
    found = PolicyGradient(normalise="sequence-mean").total(table_of(P), granted).per_token
    assert found["mass"].tolist() == pytest.approx([1 / 2 / 3, 0, 15 / 16 / 3, 2 * 3 / 4], rel=1e-6)
    assert found["ratio"].tolist() == pytest.approx([1, 2, 1, 1], rel=1e-6)
    assert found["advantage"].tolist() == [1, 1, 1, -2]


# Generalised JSD


def test_generalised_jsd_by_hand():
    """T = (1, 0, ...) is out of reach of logs; with T = (3/4, 1/4), S = (1/4, 3/4), beta 1/2: M = 1/2, JSD = KL(T || M)."""
    t, s = torch.tensor([[3 / 4, 1 / 4]]).double().log(), torch.tensor([[1 / 4, 3 / 4]]).double().log()
    wanted = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)
    assert generalised_jsd(s, t, beta=0.5).item() == pytest.approx(wanted, rel=1e-12)
    # beta 1/4: M = T / 4 + 3 S / 4 = (3/8, 5/8)
    of_t = 3 / 4 * math.log(2) + 1 / 4 * math.log(2 / 5)
    of_s = 1 / 4 * math.log(2 / 3) + 3 / 4 * math.log(6 / 5)
    assert generalised_jsd(s, t, beta=0.25).item() == pytest.approx(of_t / 4 + 3 / 4 * of_s, rel=1e-12)


def test_generalised_jsd_has_the_two_kls_at_its_ends():
    """Exactly at the ends; over beta, or 1 - beta, in the limit (arXiv:2306.13649 appendix)."""
    s, t = noise(6, 5, seed=1).log_softmax(-1), noise(6, 5, seed=2).log_softmax(-1)
    assert torch.equal(generalised_jsd(s, t, beta=0.0), forward_kl(s, t))
    assert torch.equal(generalised_jsd(s, t, beta=1.0), reverse_kl(s, t))
    tiny_beta = 1e-6
    torch.testing.assert_close(generalised_jsd(s, t, beta=tiny_beta) / tiny_beta, forward_kl(s, t), rtol=1e-4, atol=0)
    torch.testing.assert_close(
        generalised_jsd(s, t, beta=1 - tiny_beta) / tiny_beta, reverse_kl(s, t), rtol=1e-4, atol=0
    )


def test_generalised_jsd_is_bounded_and_swaps_with_its_arguments():
    far, near = torch.tensor([[40.0, 0, 0]]).log_softmax(-1), torch.tensor([[0, 40.0, 0]]).log_softmax(-1)
    assert generalised_jsd(far, near, beta=0.5).item() == pytest.approx(LN2, rel=1e-6)
    s, t = noise(6, 5, seed=1).log_softmax(-1), noise(6, 5, seed=2).log_softmax(-1)
    torch.testing.assert_close(generalised_jsd(s, t, beta=0.3), generalised_jsd(t, s, beta=0.7))
    learner, teacher = noise(4, 5, seed=1).requires_grad_(), noise(4, 5, seed=2)
    assert gradcheck(lambda a: generalised_jsd(a.log_softmax(-1), teacher.log_softmax(-1), beta=0.3), (learner,))


def test_a_beta_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"beta: got 1\.5; expected 0 \(forward KL\) to 1 \(reverse KL\)"):
        Divergence(direction="jsd", beta=1.5)
    with pytest.raises(ValueError, match=r"beta: got 0\.0; expected a number above 0"):
        Preference(beta=0.0)
