"""States keep every token's provenance; signals supervise what they should and alter nothing that was sampled."""

import pytest
import torch

import tiny
from stateshape.core.head import Head
from stateshape.core.method import Draw
from stateshape.core.signals import Credit, MatchDistribution
from stateshape.core.states import PADDING, Origin, States, chunks, origin_shares, pack
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import Completion, SamplingSettings
from stateshape.signals import reference
from stateshape.signals.continuation import TeacherContinuation
from stateshape.signals.distribution import TeacherDistribution
from stateshape.signals.gold import GoldTokens
from stateshape.signals.reward import GroupReward, advantages
from stateshape.states.cuts import Cut, OneState
from stateshape.states.dataset import DatasetStates
from stateshape.states.sampled import LearnerStates
from tiny import row

ITEMS = {item.item_id: item for item in tiny.task().train}
DRAW = Draw(item_ids=("item0", "item3", "item1"), step=4, seed=5)


def sampled(num_samples=2, cut=None, max_new_tokens=10, stops=()):
    settings = SamplingSettings(max_new_tokens=max_new_tokens, num_samples=num_samples, stops=stops)
    return LearnerStates(items=ITEMS, sampler=LocalSampler(), settings=settings, cut=cut)


class Scripted:
    """A sampler that writes given ids, and remembers what it was asked."""

    def __init__(self, *completions):
        self.completions, self.asked = completions, []

    def sample(self, policy, prompts, settings, *, seed, progress=None):
        self.asked.append([list(prompt) for prompt in prompts])
        return [Completion(*self.completions[i % len(self.completions)]) for i in range(len(prompts))]


# Packing


def some_rows():
    return [
        row([3, 4], [5, 6, 7], Origin.LEARNER, logps=[-0.5, -1.5, -2.5], group=0, item_id="a"),
        row([0, 0, 0], [], Origin.DATASET, group=1, item_id="b"),
        row([9], [8], Origin.DATASET, group=1, item_id="c"),
    ]


def test_packing_and_unpacking_gives_the_same_rows():
    assert pack(some_rows(), device="cpu").trajectories() == some_rows()


def test_padding_is_nobodys_whatever_ids_it_holds():
    states = pack(some_rows(), device="cpu")
    assert states.ids_BT[1].tolist() == [0] * 5  # three prompt tokens 0 and two cells of padding 0
    assert states.origin_BT[1].tolist() == [0, 0, 0, PADDING, PADDING]
    assert states.written_by(*Origin).sum(1).tolist() == [5, 3, 2]
    assert torch.isnan(states.behaviour_logp_BT[1:]).all()
    assert states.prompt_lengths_B.tolist() == [2, 3, 1]


def test_chosen_rows_are_trimmed_and_stay_themselves():
    states = pack(some_rows(), device="cpu").rows(torch.tensor([2, 1]))
    assert states.ids_BT.shape == (2, 3)
    assert states.trajectories() == [some_rows()[2], some_rows()[1]]


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="got no rows"):
        pack([], device="cpu")


def lengths_of(chunk_tokens, rows):
    return [index.tolist() for index in chunks(pack(rows, device="cpu"), chunk_tokens)]


def test_chunks_are_consecutive_rows_within_their_tokens():
    rows = [row([k], [k] * n, Origin.DATASET) for k, n in enumerate([3, 1, 9, 2, 2, 3], start=2)]  # 4, 2, 10, 3, 3, 4
    assert lengths_of(6, rows) == [[0, 1], [2], [3, 4], [5]]  # the long row stands alone
    assert lengths_of(10, rows) == [[0, 1], [2], [3, 4, 5]]
    assert lengths_of(1, rows) == [[k] for k in range(6)]
    assert lengths_of(10**9, rows) == [list(range(6))]


