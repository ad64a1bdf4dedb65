"""What must not change a loss or its gradient: chunks, padding, who else is in the batch. In fp64 on the tiny model."""

from types import SimpleNamespace

import pytest
import torch

import tiny
from stateshape.core import tensors
from stateshape.core.method import Draw, Term
from stateshape.core.signals import Credit, Imitate, MatchDistribution, Prefer, Reference
from stateshape.core.states import Origin, States, pack
from stateshape.core.tensors import before
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.losses.divergence import Divergence
from stateshape.losses.policy_gradient import PolicyGradient
from stateshape.losses.preference import Preference
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.signals.distribution import TeacherDistribution
from stateshape.signals.reward import GroupReward
from stateshape.states.sampled import LearnerStates
from stateshape.train.step import accumulate
from tiny import row

DRAW = Draw(item_ids=("item0", "item1", "item2"), step=0, seed=5)
MAX_TOKENS = 20
LOSSES = {
    "cross-entropy": CrossEntropy(),
    "forward": Divergence(direction="forward"),
    "reverse": Divergence(direction="reverse"),
    "jsd": Divergence(direction="jsd", beta=0.3),
    "token-mean": PolicyGradient(normalise="token-mean"),
    "sequence-mean": PolicyGradient(normalise="sequence-mean"),
    "constant": PolicyGradient(normalise="constant", max_tokens=MAX_TOKENS),
    "gspo": PolicyGradient(normalise="sequence-mean", ratio="sequence", clip_low=0.5, clip_high=1.0),
    "k1": PolicyGradient(kl_coefficient=0.3, kl_estimator="k1"),
    "k2": PolicyGradient(kl_coefficient=0.3, kl_estimator="k2"),
    "k3": PolicyGradient(kl_coefficient=0.3, kl_estimator="k3", normalise="token-mean"),
    "exact": PolicyGradient(kl_coefficient=0.3, kl_estimator="exact"),
    "exact gspo": PolicyGradient(
        kl_coefficient=0.3, kl_estimator="exact", ratio="sequence", clip_low=0.5, clip_high=1.0
    ),
    "dpo": Preference(shape="dpo", beta=0.2),
    "ipo": Preference(shape="ipo", beta=0.2),
}
DIVERGENCES = ("forward", "reverse", "jsd")
PAIRED = ("dpo", "ipo")


def world(dtype=torch.float64):
    shared = tiny.weights(dtype=dtype)
    return tiny.learner(shared, size=0.1), tiny.teacher(shared)


