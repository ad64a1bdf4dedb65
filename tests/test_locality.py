"""The measures of where supervision lands, each against a hand-worked value, a slow loop or a peer."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import tiny
from stateshape.core.files import BadInput
from stateshape.core.head import Head
from stateshape.core.seeds import generator_for
from stateshape.core.signals import Imitate, MatchDistribution
from stateshape.core.states import Origin, pack
from stateshape.locality.budget import MOST_PROBES, interval, is_probed, step_work
from stateshape.locality.divergence import kl, top_k_overlap
from stateshape.locality.geometry import factors, singular_values, update_geometry
from stateshape.locality.probe import CUTS
from stateshape.locality.reachability import ess_share, reachability_gap
from stateshape.locality.recoverability import (
    GradeCounts,
    Graded,
    count_grades,
    graded_teacher,
    prefix_fraction,
    taken_over_at,
)
from stateshape.locality.settings import LocalitySettings
from stateshape.locality.states import places, thinned, training_rows, written
from stateshape.locality.supervision import EDGES_NATS, Tally, tally_of
from stateshape.locality.told_apart import c2st_auc, grams


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=generator_for(seed, "normal"), dtype=dtype)


# Reachability and freshness


def test_the_reachability_gap_by_hand():
    # means 2 and 1; 90th percentiles: of 1, 3 at .9 of the way = 2.8; of 0, 2 = 1.8
    gap = reachability_gap(np.array([1.0, 3.0]), np.array([0.0, 2.0]))
    assert gap.mean_nats == pytest.approx(1.0)
    assert gap.p90_nats == pytest.approx(1.0)
    gap = reachability_gap(np.array([4.0, 4.0, 4.0]), np.array([0.0, 1.0]))
    assert gap == pytest.approx((3.5, 4 - 0.9))
    same = np.array([0.3, 0.1, 2.0])
    assert reachability_gap(same, same) == (0, 0)
    assert reachability_gap(np.array([]), same) is None
    assert reachability_gap(same, np.array([])) is None


def test_the_effective_sample_share_by_hand():
    assert ess_share(np.zeros(7)) == pytest.approx(1)
    assert ess_share(np.full(3, 900.0)) == pytest.approx(1)  # a constant cancels, and does not overflow
    # weights 1 and 3: (1 + 3)^2 / (2 (1 + 9)) = .8
    assert ess_share(np.log([1.0, 3.0])) == pytest.approx(0.8)
    assert ess_share(np.array([0.0, -1000.0, -1000.0, -1000.0])) == pytest.approx(0.25)
    assert ess_share(np.array([])) is None


# Classifier


def test_states_that_share_no_token_are_told_apart_and_equal_ones_are_not():
    rng = np.random.default_rng(0)
    prompts = [f"p{i // 4}" for i in range(64)]

    def rows(low, high):
        return [rng.integers(low, high, 12).tolist() for _ in range(64)]

    names = {"training_prompts": prompts, "own_prompts": prompts, "seed": 1}
    assert c2st_auc(rows(0, 40), rows(40, 80), **names) == pytest.approx(1)
    assert abs(c2st_auc(rows(0, 40), rows(0, 40), **names) - 0.5) < 0.2
    assert c2st_auc([[1]], [[2], [3]], training_prompts=["a"], own_prompts=["a", "b"], seed=1) is None


def test_a_prompt_is_never_on_both_sides_of_a_fold():
    """Rows that only say which prompt they came from tell nothing about other prompts: with leaks the AUC would be 1."""
    training = [[i, i, i] for i in range(16) for _ in range(4)]
    own = [[100 + i, 100 + i, 100 + i] for i in range(16) for _ in range(4)]
    names = [str(i) for i in range(16) for _ in range(4)]
    assert c2st_auc(training, own, training_prompts=names, own_prompts=names, seed=3) < 0.75


def test_a_single_probe_reads_noise_far_from_one_half_and_the_mean_of_eight_does_not():
    """Both sides from one distribution, in a probe's default sizes: docs/locality.md once said 0.35 to 0.65 for one probe."""
    rng = np.random.default_rng(0)
    share_T = 1 / np.arange(1, 61)

    def side(num_rows):
        rows = rng.choice(60, size=(num_rows, 40), p=share_T / share_T.sum())
        cuts = [(n, t) for n in range(num_rows) for t in rng.choice(40, CUTS, replace=False)]
        return [rows[n, :t].tolist() for n, t in cuts], [str(n) for n, _ in cuts]

    def probe():
        (training, training_prompts), (own, own_prompts) = side(16), side(6)
        names = {"training_prompts": training_prompts, "own_prompts": own_prompts}
        return c2st_auc(training, own, **names, seed=int(rng.integers(2**31)))

    auc_PK = np.array([[probe() for _ in range(8)] for _ in range(6)])
    assert 0.1 < auc_PK.std() < 0.25
    assert np.mean((auc_PK < 0.35) | (auc_PK > 0.65)) > 0.15
    assert np.all(np.abs(auc_PK.mean(axis=1) - 0.5) < 0.15)