def test_chunks_count_what_a_row_shares_with_the_one_before_it_once():
    prompt = list(range(2, 12))
    group = [row(prompt, [20 + k, 3], Origin.LEARNER) for k in range(3)]  # 12 tokens, of which 2 new ones
    assert lengths_of(16, group) == [[0, 1, 2]]
    assert lengths_of(15, group) == [[0, 1], [2]]
    assert lengths_of(13, group) == [[0], [1], [2]]  # the first of a chunk has nobody to share with
    assert lengths_of(15, [group[0], row([30], [1], Origin.LEARNER), group[1]]) == [[0, 1], [2]]
    short, zeros = row(prompt[:4], [], Origin.LEARNER), row(prompt[:4], [0] * 8, Origin.LEARNER)
    assert lengths_of(12, [short, zeros]) == [[0, 1]]
    assert lengths_of(11, [short, zeros]) == [[0], [1]]  # padding is nobody's beginning, though its ids are 0 too


def test_chosen_rows_of_a_distribution_keep_their_teacher():
    states = pack(some_rows(), device="cpu")
    supervise_BT = states.written_by(Origin.LEARNER, Origin.DATASET)  # 3, 0 and 1 tokens
    hidden_ND = torch.arange(4.0)[:, None]
    signal = MatchDistribution(
        states=states, supervise_BT=supervise_BT, teacher_hidden_ND=hidden_ND, teacher_head=Head(torch.eye(1))
    )
    chosen = signal.rows(torch.tensor([2, 1, 0]))
    assert chosen.teacher_hidden_ND[:, 0].tolist() == [3, 0, 1, 2]
    assert chosen.states.ids_BT[chosen.supervise_BT].tolist() == [8, 5, 6, 7]
    assert signal.rows(torch.tensor([1])).teacher_hidden_ND.shape == (0, 1)


def test_written_by_is_exactly_the_tokens_of_those_writers():
    mixed = some_rows()[0].extended([11, 12], Origin.TEACHER, logps=[-1.0, None], finish="eos")
    states = pack([mixed, some_rows()[2]], device="cpu")
    names = {
        Origin.PROMPT: [[0, 1], [0]],
        Origin.LEARNER: [[2, 3, 4], []],
        Origin.TEACHER: [[5, 6], []],
        Origin.DATASET: [[], [1]],
    }
    for origin, places in names.items():
        assert [r.nonzero()[:, 0].tolist() for r in states.written_by(origin)] == places
    both = states.written_by(Origin.LEARNER, Origin.TEACHER)
    assert torch.equal(both, states.written_by(Origin.LEARNER) | states.written_by(Origin.TEACHER))
    assert origin_shares([states]) == {"dataset": 1 / 6, "learner": 3 / 6, "teacher": 2 / 6}


def test_extending_and_cutting_move_every_column_together():
    first = some_rows()[0]
    longer = first.extended([11], Origin.TEACHER, logps=[-3.0], finish="eos")
    assert (longer.ids, longer.logps) == ([3, 4, 5, 6, 7, 11], [None, None, -0.5, -1.5, -2.5, -3.0])
    assert (longer.finish, longer.group, longer.item_id) == ("eos", 0, "a")
    short = longer.cut(3)
    assert (short.ids, short.logps, short.origins) == ([3, 4, 5], [None, None, -0.5], first.origins[:3])
    assert short.finish == "length"  # whoever writes on does so in the middle of a text
    assert first.ids == [3, 4, 5, 6, 7]


# Where


def test_dataset_states_are_prompt_solution_and_one_end_token():
    policy = tiny.learner(tiny.weights(pad_is_eos=True))
    states = DatasetStates(items=ITEMS).draw(policy, DRAW)
    for made, item_id in zip(states.trajectories(), DRAW.item_ids):
        item = ITEMS[item_id]
        assert made.ids == [*policy.encode(item.prompt), *policy.encode(item.completion), tiny.EOS]
        assert made.prompt_length == len(item.prompt)
        assert set(made.origins[made.prompt_length :]) == {Origin.DATASET}
        assert set(made.logps) == {None}
    signal = GoldTokens().read(policy, states, DRAW)
    supervised = [made.ids[len(ITEMS[i].prompt) :] for made, i in zip(states.trajectories(), DRAW.item_ids)]
    assert [states.ids_BT[b][signal.supervise_BT[b]].tolist() for b in range(3)] == supervised