def mixed_states() -> States:
    """Six rows of very different lengths, one of them without a single supervised token."""
    lengths = [(3, 9), (1, 1), (4, 0), (2, 20), (6, 5), (6, 3)]
    rows = []
    for number, (prompt, response) in enumerate(lengths):
        ids = torch.randint(2, 46, (prompt + response,), generator=torch.Generator().manual_seed(number)).tolist()
        logps = [-1.0 - 0.3 * (i % 7) for i in range(response)]
        rows.append(
            row(ids[:prompt], ids[prompt:], Origin.LEARNER, group=number // 2, logps=logps, item_id=str(number))
        )
    return pack(rows, device="cpu")


def signal_for(name, states, teacher):
    supervise_BT = states.written_by(Origin.LEARNER)
    if name == "cross-entropy":
        return Imitate(states=states, supervise_BT=supervise_BT)
    with torch.no_grad():
        hidden_ND = teacher.hidden(states.ids_BT, states.lengths_B, before(supervise_BT))
        logp_N = tensors.token_logp(hidden_ND, teacher.head, states.ids_BT[supervise_BT])
    if name in DIVERGENCES:
        return MatchDistribution(
            states=states, supervise_BT=supervise_BT, teacher_hidden_ND=hidden_ND, teacher_head=teacher.head
        )
    if name in PAIRED:
        logp_B = tensors.row_sums(logp_N, supervise_BT)
        return Prefer(states=states, supervise_BT=supervise_BT, reference_logp_B=logp_B)
    advantage_B = torch.tensor([1.0, -0.5, 2.0, -1.5, 0.25, 0.5], dtype=torch.float64)[: len(states)]
    advantage_BT = advantage_B[:, None].expand(states.ids_BT.shape).contiguous()
    return Credit(
        states=states,
        supervise_BT=supervise_BT,
        advantage_BT=advantage_BT,
        reward_B=torch.zeros(len(states)),
        reference=Reference(logp_BT=tensors.spread(logp_N, supervise_BT), hidden_ND=hidden_ND, head=teacher.head),
    )


def gradient(loss, learner, signal, chunk_tokens):
    """(loss, logged sums, gradient as one vector) of the whole batch, by the training step's own accumulation."""
    found = accumulated(loss, learner, signal, chunk_tokens)
    return found.loss, found.sums, torch.cat([p.grad.flatten() for p in learner.parameters()])


def accumulated(loss, learner, signal, chunk_tokens):
    for parameter in learner.parameters():
        parameter.grad = None
    return accumulate(Term(method=SimpleNamespace(loss=loss)), learner, signal, chunk_tokens)


@pytest.mark.parametrize("name", LOSSES)
def test_trap_wrong_denominator_under_accumulation(name):
    """Any chunking gives the same loss, statistics and gradient (trl#4719, #6006)."""
    learner, teacher = world()
    signal = signal_for(name, mixed_states(), teacher)
    whole, whole_sums, expected = gradient(LOSSES[name], learner, signal, 10**9)
    assert expected.abs().max() > 1e-3
    per_token = accumulated(LOSSES[name], learner, signal, 10**9).per_token
    for chunk_tokens in (1, 30, 60):
        total, sums, found = gradient(LOSSES[name], learner, signal, chunk_tokens)
        assert total == pytest.approx(whole, rel=1e-9)
        assert sums == pytest.approx(whole_sums, rel=1e-6)
        for key, pieces in accumulated(LOSSES[name], learner, signal, chunk_tokens).per_token.items():
            torch.testing.assert_close(pieces, per_token[key], rtol=1e-6, atol=1e-9)
        assert (found - expected).norm() <= 1e-9 * expected.norm()


def naive_total(name, learner, signal):
    """The loss from the full [B, T, V] log-probs, by autograd alone."""
    states = signal.states
    logp_BTV = (tiny.hidden(learner, states.ids_BT, states.lengths_B) @ learner.head.weight_VD.T).log_softmax(-1)
    return naive_loss(name, logp_BTV, signal)


def naive_loss(name, logp_BTV, signal):
    states, supervise_BT = signal.states, signal.supervise_BT
    logp_NV = logp_BTV[:, :-1][supervise_BT[:, 1:]]
    token_N = logp_NV[torch.arange(len(logp_NV)), states.ids_BT[supervise_BT]]
    if name == "cross-entropy":
        return -token_N.sum()
    if name in DIVERGENCES:
        teacher_NV = (signal.teacher_hidden_ND @ signal.teacher_head.weight_VD.T).log_softmax(-1)
        if name == "jsd":
            beta = LOSSES[name].beta
            mixed = (beta * teacher_NV.exp() + (1 - beta) * logp_NV.exp()).log()
            return beta * kl_sum(teacher_NV, mixed) + (1 - beta) * kl_sum(logp_NV, mixed)
        return kl_sum(teacher_NV, logp_NV) if name == "forward" else kl_sum(logp_NV, teacher_NV)
    of_row = list(token_N.split(supervise_BT.sum(1).tolist()))
    if name in PAIRED:
        total = 0.0
        for k in range(0, len(of_row), 2):
            scores = [of_row[k + i].sum() - signal.reference_logp_B[k + i] for i in (0, 1)]
            if name == "dpo":
                total = total + (1 + (-LOSSES[name].beta * (scores[0] - scores[1])).exp()).log()
            else:
                means = [score / max(len(of_row[k + i]), 1) for i, score in enumerate(scores)]
                total = total + (means[0] - means[1] - 1 / (2 * LOSSES[name].beta)) ** 2
        return total
    return naive_policy_gradient(LOSSES[name], of_row, logp_NV, signal)


def kl_sum(p, q):
    return (p.exp() * (p - q)).sum()


def naive_policy_gradient(loss, of_row, logp_NV, signal):
    states, supervise_BT = signal.states, signal.supervise_BT
    kl_NV, at, total = None, 0, 0.0
    if loss.kl_estimator == "exact" and loss.kl_coefficient:
        reference_NV = (signal.reference.hidden_ND @ signal.reference.head.weight_VD.T).log_softmax(-1)
        kl_NV = logp_NV.exp() * (logp_NV - reference_NV)
    for b, logps in enumerate(of_row):
        chosen = supervise_BT[b]
        log_ratio = logps - states.behaviour_logp_BT[b][chosen]
        ratio = (log_ratio.mean() if loss.ratio == "sequence" else log_ratio).exp()
        advantage = signal.advantage_BT[b][chosen]
        term = -torch.minimum(ratio * advantage, ratio.clamp(1 - loss.clip_low, 1 + loss.clip_high) * advantage)
        if loss.kl_coefficient:
            log_r = (
                signal.reference.logp_BT[b][chosen] - logps
            )  # log (reference / learner), as the estimators' source has it
            kl = {"k1": -log_r, "k2": log_r**2 / 2, "k3": (log_r.exp() - 1) - log_r}.get(loss.kl_estimator)
            kl = kl_NV[at : at + len(logps)].sum(-1) if kl is None else kl
            term = term + loss.kl_coefficient * kl
        at += len(logps)
        if len(logps):
            total = total + (term.mean() if loss.normalise == "sequence-mean" else term.sum())
    return total


@pytest.mark.numerics
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 3e-5)])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_equal_those_of_full_logits(monkeypatch, name, dtype, tolerance):
    """Whatever the rows of logits at a time: they never exist together, and are never made twice."""
    learner, teacher = world(dtype)
    signal = signal_for(name, mixed_states(), teacher)
    parameters = learner.parameters()
    naive = naive_total(name, learner, signal)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(naive, parameters)])
    assert expected.norm() > 1e-2
    for num_rows in (1, 7, 10**6):
        monkeypatch.setattr(tensors, "CHUNK_ELEMENTS", {"cpu": num_rows * learner.head.num_tokens})
        monkeypatch.setattr(tensors, "MIN_CHUNK_ROWS", 1)
        total = LOSSES[name].total(learner, signal).total
        found = torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)])
        assert total.item() == pytest.approx(naive.item(), rel=tolerance)
        assert (found - expected).norm() <= tolerance * expected.norm()


