"""What must not change a loss or its gradient: chunks, padding, who else is in the batch. In fp64 on the tiny model."""

from types import SimpleNamespace

import pytest
import torch

import tiny
from stateshape.core import tensors
from stateshape.core.method import Draw
from stateshape.core.signals import Credit, Imitate, MatchDistribution
from stateshape.core.states import Origin, States, pack
from stateshape.core.tensors import before
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.losses.divergence import Divergence
from stateshape.losses.policy_gradient import PolicyGradient
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.signals.distribution import TeacherDistribution
from stateshape.signals.reward import GroupReward
from stateshape.states.rollouts import Rollouts
from stateshape.train.step import accumulate
from tiny import row

DRAW = Draw(item_ids=("item0", "item1", "item2"), step=0, seed=5)
LOSSES = {
    "cross-entropy": CrossEntropy(),
    "forward": Divergence(direction="forward"),
    "reverse": Divergence(direction="reverse"),
    "token-mean": PolicyGradient(normalise="token-mean"),
    "sequence-mean": PolicyGradient(normalise="sequence-mean"),
}


def world(dtype=torch.float64):
    shared = tiny.weights(dtype=dtype)
    return tiny.learner(shared, size=0.1), tiny.teacher(shared)


def mixed_states() -> States:
    """Five rows of very different lengths, one of them without a single supervised token."""
    lengths = [(3, 9), (1, 1), (4, 0), (2, 20), (6, 5)]
    rows = []
    for group, (prompt, response) in enumerate(lengths):
        ids = torch.randint(2, 46, (prompt + response,), generator=torch.Generator().manual_seed(group)).tolist()
        logps = [-1.0 - 0.3 * (i % 7) for i in range(response)]
        rows.append(row(ids[:prompt], ids[prompt:], Origin.LEARNER, group=group // 2, logps=logps, item_id=str(group)))
    return pack(rows, device="cpu")


def signal_for(name, states, teacher):
    supervise_BT = states.written_by(Origin.LEARNER)
    if name == "cross-entropy":
        return Imitate(states=states, supervise_BT=supervise_BT)
    if name in ("forward", "reverse"):
        with torch.no_grad():
            hidden_ND = teacher.hidden(states.ids_BT, states.lengths_B, before(supervise_BT))
        return MatchDistribution(
            states=states, supervise_BT=supervise_BT, teacher_hidden_ND=hidden_ND, teacher_head_VD=teacher.head_VD
        )
    advantage_B = torch.tensor([1.0, -0.5, 2.0, -1.5, 0.25], dtype=torch.float64)[: len(states)]
    advantage_BT = advantage_B[:, None].expand(states.ids_BT.shape).contiguous()
    return Credit(
        states=states, supervise_BT=supervise_BT, advantage_BT=advantage_BT, reward_B=torch.zeros(len(states))
    )


def gradient(loss, learner, signal, chunk_tokens):
    """(loss, gradient as one vector) of the whole batch, by the training step's own accumulation."""
    for parameter in learner.parameters():
        parameter.grad = None
    total, sums = accumulate(SimpleNamespace(loss=loss), learner, signal, loss.count(signal), chunk_tokens)
    return total, sums, torch.cat([p.grad.flatten() for p in learner.parameters()])


@pytest.mark.parametrize("name", LOSSES)
def test_trap_wrong_denominator_under_accumulation(name):
    """Any chunking gives the same loss, statistics and gradient (trl#4719, #6006)."""
    learner, teacher = world()
    signal = signal_for(name, mixed_states(), teacher)
    whole, whole_sums, expected = gradient(LOSSES[name], learner, signal, 10**9)
    assert expected.abs().max() > 1e-3
    for chunk_tokens in (1, 30, 60):
        total, sums, found = gradient(LOSSES[name], learner, signal, chunk_tokens)
        assert total == pytest.approx(whole, rel=1e-9)
        assert sums == pytest.approx(whole_sums, rel=1e-6)
        assert (found - expected).norm() <= 1e-9 * expected.norm()


def naive_total(name, learner, signal):
    """The loss from the full [B, T, V] log-probs, by autograd alone."""
    states, supervise_BT = signal.states, signal.supervise_BT
    logp_BTV = (tiny.hidden(learner, states.ids_BT, states.lengths_B) @ learner.head_VD.T).log_softmax(-1)
    logp_NV = logp_BTV[:, :-1][supervise_BT[:, 1:]]
    token_N = logp_NV[torch.arange(len(logp_NV)), states.ids_BT[supervise_BT]]
    if name == "cross-entropy":
        return -token_N.sum()
    if name in ("forward", "reverse"):
        teacher_NV = (signal.teacher_hidden_ND @ signal.teacher_head_VD.T).log_softmax(-1)
        p, q = (teacher_NV, logp_NV) if name == "forward" else (logp_NV, teacher_NV)
        return (p.exp() * (p - q)).sum()
    ratio_N = (token_N - states.behaviour_logp_BT[supervise_BT]).exp()
    advantage_N = signal.advantage_BT[supervise_BT]
    term_N = torch.minimum(ratio_N * advantage_N, ratio_N.clamp(0.8, 1.2) * advantage_N)
    if name == "sequence-mean":
        term_N = term_N / supervise_BT.sum(1, keepdim=True).expand(supervise_BT.shape)[supervise_BT]
    return -term_N.sum()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
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
        monkeypatch.setattr(tensors, "CHUNK_ELEMENTS", {"cpu": num_rows * learner.head_VD.shape[0]})
        monkeypatch.setattr(tensors, "MIN_CHUNK_ROWS", 1)
        total = LOSSES[name].total(learner, signal).total
        found = torch.cat([g.flatten() for g in torch.autograd.grad(total, parameters)])
        assert total.item() == pytest.approx(naive.item(), rel=tolerance)
        assert (found - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("name", LOSSES)
def test_chunks_agree_in_fp32_too(name):
    learner, teacher = world(torch.float32)
    signal = signal_for(name, mixed_states(), teacher)
    _, _, expected = gradient(LOSSES[name], learner, signal, 10**9)
    _, _, found = gradient(LOSSES[name], learner, signal, 1)
    assert (found - expected).norm() <= 3e-6 * expected.norm()


@pytest.mark.parametrize("name", LOSSES)
def test_padding_changes_nothing(name):
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
    alone = [LOSSES[name].total(learner, signal.rows(torch.tensor([b]))).total.item() for b in (0, 1, 3, 4)]
    assert total == pytest.approx(sum(alone), rel=1e-9)
    assert min(abs(part) for part in alone) > 0


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_trap_sampler_and_trainer_disagree_teacher_is_learner(direction):
    """KL of a policy to itself is 0 with a zero gradient; to another it is not."""
    shared = tiny.weights(dtype=torch.float64)
    learner = tiny.learner(shared, size=0.1)
    other = tiny.teacher(shared)
    states = mixed_states()
    loss = Divergence(direction=direction)
    own = TeacherDistribution(teacher=learner, positions="all").read(learner, states, DRAW)
    total, _, found = gradient(loss, learner, own, 30)
    assert total == pytest.approx(0, abs=1e-12)
    assert found.abs().max() < 1e-12
    total, _, found = gradient(loss, learner, signal_for(direction, states, other), 30)
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
    return Rollouts(
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
    logp_BTV = (hidden_BTD @ learner.head_VD.T).log_softmax(-1)
    total = 0.0
    for b, t in signal.supervise_BT.nonzero().tolist():
        total = total - signal.advantage_BT[b, t] * logp_BTV[b, t - 1, states.ids_BT[b, t]]
    (total / signal.supervise_BT.sum()).backward()
    expected = torch.cat([p.grad.flatten() for p in learner.parameters()])
    assert expected.norm() > 1e-3
    assert (found - expected).norm() <= 1e-5 * expected.norm()  # behaviour log-probs are kept in fp32