def test_trap_eos_masked_when_pad_equals_eos():
    """trl#6357: the end token is supervised, the padding is not, though both may be the same id."""
    policy = tiny.learner(tiny.weights(pad_is_eos=True))
    states = DatasetStates(items=ITEMS).draw(policy, DRAW)
    signal = GoldTokens().read(policy, states, DRAW)
    last_B = states.lengths_B - 1
    assert policy.pad_id == tiny.EOS
    assert (states.ids_BT[torch.arange(3), last_B] == tiny.EOS).all()
    assert signal.supervise_BT[torch.arange(3), last_B].all()
    beyond_BT = torch.arange(states.ids_BT.shape[1]) >= states.lengths_B[:, None]
    assert beyond_BT.any()
    assert not signal.supervise_BT[beyond_BT].any()


def test_rollouts_hold_the_samplers_own_ids_and_log_probs():
    policy = tiny.learner(tiny.weights(), size=0.1)
    states = sampled().draw(policy, DRAW)
    assert states.item_ids == ["item0", "item0", "item3", "item3", "item1", "item1"]
    assert states.group_B.tolist() == [0, 0, 1, 1, 2, 2]
    for made in states.trajectories():
        assert made.ids[: made.prompt_length] == policy.encode(ITEMS[made.item_id].prompt)
        written = made.logps[made.prompt_length :]
        assert all(logp is not None and logp < 0 for logp in written)
        assert made.logps[: made.prompt_length] == [None] * made.prompt_length


def test_rollouts_depend_on_seed_and_step_alone():
    policy = tiny.learner(tiny.weights(), size=0.1)
    source = sampled(cut=Cut())
    first = source.draw(policy, DRAW).trajectories()
    source.draw(policy, DRAW._replace(step=9))
    assert source.draw(policy, DRAW).trajectories() == first
    assert source.draw(policy, DRAW._replace(step=5)).trajectories() != first
    assert source.draw(policy, DRAW._replace(seed=6)).trajectories() != first


# What


def continuation(teacher, sampler=None, max_new_tokens=6):
    settings = SamplingSettings(max_new_tokens=max_new_tokens)
    return TeacherContinuation(teacher=teacher, sampler=sampler or LocalSampler(), settings=settings)


def test_trap_retokenisation_drift():
    """trl#5224: a continuation is spliced as ids, though its text would be tokenised otherwise."""
    shared = tiny.weights()
    learner, teacher = tiny.learner(shared, size=0.1), tiny.teacher(shared)
    pieces = learner.tokenizer.get_vocab()["ab"]  # the tokenizer itself always writes "ab" as two tokens
    assert learner.encode(learner.decode([pieces])) != [pieces]
    states = pack([row([3, 4], [5, pieces], Origin.LEARNER, logps=[-1.0, -2.0])], device="cpu")
    scripted = Scripted(([pieces, 7, pieces], [-0.1, -0.2, -0.3], "length"))
    signal = continuation(teacher, scripted).read(learner, states, DRAW)
    assert scripted.asked == [[[3, 4, 5, pieces]]]  # the teacher is asked with ids too
    made = signal.states.trajectories()[0]
    assert made.ids == [3, 4, 5, pieces, pieces, 7, pieces]
    assert made.logps == pytest.approx([None, None, -1.0, -2.0, -0.1, -0.2, -0.3])
    assert signal.supervise_BT.tolist() == [[False] * 4 + [True] * 3]


def test_trap_truncated_rows_treated_as_finished():
    """trl#6439: a continuation that ran out of tokens gets no end token; one that ended keeps the teacher's own."""
    shared = tiny.weights()
    learner, teacher = tiny.learner(shared, size=0.1), tiny.teacher(shared)
    states = sampled(num_samples=1, cut=Cut()).draw(learner, DRAW)
    scripted = Scripted(([7, 8], [-1.0, -1.0], "length"), ([9, tiny.EOS], [-1.0, -1.0], "eos"), ([4], [-1.0], "stop"))
    signal = continuation(teacher, scripted).read(learner, states, DRAW)
    rows = signal.states.trajectories()
    for before, after, (ids, _, finish) in zip(states.trajectories(), rows, scripted.completions):
        assert after.ids == [*before.ids, *ids]
        assert after.finish == finish
    assert [r.ids.count(tiny.EOS) for r in rows] == [0, 1, 0]


