"""Signals about the learner's own samples: reward and its baselines, filters, preferences, a teacher's log-probs."""

import pytest
import torch

import tiny
from stateshape.core.method import Draw
from stateshape.core.signals import Credit, Imitate, MatchDistribution, Prefer
from stateshape.core.states import Origin, chunks, pack
from stateshape.core.tensors import before, row_sums
from stateshape.losses.divergence import reverse_kl
from stateshape.policy.policy import Policy
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.signals import reference
from stateshape.signals.filter import RewardFilter
from stateshape.signals.preference import DatasetPreference, RewardPreference
from stateshape.signals.reference import StayClose, score
from stateshape.signals.reward import GroupReward, Summed, advantages
from stateshape.signals.teacher_logp import TeacherLogProb
from stateshape.states.sampled import LearnerStates
from stateshape.train.step import step_stats
from tiny import row

ITEMS = {item.item_id: item for item in tiny.task().train}
DRAW = Draw(item_ids=("item0", "item3", "item1"), step=4, seed=5)
NAN = float("nan")


def world():
    shared = tiny.weights()
    return tiny.learner(shared, size=0.1), tiny.teacher(shared)


def sampled(policy, num_samples=4, temperature=1.0, max_new_tokens=10):
    settings = SamplingSettings(
        max_new_tokens=max_new_tokens, num_samples=num_samples, temperature=temperature, stops=("\n",)
    )
    return LearnerStates(items=ITEMS, sampler=LocalSampler(), settings=settings).draw(policy, DRAW)


def scripted(*rewards):
    """A reward that gives these values in turn."""
    left = iter(rewards)
    return lambda item_id, text, finish: next(left)


def plain_logps(policy, states, temperature=1.0):
    """log p of every token but the first, [B, T - 1], from logits that exist all at once."""
    with torch.no_grad():
        logits_BTV = tiny.hidden(policy, states.ids_BT, states.lengths_B) @ policy.head.weight_VD.T
    logp_BTV = (logits_BTV / temperature).log_softmax(-1)
    return logp_BTV[:, :-1].gather(-1, states.ids_BT[:, 1:, None])[..., 0]


# Baselines


def test_baselines_by_hand():
    """Group 0: rewards 4, 1, 1; group 1: 0, missing, 2; the batch's mean is 8 / 5."""
    reward_B = torch.tensor([4.0, 1.0, 1.0, 0.0, NAN, 2.0])
    group_B = torch.tensor([0, 0, 0, 1, 1, 1])
    found = {
        name: advantages(reward_B, group_B, baseline=name, scale="none").tolist()
        for name in ("group-mean", "leave-one-out", "batch-mean", "none")
    }
    assert found["group-mean"] == pytest.approx([2, -1, -1, -1, 0, 1])
    assert found["leave-one-out"] == pytest.approx([4 - 1, 1 - 5 / 2, 1 - 5 / 2, -2, 0, 2])
    assert found["batch-mean"] == pytest.approx([2.4, -0.6, -0.6, -1.6, 0, 0.4])
    assert found["none"] == [4, 1, 1, 0, 0, 2]
    std = (sum((r - 1.6) ** 2 for r in (4, 1, 1, 0, 2)) / 5) ** 0.5
    scaled = advantages(reward_B, group_B, baseline="batch-mean", scale="std").tolist()
    assert scaled == pytest.approx([a / std for a in found["batch-mean"]], rel=1e-5)
    root2 = 2**0.5
    scaled = advantages(reward_B, group_B, baseline="leave-one-out", scale="std").tolist()
    assert scaled == pytest.approx([3 / root2, -1.5 / root2, -1.5 / root2, -2, 0, 2], rel=1e-5)


def test_a_row_alone_has_nobody_to_be_compared_with():
    for baseline in ("group-mean", "leave-one-out"):
        assert advantages(torch.tensor([3.0]), torch.tensor([0]), baseline=baseline, scale="none").tolist() == [0]


def test_a_deviation_without_a_mean_is_refused():
    with pytest.raises(ValueError, match="scale: got 'std' with baseline 'none'"):
        GroupReward(reward=scripted(), baseline="none")


# Truncated rows