@pytest.mark.numerics
@pytest.mark.parametrize("name", LOSSES)
def test_chunks_agree_in_fp32_too(name):
    learner, teacher = world(torch.float32)
    signal = signal_for(name, mixed_states(), teacher)
    _, _, expected = gradient(LOSSES[name], learner, signal, 10**9)
    _, _, found = gradient(LOSSES[name], learner, signal, 1)
    assert (found - expected).norm() <= 3e-5 * expected.norm()


@pytest.mark.parametrize("name", LOSSES)
def test_trap_padding_changes_no_gradient(name):
    """More padding, with any token ids in it, is the same batch."""
    learner, teacher = world()
    states = mixed_states()
    width, extra = states.ids_BT.shape[1], 11
    padded = States(
        ids_BT=torch.nn.functional.pad(states.ids_BT, (0, extra)),
        lengths_B=states.lengths_B,
        origin_BT=torch.nn.functional.pad(states.origin_BT, (0, extra), value=255),
        behaviour_logp_BT=torch.nn.functional.pad(states.behaviour_logp_BT, (0, extra), value=float("nan")),
        group_B=states.group_B,
        item_ids=states.item_ids,
        finishes=states.finishes,
    )
    beyond_BT = torch.arange(width + extra) >= states.lengths_B[:, None]
    padded.ids_BT[beyond_BT] = torch.randint(0, 46, (int(beyond_BT.sum()),), generator=torch.Generator().manual_seed(9))
    loss = LOSSES[name]
    plain_signal, padded_signal = (signal_for(name, s, teacher) for s in (states, padded))
    assert loss.count(plain_signal) == loss.count(padded_signal)
    results = []
    for signal in (plain_signal, padded_signal):
        for parameter in learner.parameters():
            parameter.grad = None
        total = loss.total(learner, signal).total
        total.backward()
        results.append((total.item(), torch.cat([p.grad.flatten() for p in learner.parameters()])))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-9)
    assert (results[0][1] - results[1][1]).norm() <= 1e-9 * results[0][1].norm()


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_is_the_sum_of_its_rows(name):
    learner, teacher = world()
    signal = signal_for(name, mixed_states(), teacher)
    total = LOSSES[name].total(learner, signal).total.item()
    parts = [[0, 1], [2, 3], [4, 5]] if name in PAIRED else [[0], [1], [3], [4], [5]]
    alone = [LOSSES[name].total(learner, signal.rows(torch.tensor(rows))).total.item() for rows in parts]
    assert total == pytest.approx(sum(alone), rel=1e-9)
    assert min(abs(part) for part in alone) > 0


@pytest.mark.parametrize("name", LOSSES)
def test_trap_wrong_denominator_any_number_of_processes_gives_the_same_gradient(name):
    """Each process sums over its rows and divides by the count of all: the gradients add up."""
    learner, teacher = world()
    signal = signal_for(name, mixed_states(), teacher)
    loss = LOSSES[name]
    shares = [signal.rows(torch.tensor(rows)) for rows in ([0, 1, 4, 5], [2, 3])]
    assert sum(loss.count(share) for share in shares) == loss.count(signal)
    _, _, expected = gradient(loss, learner, signal, 10**9)
    found = sum(gradient(loss, learner, share, 30)[2] * loss.count(share) for share in shares) / loss.count(signal)
    assert (found - expected).norm() <= 1e-9 * expected.norm()