def test_the_prefix_is_never_supervised_and_the_continuation_always_is():
    shared = tiny.weights()
    learner, teacher = tiny.learner(shared, size=0.1), tiny.teacher(shared)
    states = sampled(num_samples=3, cut=Cut()).draw(learner, DRAW)
    before = states.trajectories()
    signal = continuation(teacher).read(learner, states, DRAW)
    assert states.trajectories() == before
    num_prefix = 0
    for b, (prefix, whole) in enumerate(zip(before, signal.states.trajectories())):
        assert whole.ids[: len(prefix.ids)] == prefix.ids
        assert set(whole.origins[len(prefix.ids) :]) == {Origin.TEACHER}
        supervised = signal.supervise_BT[b].nonzero()[:, 0].tolist()
        assert supervised == list(range(len(prefix.ids), len(whole.ids)))
        num_prefix += len(prefix.ids) - prefix.prompt_length
    assert num_prefix > 0, "no learner token in any prefix: the test says nothing"


def test_a_continuation_is_the_teachers_own_words_with_its_log_probs():
    shared = tiny.weights()
    learner, teacher = tiny.learner(shared, size=0.1), tiny.teacher(shared)
    states = sampled(num_samples=2, cut=Cut()).draw(learner, DRAW)
    signal = continuation(teacher).read(learner, states, DRAW)
    for policy, is_writer in ((teacher, True), (learner, False)):
        with torch.no_grad():
            hidden_BTD = tiny.hidden(policy, signal.states.ids_BT, signal.states.lengths_B)
            logp_BTV = (hidden_BTD @ policy.head.weight_VD.T).log_softmax(-1)
        scored = logp_BTV[:, :-1].gather(-1, signal.states.ids_BT[:, 1:, None])[..., 0]
        said = signal.states.behaviour_logp_BT[:, 1:]
        worst = (scored - said)[signal.supervise_BT[:, 1:]].abs().max()
        assert (worst < 1e-4) == is_writer


@pytest.mark.parametrize("positions", ["all", "last"])
def test_the_teachers_distribution_is_read_at_the_learners_states(monkeypatch, positions):
    shared = tiny.weights()
    learner, teacher = tiny.learner(shared, size=0.1), tiny.teacher(shared)
    states = sampled(num_samples=12, cut=OneState() if positions == "last" else None).draw(learner, DRAW)
    monkeypatch.setattr(reference, "FORWARD_TOKENS", 100)  # several passes
    signal = TeacherDistribution(teacher=teacher, positions=positions).read(learner, states, DRAW)
    of_row = signal.teacher_hidden_ND.split(signal.supervise_BT.sum(1).tolist())
    for b, made in enumerate(states.trajectories()):
        places = signal.supervise_BT[b].nonzero()[:, 0].tolist()
        wanted = range(made.prompt_length, len(made.ids))
        assert places == (list(wanted) if positions == "all" else [len(made.ids) - 1])
        with torch.no_grad():
            alone = tiny.hidden(teacher, torch.tensor([made.ids]), torch.tensor([len(made.ids)]))[0]
        torch.testing.assert_close(of_row[b], alone[[t - 1 for t in places]], rtol=1e-4, atol=1e-4)


def test_a_teachers_distribution_on_dataset_states_supervises_the_solution():
    """A legal triple must not be an empty one."""
    shared = tiny.weights()
    learner, teacher = tiny.learner(shared), tiny.teacher(shared)
    states = DatasetStates(items=ITEMS).draw(learner, DRAW)
    signal = TeacherDistribution(teacher=teacher, positions="all").read(learner, states, DRAW)
    assert torch.equal(signal.supervise_BT, states.written_by(Origin.DATASET))
    assert signal.supervise_BT.any()


# Reward