@pytest.mark.parametrize("truncated", ["grade", "mask", "penalise"])
def test_trap_truncated_rows_treated_as_finished_each_rule(truncated):
    learner, _ = world()
    states = sampled(learner, max_new_tokens=14)
    cut_B = torch.tensor([finish == "length" for finish in states.finishes])
    assert 0 < cut_B.sum() < len(states)
    rewards = [float(k % 3) for k in range(len(states))]
    signal = GroupReward(reward=scripted(*rewards), scale="none", truncated=truncated).read(learner, states, DRAW)
    written_BT = states.written_by(Origin.LEARNER)
    reward_B = torch.tensor(rewards) - (cut_B.float() if truncated == "penalise" else 0)
    assert torch.equal(signal.reward_B, reward_B)
    wanted = advantages(reward_B, states.group_B, baseline="group-mean", scale="none")
    assert torch.equal(signal.advantage_BT[:, 0], wanted)  # a masked row still counts in its group's mean
    supervised = written_BT & ~cut_B[:, None] if truncated == "mask" else written_BT
    assert torch.equal(signal.supervise_BT, supervised)


# A reference


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("is_base", [True, False])
def test_a_reference_is_the_base_or_a_named_policy_at_the_scoring_temperature(monkeypatch, temperature, is_base):
    learner, teacher = world()
    states = sampled(learner, temperature=temperature)
    monkeypatch.setattr(reference, "FORWARD_TOKENS", 60)  # several passes
    policy = Policy(learner.weights, None) if is_base else teacher
    close_to = StayClose(policy=None if is_base else teacher, temperature=temperature)
    rewards = scripted(*range(len(states)))
    signal = GroupReward(reward=rewards, close_to=close_to).read(learner, states, DRAW)
    chosen_BT = signal.supervise_BT[:, 1:]
    found, wanted = signal.reference.logp_BT[:, 1:][chosen_BT], plain_logps(policy, states, temperature)[chosen_BT]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert not signal.reference.logp_BT[~signal.supervise_BT].any()
    with torch.no_grad():
        hidden_ND = policy.hidden(states.ids_BT, states.lengths_B, before(signal.supervise_BT))
    torch.testing.assert_close(signal.reference.hidden_ND, hidden_ND, rtol=1e-4, atol=1e-4)
    other = plain_logps(learner, states, temperature)[chosen_BT]
    assert (found - other).abs().max() > 0.01
    assert not found.requires_grad


def test_a_sampled_kl_needs_no_hidden_states():
    learner, _ = world()
    states = sampled(learner)
    close_to = StayClose(over_vocabulary=False)
    signal = GroupReward(reward=scripted(*range(len(states))), close_to=close_to).read(learner, states, DRAW)
    assert signal.reference.hidden_ND is None
    assert signal.reference.head is None


# A teacher's log-probs


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_a_teachers_log_prob_minus_the_writers_is_the_credit(temperature):
    learner, teacher = world()
    states = sampled(learner, temperature=temperature)
    signal = TeacherLogProb(teacher=teacher, temperature=temperature).read(learner, states, DRAW)
    chosen_BT = states.written_by(Origin.LEARNER)
    assert torch.equal(signal.supervise_BT, chosen_BT)
    wanted = (plain_logps(teacher, states, temperature) - states.behaviour_logp_BT[:, 1:])[chosen_BT[:, 1:]]
    torch.testing.assert_close(signal.advantage_BT[chosen_BT], wanted, rtol=1e-4, atol=1e-4)
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(signal.reward_B, row_sums(signal.advantage_BT[chosen_BT], chosen_BT))
    centred = TeacherLogProb(teacher=teacher, temperature=temperature, centre=True).read(learner, states, DRAW)
    difference = (signal.advantage_BT - centred.advantage_BT)[chosen_BT]
    torch.testing.assert_close(difference, wanted.mean().expand(len(wanted)), rtol=1e-4, atol=1e-4)


def test_a_teacher_that_is_the_learner_gives_no_credit():
    learner, _ = world()
    signal = TeacherLogProb(teacher=learner).read(learner, sampled(learner), DRAW)
    assert signal.advantage_BT.abs().max() < 1e-4


def test_the_mean_credit_at_a_state_is_minus_the_reverse_kl():
    """Over all tokens that could follow one prompt, weighted as the learner writes them."""
    learner, teacher = world()
    prompt, size = [5, 9, 13], learner.head.num_tokens
    with torch.no_grad():
        at = torch.tensor([[False, False, True]])
        said = [
            p.hidden(torch.tensor([prompt]), torch.tensor([3]), at) @ p.head.weight_VD.T for p in (learner, teacher)
        ]
    learner_logp, teacher_logp = (logits.log_softmax(-1) for logits in said)
    rows = [row(prompt, [v], Origin.LEARNER, logps=[learner_logp[0, v].item()]) for v in range(size)]
    signal = TeacherLogProb(teacher=teacher).read(learner, pack(rows, device="cpu"), DRAW)
    mean = (learner_logp[0].exp() * signal.advantage_BT[:, 3]).sum()
    torch.testing.assert_close(mean, -reverse_kl(learner_logp, teacher_logp)[0], rtol=1e-4, atol=1e-4)


