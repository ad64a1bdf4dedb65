"""Several methods in one step: weights, own counts, shares of the prompts, shared states; and equal token budgets."""

import dataclasses
import json

import pytest
import torch

import tiny
from stateshape.core.files import BadInput
from stateshape.core.method import Combination, Draw, Term, terms_of
from stateshape.recipes.opd import OPD
from stateshape.recipes.opd_sft import OPDPlusSFT
from stateshape.recipes.recipe import taught, teachers_of
from stateshape.recipes.sft import SFT
from stateshape.train.loop import train
from stateshape.train.settings import TrainSettings
from stateshape.train.step import accumulate, draw_states, read_signals, thinned

DRAW = Draw(item_ids=tuple(f"item{i}" for i in range(6)), step=0, seed=3)


def world():
    shared = tiny.weights(dtype=torch.float64)
    learner, teacher = tiny.learner(shared, size=0.1), tiny.teacher(shared)
    return learner, tiny.parts(teacher)


def gradient(method, learner, draw=DRAW):
    terms = terms_of(method)
    for parameter in learner.parameters():
        parameter.grad = None
    for name, signal in read_signals(terms, learner, draw_states(terms, learner, draw)).items():
        accumulate(terms[name], learner, signal, 10**9)
    return torch.cat([p.grad.flatten() for p in learner.parameters()])


def test_a_combinations_gradient_is_the_weighted_sum_of_its_methods_own():
    learner, parts = world()
    sft, opd = SFT().build(parts), OPD(teacher="t", rollout_tokens=6).build(parts)
    both = Combination(terms={"sft": Term(method=sft, weight=0.25), "opd": Term(method=opd, weight=2.0)})
    expected = 0.25 * gradient(sft, learner) + 2.0 * gradient(opd, learner)
    assert (gradient(both, learner) - expected).norm() < 1e-9 * expected.norm()


def test_terms_take_their_share_of_the_prompts_and_divide_by_their_own_count():
    learner, parts = world()
    sft = SFT().build(parts)
    even = lambda item_id: int(item_id[-1]) % 2 == 0  # noqa: E731
    both = Combination(
        terms={"a": Term(method=sft, takes=even), "b": Term(method=sft, weight=3.0, takes=lambda i: not even(i))}
    )
    mine, others = (DRAW._replace(item_ids=tuple(i for i in DRAW.item_ids if even(i) == is_even)) for is_even in (1, 0))
    expected = gradient(sft, learner, mine) + 3.0 * gradient(sft, learner, others)
    assert (gradient(both, learner) - expected).norm() < 1e-9 * expected.norm()


def test_terms_on_one_source_share_its_states():
    learner, parts = world()
    opd = OPD(teacher="t", rollout_tokens=6).build(parts)
    terms = {
        "a": Term(method=opd),
        "b": Term(method=dataclasses.replace(opd)),
        "c": Term(method=opd, takes=lambda i: i == "item0"),
    }
    drawn = draw_states(terms, learner, DRAW)
    assert drawn["a"].states is drawn["b"].states
    assert drawn["c"].states is not drawn["a"].states
    assert set(drawn["c"].states.item_ids) == {"item0"}


def test_a_term_without_prompts_is_left_out():
    learner, parts = world()
    terms = {"sft": Term(method=SFT().build(parts), takes=lambda item_id: False)}
    assert draw_states(terms, learner, DRAW) == {}


def test_each_term_logs_its_own_loss_and_count_and_the_loss_is_their_weighted_sum(tmp_path):
    learner, parts = world()
    method = OPDPlusSFT(teacher="t", rollout_tokens=6, sft_share=0.5, opd_weight=2.0, sft_weight=0.5).build(parts)
    settings = TrainSettings(steps=3, batch_prompts=6, lora=tiny.LORA)
    train(method, learner, parts.item_ids, settings, seed=3, folder=tmp_path)
    for record in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()):
        stats = record["stats"]
        assert record["loss"] == pytest.approx(2.0 * stats["opd/loss"] + 0.5 * stats["sft/loss"])
        assert record["num_supervised"] == stats["opd/num_supervised"] + stats["sft/num_supervised"]
        assert stats["sft/nll_nats"] == pytest.approx(stats["sft/loss"])
        assert set(record["origin_shares"]) == {"dataset", "learner"}