def test_what_the_classifier_sees_of_a_prefix():
    assert grams([]) == ["-1"]
    assert grams([5, 7]) == ["-1", "5", "7", "-1 5", "5 7"]


def test_the_classifier_ranks_as_its_features_say():
    """One token alone decides: its presence as the score has the AUC of the classifier."""
    rng = np.random.default_rng(1)
    has = np.array([1] * 30 + [0] * 10 + [1] * 8 + [0] * 32)
    rows = [[3, 4] if one else [4, 3] for one in has]
    truth = np.array([1] * 40 + [0] * 40)
    prompts = [str(i) for i in rng.permutation(40)]
    found = c2st_auc(rows[:40], rows[40:], training_prompts=prompts, own_prompts=prompts, seed=0)
    assert found == pytest.approx(roc_auc_score(truth, has), abs=0.05)


# KL and overlap


def test_kl_against_a_loop_and_torch():
    heads = Head(normal(11, 4, seed=1)), Head(normal(13, 5, seed=2))  # a head with padded rows is cut to the other
    hidden = normal(6, 4, seed=3), normal(6, 5, seed=4)
    found = kl(hidden[0], heads[0], hidden[1], heads[1])
    assert found.dtype == torch.float64
    for n in range(6):
        p = torch.softmax(heads[0].weight_VD.double() @ hidden[0][n].double(), 0)
        q = torch.softmax(heads[1].weight_VD[:11].double() @ hidden[1][n].double(), 0)
        slow = sum(float(p[v]) * math.log(float(p[v]) / float(q[v])) for v in range(11))
        assert float(found[n]) == pytest.approx(slow, rel=1e-4)
        assert float(found[n]) == pytest.approx(
            float(torch.nn.functional.kl_div(q.log(), p, reduction="sum")), rel=1e-4
        )


def test_kl_of_a_tiny_move_is_not_rounding():
    """KL of a small move is half its squared length in the Fisher metric, down to 1e-9 nats from fp32 states."""
    head, hidden, direction = normal(500, 8, seed=1), normal(4, 8, seed=2), normal(4, 8, seed=3)
    assert kl(hidden, Head(head), hidden, Head(head)).abs().max() < 1e-15
    moved = hidden + 2e-5 * direction
    found = kl(hidden, Head(head), moved, Head(head))
    p = torch.softmax(hidden.double() @ head.double().T, -1)
    change = (moved.double() - hidden.double()) @ head.double().T
    fisher = 0.5 * ((p * change**2).sum(-1) - (p * change).sum(-1) ** 2)
    assert fisher.max() < 1e-8
    assert torch.allclose(found, fisher, rtol=0.05)


def test_top_k_overlap_by_hand():
    # logits are the hidden states themselves
    head = Head(torch.eye(4))
    learner = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.5, 0.3, 0.15, 0.05]]))
    teacher = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.3, 0.2]]))
    # the learner's two are tokens 0 and 1; the teacher's 2, 3 and 0, 2
    overlap, mass = top_k_overlap(learner, head, teacher, head, k=2)
    assert overlap.tolist() == [0.0, 0.5]
    assert mass.tolist() == pytest.approx([0.3, 0.5])
    same, _ = top_k_overlap(learner, head, learner, head, k=3)
    assert same.tolist() == [1.0, 1.0]


# Geometry


def test_singular_values_are_those_of_the_whole_update():
    for rank, inputs, outputs in ((3, 8, 10), (6, 4, 5), (2, 9, 2)):
        a, b = normal(rank, inputs, seed=rank), normal(outputs, rank, seed=rank + 10)
        whole = torch.linalg.svdvals(1.5 * b @ a)[: min(rank, inputs, outputs)]
        assert torch.allclose(singular_values(a, b, 1.5), whole, atol=1e-5)


def test_the_geometry_of_an_update_by_hand():
    # one module with sigma 3, 4 (|.|_F 5), one with sigma 12, 0, one that has not moved
    made = update_geometry([torch.tensor([4.0, 3.0]), torch.tensor([12.0, 0.0]), torch.zeros(2)])
    assert made.frobenius == pytest.approx(13)
    assert made.spectral == pytest.approx(12)
    assert made.stable_rank == pytest.approx((25 / 16 + 1) / 2)
    entropy = -(4 / 7) * math.log(4 / 7) - (3 / 7) * math.log(3 / 7)
    assert made.effective_rank == pytest.approx((math.exp(entropy) + 1) / 2)
    assert update_geometry([torch.zeros(3)]) == (0.0, 0.0, None, None)