# Rewards that are a sum


@pytest.mark.parametrize(
    ("signal", "sum_too"),
    [
        (lambda reward: GroupReward(reward=reward, scale="none"), True),
        (lambda reward: RewardFilter(reward=reward), False),
        (lambda reward: RewardPreference(reward=reward), False),
    ],
)
def test_a_step_logs_the_mean_of_each_part_of_a_sum_where_it_is_known(signal, sum_too):
    """right: 1, 0, 1, 0, ...; short: 4, missing, NaN, 4, ...; long: always missing."""
    learner, _ = world()
    states = sampled(learner)
    assert len(states) == 12
    right = [1.0, 0.0] * 6
    short = [4.0, None, NAN] * 4
    parts = [{"right": r, "short": s, "long": None} for r, s in zip(right, short, strict=True)]
    read = signal(scripted(*(Summed(r, part) for r, part in zip(right, parts, strict=True)))).read(
        learner, states, DRAW
    )
    stats = step_stats({"": read}, {})
    wanted = {"rewards/right/mean": 0.5, "rewards/short/mean": 4.0, "rewards/long/mean": None}
    assert {name: value for name, value in stats.items() if name.startswith("rewards/")} == wanted
    assert stats.get("reward") == (0.5 if sum_too else None)


# Filters


def test_only_rows_with_enough_reward_are_imitated():
    learner, _ = world()
    states = sampled(learner)
    rewards = [(0.0, 0.49, 0.5, None)[k % 4] for k in range(len(states))]
    signal = RewardFilter(reward=scripted(*rewards), threshold=0.5).read(learner, states, DRAW)
    kept_B = torch.tensor([reward == 0.5 for reward in rewards])
    assert isinstance(signal, Imitate)
    assert torch.equal(signal.supervise_BT, states.written_by(Origin.LEARNER) & kept_B[:, None])
    everything = RewardFilter(reward=None).read(learner, states, DRAW)
    assert torch.equal(everything.supervise_BT, states.written_by(Origin.LEARNER))


# Preferences


def test_of_each_group_the_best_and_the_worst_make_a_pair():
    """Group 0: 1, 3, 0, 3; group 1: a tie; group 2: missing, 2, 1, missing."""
    learner, teacher = world()
    states = sampled(learner)
    rewards = [1, 3, 0, 3, 5, 5, 5, 5, None, 2, 1, None]
    signal = RewardPreference(reward=scripted(*rewards), reference=teacher).read(learner, states, DRAW)
    rows = states.trajectories()
    assert signal.states.trajectories() == [rows[1], rows[2], rows[9], rows[10]]
    assert torch.equal(signal.supervise_BT, signal.states.written_by(Origin.LEARNER))
    wanted_B = (plain_logps(teacher, signal.states) * signal.supervise_BT[:, 1:]).nansum(1)
    torch.testing.assert_close(signal.reference_logp_B, wanted_B, rtol=1e-4, atol=1e-3)


def test_a_batch_of_ties_has_no_pair_and_counts_nothing():
    learner, _ = world()
    states = sampled(learner)
    signal = RewardPreference(reward=scripted(*[1.0] * len(states))).read(learner, states, DRAW)
    assert not signal.supervise_BT.any()
    assert len(signal.states) == 2


def pairs():
    rows = []
    for group in range(3):
        prompt = [5 + group, 9]
        rows.append(row(prompt, [7] * (group + 1), Origin.DATASET, group=group))
        rows.append(row(prompt, [8] * (9 * group + 1), Origin.DATASET, group=group))
    return rows


def test_dataset_pairs_carry_the_bases_log_probs():
    learner, _ = world()
    states = pack(pairs(), device="cpu")
    signal = DatasetPreference().read(learner, states, DRAW)
    base = Policy(learner.weights, None)
    wanted_B = (plain_logps(base, states) * states.written_by(Origin.DATASET)[:, 1:]).sum(1)
    torch.testing.assert_close(signal.reference_logp_B, wanted_B, rtol=1e-4, atol=1e-3)
    other = plain_logps(learner, states) * states.written_by(Origin.DATASET)[:, 1:]
    assert (other.sum(1) - signal.reference_logp_B).abs().max() > 0.01