def test_group_advantages_by_hand():
    # Group 7: rewards 1, 0, 0, 1: mean 1/2, population std 1/2: +1, -1, -1, +1 (a sample std would give 0.87).
    # Group 2: rewards 3, 0, missing, 0: mean 1, population std sqrt((4 + 1 + 1) / 3) = sqrt 2.
    # Group 5: one row. Group 9: nothing known.
    nan = float("nan")
    reward_B = torch.tensor([1.0, 3.0, 0.0, 0.0, nan, 0.0, 0.0, 1.0, 5.0, nan])
    group_B = torch.tensor([7, 2, 7, 2, 2, 7, 2, 7, 5, 9])
    root2 = 2**0.5
    scaled = advantages(reward_B, group_B, baseline="group-mean", scale="std").tolist()
    assert scaled == pytest.approx([1, 2 / root2, -1, -1 / root2, 0, -1, -1 / root2, 1, 0, 0], abs=1e-5)
    plain = advantages(reward_B, group_B, baseline="group-mean", scale="none").tolist()
    assert plain == pytest.approx([0.5, 2, -0.5, -1, 0, -0.5, -1, 0.5, 0, 0], abs=1e-6)


@pytest.mark.parametrize("baseline", ["group-mean", "leave-one-out", "batch-mean"])
@pytest.mark.parametrize("scale", ["std", "none"])
def test_trap_zero_std_equal_rewards_give_exactly_no_credit(baseline, scale):
    """The fp32 mean of equal rewards is not always that reward; dividing by the std would make credit of the error."""
    for reward in (0.0, 1.0, 0.1, 0.7, -0.3, 1e6 / 3):
        for size in range(1, 17):
            group_B = torch.zeros(size, dtype=torch.int64)
            advantage_B = advantages(torch.full((size,), reward), group_B, baseline=baseline, scale=scale)
            assert not advantage_B.any(), (reward, size)


def test_trap_unscorable_reward_becomes_zero():
    """A reward of None is missing: its row is in nobody's baseline, gets no credit and is not supervised."""
    policy = tiny.learner(tiny.weights(), size=0.1)
    states = sampled(num_samples=4).draw(policy, DRAW)
    rewards = iter([1, None, 3, 5] * 3)  # whole numbers are rewards too
    signal = GroupReward(reward=lambda i, text, finish: next(rewards), scale="none").read(policy, states, DRAW)
    assert signal.advantage_BT[:4, 0].tolist() == [-2, 0, 0, 2]
    assert torch.isnan(signal.reward_B).tolist() == [False, True, False, False] * 3
    known_B = ~torch.isnan(signal.reward_B)
    assert torch.equal(signal.supervise_BT, states.written_by(Origin.LEARNER) & known_B[:, None])


def test_a_reward_reads_the_completion_alone_and_its_finish():
    policy = tiny.learner(tiny.weights(), size=0.1)
    states = sampled(num_samples=2, stops=("\n",), max_new_tokens=14).draw(policy, DRAW)
    seen = []

    def reward(item_id, text, finish):
        seen.append((item_id, text, finish))
        return 0.0

    GroupReward(reward=reward, scale="std").read(policy, states, DRAW)
    wanted = [
        (made.item_id, policy.decode(made.ids[made.prompt_length :]), made.finish) for made in states.trajectories()
    ]
    assert seen == wanted
    assert {finish for _, _, finish in seen} >= {"length", "stop"}


def test_credit_refuses_tokens_nobody_has_log_probs_for():
    policy = tiny.learner(tiny.weights())
    states = DatasetStates(items=ITEMS).draw(policy, DRAW)
    with pytest.raises(ValueError, match="without the log-prob of the policy that wrote them"):
        credit(states, states.written_by(Origin.DATASET))
    credit(states, torch.zeros_like(states.ids_BT, dtype=torch.bool))  # nothing supervised, nothing needed
    known = sampled().draw(policy, DRAW)
    credit(known, known.written_by(Origin.LEARNER))


def credit(states: States, supervise_BT):
    return Credit(
        states=states,
        supervise_BT=supervise_BT,
        advantage_BT=torch.zeros(states.ids_BT.shape),
        reward_B=torch.zeros(len(states)),
    )