def test_the_factors_are_the_adapters():
    """sum |scale B A|_F^2 over every adapted layer, by making each product."""
    shared = tiny.weights()
    policy = tiny.adapter(shared, "a", seed=1, size=0.3)
    tiny.adapter(shared, "b", seed=2, size=0.7)
    found = update_geometry([singular_values(*parts) for parts in factors(shared, policy.adapter)])
    state = shared.adapter_state("a")
    squares = [
        float((tiny.LORA.alpha / tiny.LORA.rank * (state[key.replace("lora_A", "lora_B")] @ value)).square().sum())
        for key, value in state.items()
        if "lora_A" in key
    ]
    assert len(squares) == 14
    assert found.frobenius == pytest.approx(math.sqrt(sum(squares)), rel=1e-5)


# Recoverability


def continued(prefix, continuation, prompt=2, item_id="x"):
    row = tiny.row([3] * prompt, [4] * prefix, Origin.LEARNER, item_id=item_id)
    return row.extended([5] * continuation, Origin.TEACHER, logps=[None] * continuation, finish="eos")


def test_where_the_teacher_takes_over():
    assert taken_over_at(continued(3, 4)) == 5
    assert prefix_fraction(continued(3, 4), 5) == pytest.approx(3 / 7)
    assert taken_over_at(continued(0, 4)) == 2  # from the prompt alone
    assert taken_over_at(tiny.row([3], [4, 4], Origin.LEARNER)) is None
    mixed = continued(1, 2).extended([4], Origin.LEARNER, logps=[None], finish="eos")
    assert taken_over_at(mixed) is None  # the teacher did not have the last word
    again = mixed.extended([5, 5], Origin.TEACHER, logps=[None, None], finish="eos")
    assert taken_over_at(again) == 6


def test_grades_by_quarter():
    counts = count_grades([Graded(0.0, True), Graded(0.2499, False), Graded(0.25, True), Graded(1.0, False)])
    assert counts == GradeCounts(num=[2, 1, 0, 1], num_correct=[1, 1, 0, 0])
    assert counts.share == 0.5
    assert counts.by_quarter == [0.5, 1.0, None, 0.0]
    assert counts.plus(counts).num == [4, 2, 0, 2]
    assert GradeCounts().share is None


def test_only_an_imitated_continuation_is_graded_and_missing_grades_stay_missing():
    rows = [continued(1, 3, item_id="good"), continued(3, 1, item_id="bad"), continued(1, 1, item_id="unknown")]
    states = pack(rows, device="cpu")
    signal = Imitate(states=states, supervise_BT=states.written_by(Origin.TEACHER))
    seen = []

    def grader(item_id, text):
        seen.append(text)
        return None if item_id == "unknown" else item_id == "good"

    graded = graded_teacher(signal, lambda ids: " ".join(map(str, ids)), grader)
    assert graded == [(0.25, True), (0.75, False)]
    assert seen == ["4 5 5 5", "4 4 4 5", "4 5"]  # prefix and continuation, without the prompt
    gold = pack([tiny.row([3], [4, 4], Origin.DATASET)], device="cpu")
    assert graded_teacher(Imitate(states=gold, supervise_BT=gold.written_by(Origin.DATASET)), str, grader) == []


# The supervision map


def test_the_map_of_a_batch_by_hand():
    rows = [continued(2, 3), tiny.row([3] * 4, [4] * 10, Origin.DATASET)]
    states = pack(rows, device="cpu")
    supervise = states.written_by(Origin.TEACHER) | states.written_by(Origin.DATASET)
    mass = torch.arange(1.0, 14.0)
    # p = 1, .99, .5: the bins from 0, 0 (.01 nats), .2 (.693 nats); then a token just above every edge, and three more
    logp = torch.tensor([0.0, -0.01, math.log(0.5), *(-edge - 1e-4 for edge in EDGES_NATS), -0.049, -5.9, -40.0])
    tally = tally_of(Imitate(states=states, supervise_BT=supervise), {"mass": mass, "learner_logp": logp})
    cells = {(c.origin, c.depth, c.surprisal): (c.num_tokens, c.mass) for c in tally.as_map().cells}
    # the teacher's tokens stand at 2/5, 3/5, 4/5 of their response
    expected = {("teacher", 4, 0): (1, 1.0), ("teacher", 6, 0): (1, 2.0), ("teacher", 8, 2): (1, 3.0)}
    bins = [0, 1, 2, 3, 4, 5, 6, 0, 5, 6]
    expected |= {("dataset", depth, bin_): (1, 4.0 + depth) for depth, bin_ in enumerate(bins)}
    assert cells == expected
    by_depth = np.array(tally.mass_by_depth())
    assert by_depth.sum() == pytest.approx(1)
    assert by_depth[8] == pytest.approx((3 + 12) / mass.sum())
    twice = tally.plus(tally)
    assert sum(c.num_tokens for c in twice.as_map().cells) == 26
    assert Tally().mass_by_depth() == [None] * 10
    assert not tally_of(Imitate(states=states, supervise_BT=supervise), {}).num_C.any()