def test_rows_that_are_not_pairs_are_refused():
    learner, _ = world()
    with pytest.raises(ValueError, match="got 5 rows that aren't pairs"):
        DatasetPreference().read(learner, pack(pairs()[:5], device="cpu"), DRAW)
    with pytest.raises(ValueError, match="got 4 rows that aren't pairs"):
        DatasetPreference().read(learner, pack(pairs()[1:5], device="cpu"), DRAW)
    some = pack(pairs()[:3], device="cpu")
    with pytest.raises(ValueError, match="got 3 rows; expected pairs"):
        Prefer(states=some, supervise_BT=some.ids_BT > 0, reference_logp_B=torch.zeros(3))


@pytest.mark.parametrize("tokens", [1, 10, 14, 30, 10**9])
def test_chunks_never_part_a_pair(tokens):
    """Lengths 3 3 | 4 12 | 5 21, of which the second of each pair shares 2 with the first."""
    states = pack(pairs(), device="cpu")
    found = [index.tolist() for index in chunks(states, tokens, together=2)]
    wanted = {
        1: [[0, 1], [2, 3], [4, 5]],
        10: [[0, 1], [2, 3], [4, 5]],
        14: [[0, 1], [2, 3], [4, 5]],
        30: [[0, 1, 2, 3], [4, 5]],
        10**9: [[0, 1, 2, 3, 4, 5]],
    }
    assert found == wanted[tokens]


def test_chunks_count_a_pairs_own_tokens_to_the_last():
    states = pack(pairs(), device="cpu")
    assert [len(index) for index in chunks(states, 4 + 14, together=2)] == [4, 2]
    assert [len(index) for index in chunks(states, 4 + 13, together=2)] == [2, 2, 2]


# Fewer positions


def credit_with_reference(learner, states):
    close_to = StayClose()
    return GroupReward(reward=scripted(*range(len(states))), close_to=close_to).read(learner, states, DRAW)


def test_supervising_fewer_positions_keeps_what_belongs_to_them():
    learner, teacher = world()
    states = sampled(learner)
    whole = credit_with_reference(learner, states)
    keep_BT = torch.rand(states.ids_BT.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    kept_BT = whole.supervise_BT & keep_BT
    some = whole.supervising(keep_BT)
    assert isinstance(some, Credit)
    assert torch.equal(some.supervise_BT, kept_BT)
    assert 0 < kept_BT.sum() < whole.supervise_BT.sum()
    hidden = score(Policy(learner.weights, None), states, kept_BT).hidden_ND
    torch.testing.assert_close(some.reference.hidden_ND, hidden, rtol=1e-4, atol=1e-4)
    match = MatchDistribution(
        states=states,
        supervise_BT=whole.supervise_BT,
        teacher_hidden_ND=score(teacher, states, whole.supervise_BT).hidden_ND,
        teacher_head=teacher.head,
    )
    fewer = match.supervising(keep_BT)
    torch.testing.assert_close(fewer.teacher_hidden_ND, score(teacher, states, kept_BT).hidden_ND, rtol=1e-4, atol=1e-4)
    imitated = Imitate(states=states, supervise_BT=whole.supervise_BT).supervising(keep_BT)
    assert torch.equal(imitated.supervise_BT, kept_BT)


def test_a_preference_refuses_fewer_positions():
    learner, _ = world()
    signal = DatasetPreference().read(learner, pack(pairs(), device="cpu"), DRAW)
    assert (signal.rows_together, Imitate.rows_together) == (2, 1)
    with pytest.raises(ValueError, match="supervised_per_step, band: got a preference signal"):
        signal.supervising(torch.ones_like(signal.supervise_BT))


def test_chosen_rows_of_a_credit_keep_their_reference():
    learner, _ = world()
    states = sampled(learner)
    whole = credit_with_reference(learner, states)
    index = torch.tensor([5, 0, 7])
    some = whole.rows(index)
    base = Policy(learner.weights, None)
    found = score(base, some.states, some.supervise_BT)
    torch.testing.assert_close(some.reference.hidden_ND, found.hidden_ND, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(some.reference.logp_BT[some.supervise_BT], found.logp_N, rtol=1e-4, atol=1e-4)