# Teachers by tag


def test_teachers_of():
    assert teachers_of("runs/a") == {"": "runs/a"}
    assert teachers_of("even=runs/a, odd=b") == {"even": "runs/a", "odd": "b"}
    for text in ("even=", "=a", "even=a,even=b", "even=a,b"):
        with pytest.raises(BadInput, match="expected one teacher, or tag=teacher"):
            teachers_of(text)


def test_each_item_is_taught_by_the_teacher_of_its_tag():
    learner, parts = world()
    asked = []
    named = dataclasses.replace(parts, teacher=lambda source: asked.append(source) or parts.teacher(source))
    method = OPD(teacher="even=a,odd=b", rollout_tokens=6).build(named)
    assert asked == ["a", "b"]
    drawn = draw_states(method.terms, learner, DRAW)
    assert {name: sorted(set(one.states.item_ids)) for name, one in drawn.items()} == {
        "even": ["item0", "item2", "item4"],
        "odd": ["item1", "item3", "item5"],
    }
    assert [term.weight for term in method.terms.values()] == [0.5, 0.5]
    with pytest.raises(BadInput, match="names no teacher for items tagged odd"):
        taught(parts, "even=a,third=b", lambda teacher: None)


def test_terms_with_prompts_of_their_own_have_chance_of_their_own():
    """Else row i of every tag would be sampled with the same random numbers."""
    learner, parts = world()
    same = [dataclasses.replace(item, prompt="a+1=") for item in parts.task.train]
    parts = dataclasses.replace(parts, task=dataclasses.replace(parts.task, train=tuple(same)))
    method = OPD(teacher="even=a,odd=b", rollout_tokens=8).build(parts)
    even, odd = (one.states.trajectories() for one in draw_states(method.terms, learner, DRAW).values())
    assert all(a.ids != b.ids for a, b in zip(even, odd, strict=True))


def test_a_path_that_is_there_is_no_list_of_teachers(tmp_path):
    (tmp_path / "lr=1e-4").mkdir()
    assert teachers_of(f"{tmp_path}/lr=1e-4") == {"": f"{tmp_path}/lr=1e-4"}


# Budgets


@pytest.mark.parametrize("budget", [1, 17, 10**6])
def test_a_budget_of_supervised_tokens_is_met_exactly(budget):
    learner, parts = world()
    method = OPDPlusSFT(teacher="t", rollout_tokens=6, sft_share=0.5).build(parts)
    signals = read_signals(method.terms, learner, draw_states(method.terms, learner, DRAW))
    sizes = {name: int(signal.supervise_BT.sum()) for name, signal in signals.items()}
    kept = thinned(signals, budget, DRAW)
    assert sum(int(signal.supervise_BT.sum()) for signal in kept.values()) == min(budget, sum(sizes.values()))
    for name, signal in kept.items():
        assert not bool((signal.supervise_BT & ~signals[name].supervise_BT).any())
    teacher_rows = kept["opd"].teacher_hidden_ND
    assert len(teacher_rows) == int(kept["opd"].supervise_BT.sum())
    again = thinned(signals, budget, DRAW)
    assert all(torch.equal(kept[name].supervise_BT, again[name].supervise_BT) for name in kept)


def test_thinned_teacher_states_are_those_of_the_kept_positions():
    learner, parts = world()
    opd = OPD(teacher="t", rollout_tokens=6).build(parts)
    signals = read_signals(terms_of(opd), learner, draw_states(terms_of(opd), learner, DRAW))
    kept = thinned(signals, 9, DRAW)[""]
    whole = signals[""]
    at = kept.supervise_BT[whole.supervise_BT]
    assert torch.equal(kept.teacher_hidden_ND, whole.teacher_hidden_ND[at])
    assert 0 < int(at.sum()) == 9 < len(at)