# Rows and places


def test_training_rows_and_their_prefixes():
    rows = [continued(2, 3), tiny.row([3] * 4, [4] * 3, Origin.DATASET), continued(0, 1)]
    states = pack(rows, device="cpu")
    found = training_rows({"a": Imitate(states=states, supervise_BT=states.written_by(Origin.TEACHER))})
    assert [row.tokens.tolist() for row in found] == [[4, 5, 6], [2]]
    assert [row.first for row in found] == [0, 3]
    assert found[0].prefix_tokens.tolist() == [2, 3, 4, 5]  # before the last supervised token, teacher tokens too
    assert found[1].prefix_tokens.tolist() == []
    assert found[0].prefix(5) == [4, 4, 5]


def test_thinning_keeps_order_and_takes_every_place_alike():
    at = [np.arange(3, 9), np.arange(0), np.arange(5, 7)]
    assert [one.tolist() for one in thinned(at, 8, np.random.default_rng(0))] == [one.tolist() for one in at]
    hits = np.zeros(8)
    for seed in range(400):
        kept = thinned(at, 4, np.random.default_rng(seed))
        assert sum(map(len, kept)) == 4
        assert all((np.diff(one) > 0).all() for one in kept)
        hits[[*(kept[0] - 3), *(kept[2] + 1)]] += 1
    assert hits.min() > 150  # 200 on average
    assert hits.max() < 250


def test_the_states_of_what_was_written():
    rows, at = written([[1, 2], [3]], [[7, 8, 9], []])
    assert at[0].tolist() == [1, 2, 3]  # behind the prompt, 7 and 8: where 7, 8 and 9 were written
    made = places(rows, at)
    assert made.rows == [[1, 2, 7, 8]]
    assert len(made) == 3


# Settings


@pytest.mark.parametrize("name", ["every", "prompts", "max_new_tokens", "retention_tokens", "positions"])
def test_settings_that_make_no_sense_are_refused(name):
    with pytest.raises(BadInput, match=rf"locality.{name}: got 0; expected 1 or more"):
        LocalitySettings(**{name: 0})


def steps_probed(num_steps, probe_work, *, share=0.1):
    every = interval(num_steps=num_steps, share=share, step_work=1000, probe_work=probe_work)
    return [step for step in range(num_steps) if is_probed(step, num_steps=num_steps, every=every)]


def test_the_default_cadence_keeps_its_share():
    assert steps_probed(60, 1500) == [0, 20, 40, 59]  # a tenth of 60 x 1,000 tokens is worth four
    assert len(steps_probed(10_000, 1)) == MOST_PROBES
    for num_steps in (1, 2, 5, 60, 61, 299, 300):
        for probe_work in (100, 700, 2500, 9000):
            assert len(steps_probed(num_steps, probe_work)) <= 0.1 * num_steps * 1000 / probe_work


def test_a_step_counts_its_rows_whatever_the_passes_shared():
    """As one process and several count it: three passes of training, one of writing, one of another model's reading."""
    written_B = pack([tiny.row([5, 6], [7, 8], Origin.LEARNER)] * 2, device="cpu")
    given_B = pack([tiny.row([5], [7, 8], Origin.DATASET)], device="cpu")
    gold = Imitate(states=given_B, supervise_BT=given_B.written_by(Origin.DATASET))
    own = Imitate(states=written_B, supervise_BT=written_B.written_by(Origin.LEARNER))
    read = MatchDistribution(
        states=written_B,
        supervise_BT=own.supervise_BT,
        teacher_hidden_ND=torch.zeros(4, 2),
        teacher_head=Head(torch.zeros(3, 2)),
    )
    assert step_work([gold]) == 3 * 3
    assert step_work([own]) == 4 * 8
    assert step_work([gold, own, read]) == 3 * 3 + 5 * 8


def test_a_run_too_short_for_two_probes_has_one_at_its_end_or_none():
    assert steps_probed(60, 4000) == [59]
    assert steps_probed(60, 6001) == []
    assert steps_probed(60, 1, share=0) == []
    assert steps_probed(2, 1000, share=1) == [0, 1]
    assert steps_probed(1, 1000, share=1) == [0]


@pytest.mark.parametrize("share", [-0.1, math.nan, math.inf])
def test_a_share_that_makes_no_sense_is_refused(share):
    with pytest.raises(BadInput, match=r"locality.share: got .*; expected a number from 0 on"):
        LocalitySettings(share=share)