@pytest.mark.parametrize("name", LOSSES)
def test_mass_and_log_prob_by_token_are_those_of_full_logits(name):
    """Half the L1 norm of d total / d logits at each position, by autograd on logits that exist all at once."""
    learner, teacher = world()
    signal = signal_for(name, mixed_states(), teacher)
    states, supervise_BT = signal.states, signal.supervise_BT
    with torch.no_grad():
        logits_BTV = tiny.hidden(learner, states.ids_BT, states.lengths_B) @ learner.head.weight_VD.T
    logits_BTV.requires_grad_()
    (slope_BTV,) = torch.autograd.grad(naive_loss(name, logits_BTV.log_softmax(-1), signal), logits_BTV)
    found = LOSSES[name].total(learner, signal).per_token
    expected_N = slope_BTV[:, :-1][supervise_BT[:, 1:]].abs().sum(-1) / 2
    assert expected_N.max() > 1e-3
    torch.testing.assert_close(found["mass"], expected_N, rtol=1e-6, atol=1e-9)
    logp_NV = logits_BTV.detach().log_softmax(-1)[:, :-1][supervise_BT[:, 1:]]
    torch.testing.assert_close(
        found["learner_logp"], logp_NV[torch.arange(len(logp_NV)), states.ids_BT[supervise_BT]], rtol=1e-9, atol=1e-9
    )
    assert not any(value.requires_grad for value in found.values())
    assert {value.shape for value in found.values()} == {(int(supervise_BT.sum()),)}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_trap_sampler_and_trainer_disagree_teacher_is_learner(name):
    """A divergence of a policy from itself is 0 with a zero gradient; from another it is not."""
    shared = tiny.weights(dtype=torch.float64)
    learner = tiny.learner(shared, size=0.1)
    other = tiny.teacher(shared)
    states = mixed_states()
    loss = LOSSES[name]
    own = TeacherDistribution(teacher=learner, positions="all").read(learner, states, DRAW)
    total, _, found = gradient(loss, learner, own, 30)
    assert total == pytest.approx(0, abs=1e-12)
    assert found.abs().max() < 1e-12
    assert loss.total(learner, own).per_token["mass"].max() < 1e-12
    total, _, found = gradient(loss, learner, signal_for(name, states, other), 30)
    assert total > 0.01
    assert found.abs().max() > 1e-3


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_trap_temperature_not_applied_when_scoring(temperature):
    """Right after sampling the ratio is 1, at any temperature; scored at another temperature it is not."""
    learner, _ = world(torch.float32)
    states = rollouts(temperature).draw(learner, DRAW)
    signal = GroupReward(reward=lambda i, text, finish: len(text), scale="std").read(learner, states, DRAW)
    loss = PolicyGradient(normalise="token-mean", temperature=temperature)
    with torch.no_grad():
        sums = loss.total(learner, signal).sums
        other = PolicyGradient(normalise="token-mean", temperature=1.5 * temperature).total(learner, signal).sums
    assert float(sums["ratio"]) / loss.count(signal) == pytest.approx(1, abs=1e-4)
    assert float(sums["frac_clipped"]) == 0
    assert float(other["frac_clipped"]) / loss.count(signal) > 0.1  # (the mean ratio stays near 1 at any temperature)


def rollouts(temperature):
    return LearnerStates(
        items={item.item_id: item for item in tiny.task().train},
        sampler=LocalSampler(),
        settings=SamplingSettings(max_new_tokens=12, temperature=temperature, num_samples=4),
    )


def test_a_policy_gradient_at_ratio_one_is_reinforce():
    """Gradient of -sum A log p: on-policy, clipping plays no part."""
    learner, _ = world(torch.float64)
    states = rollouts(1.0).draw(learner, DRAW)
    signal = GroupReward(reward=lambda i, text, finish: len(text), scale="none").read(learner, states, DRAW)
    _, _, found = gradient(PolicyGradient(normalise="token-mean"), learner, signal, 40)
    for parameter in learner.parameters():
        parameter.grad = None
    hidden_BTD = tiny.hidden(learner, states.ids_BT, states.lengths_B)
    logp_BTV = (hidden_BTD @ learner.head.weight_VD.T).log_softmax(-1)
    total = 0.0
    for b, t in signal.supervise_BT.nonzero().tolist():
        total = total - signal.advantage_BT[b, t] * logp_BTV[b, t - 1, states.ids_BT[b, t]]
    (total / signal.supervise_BT.sum()).backward()
    expected = torch.cat([p.grad.flatten() for p in learner.parameters()])
    assert expected.norm() > 1e-3
    assert (found - expected).norm() <= 1e-5 * expected.norm()  # behaviour log-probs are kept in fp32
