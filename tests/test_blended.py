"""The geometric mixture of two policies as a sampler: by hand, against a slow reference, and at its ends to the bit."""

from __future__ import annotations

import math

import pytest
import torch

import tiny
from stateshape.core.files import BadInput
from stateshape.core.method import Draw
from stateshape.core.states import Origin
from stateshape.policy.policy import Policy
from stateshape.recipes.recipe import recipe_class
from stateshape.sampling.blended import blended, sample_blended
from stateshape.sampling.local import LocalSampler, uniform_numbers
from stateshape.sampling.settings import SamplingSettings
from stateshape.states.schedules import Schedule
from stateshape.train.step import draw_states, read_signals, terms_of

SETTINGS = SamplingSettings(max_new_tokens=10, num_samples=2)
PROMPTS = ["a1+1=", "is it so?", "b"]


def pair(dtype=torch.float64):
    shared = tiny.weights(dtype=dtype)
    return tiny.learner(shared, size=0.3), tiny.teacher(shared)


def ids_of(policy):
    return [policy.encode_prompt(text) for text in PROMPTS]


def test_a_mixture_of_three_tokens_by_hand():
    """(.5, .25, .25) and (.2, .2, .6) at 1/2: the roots of .1, .05 and .15, over their sum. Logits may have any constant."""
    a, b = torch.tensor([[0.5, 0.25, 0.25]]).log() + 3, torch.tensor([[0.2, 0.2, 0.6]]).log() - 1
    roots = [math.sqrt(0.1), math.sqrt(0.05), math.sqrt(0.15)]
    assert blended(a, b, 0.5).softmax(-1)[0].tolist() == pytest.approx([root / sum(roots) for root in roots], rel=1e-6)
    powers = [0.5**0.75 * 0.2**0.25, 0.25**0.75 * 0.2**0.25, 0.25**0.75 * 0.6**0.25]
    assert blended(a, b, 0.25).softmax(-1)[0].tolist() == pytest.approx([p / sum(powers) for p in powers], rel=1e-6)


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_at_its_ends_it_is_the_plain_sampler_of_one_of_the_two(share, dtype, temperature):
    learner, teacher = pair(dtype)
    settings = SamplingSettings(max_new_tokens=10, num_samples=2, temperature=temperature, stops=("q",))
    one = teacher if share else learner
    alone = LocalSampler().sample(one, ids_of(one), settings, seed=4)
    assert sample_blended(learner, teacher, share, ids_of(one), settings, seed=4) == alone


def whole_row_logits(policy, ids):
    at_BT = torch.zeros(1, len(ids), dtype=torch.bool)
    at_BT[0, -1] = True
    with torch.no_grad():
        hidden_1D = policy.hidden(torch.tensor([ids]), torch.tensor([len(ids)]), at_BT)
    return (hidden_1D @ policy.head.weight_VD.T)[0].double()


@pytest.mark.parametrize(("share", "temperature"), [(0.3, 1.0), (0.5, 0.6), (0.8, 1.0)])
def test_rows_and_log_probs_are_those_of_a_slow_reference(share, temperature):
    """Each token from whole rows of both, without a cache: the first whose cumulative probability exceeds its number."""
    learner, teacher = pair()
    settings = SamplingSettings(max_new_tokens=8, num_samples=2, temperature=temperature)
    found = sample_blended(learner, teacher, share, ids_of(learner), settings, seed=11)
    uniform_CS = uniform_numbers(learner.device, len(PROMPTS), settings, seed=11)
    for number, completion in enumerate(found):
        ids = list(ids_of(learner)[number // 2])
        for step, (token, logp) in enumerate(zip(completion.ids, completion.logps, strict=True)):
            of_a, of_b = ((whole_row_logits(p, ids) / temperature).log_softmax(-1) for p in (learner, teacher))
            p_V = ((1 - share) * of_a + share * of_b).softmax(-1)
            wanted = int((p_V.cumsum(0) > uniform_CS[number, step]).nonzero()[0])
            assert token == wanted
            assert logp == pytest.approx(math.log(p_V[token]), abs=1e-9)
            ids.append(token)
        assert completion.finish == ("eos" if completion.ids[-1] == tiny.EOS else "length")
    assert len({tuple(one.ids) for one in found}) > 1


def test_more_rows_than_slots_and_rows_that_end_early_change_nothing():
    learner, teacher = pair()
    wide, narrow = (SamplingSettings(max_new_tokens=12, num_samples=4, batch_rows=rows) for rows in (64, 4))
    rows = [sample_blended(learner, teacher, 0.5, ids_of(learner), one, seed=2) for one in (wide, narrow)]
    assert [one.ids for one in rows[0]] == [one.ids for one in rows[1]]
    assert len({len(one.ids) for one in rows[0]}) > 1
    for one, other in zip(*rows, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=1e-9)


def test_a_teacher_on_weights_of_its_own_is_read_in_a_cache_of_its_own():
    learner, _ = pair()
    teacher = Policy(tiny.weights(seed=3, dtype=torch.float64), None)
    found = sample_blended(learner, teacher, 0.5, ids_of(learner)[:1], SETTINGS, seed=1)[0]
    ids = ids_of(learner)[0]
    p_V = (0.5 * whole_row_logits(learner, ids) + 0.5 * whole_row_logits(teacher, ids)).softmax(-1)
    assert found.logps[0] == pytest.approx(math.log(p_V[found.ids[0]]), abs=1e-9)


def test_a_model_with_a_cache_of_its_own_is_refused(monkeypatch):
    learner, teacher = pair()
    monkeypatch.setattr(learner.weights, "passes", learner.weights.passes._replace(kind="general"))
    with pytest.raises(BadInput, match="unit: got geometric with 'tiny', which is sampled in a cache of its own"):
        sample_blended(learner, teacher, 0.5, ids_of(learner), SETTINGS, seed=1)


# As a state source


@pytest.mark.parametrize("signal", ["distribution", "continuation"])
def test_dagger_takes_states_from_it_and_says_who_wrote_them(signal):
    learner, teacher = pair()
    fields = {"teacher": "t", "signal": signal, "unit": "geometric", "rollout_tokens": 8, "max_new_tokens": 4}
    schedule = Schedule(kind="linear", value=0.9, end=0.1)
    method = recipe_class("dagger")(**fields, schedule=schedule).build(tiny.parts(teacher))
    draw = Draw(item_ids=("item0", "item1", "item2"), step=1, seed=5, num_steps=3)
    drawn = draw_states(terms_of(method), learner, draw)
    states = drawn[""].states
    assert set(states.origin_BT.unique().tolist()) <= {Origin.PROMPT, Origin.MIXTURE, 255}
    for row in states.trajectories():
        for t in range(row.prompt_length, len(row.ids)):
            of_a, of_b = (whole_row_logits(policy, row.ids[:t]).log_softmax(-1) for policy in (learner, teacher))
            p_V = (0.5 * of_a + 0.5 * of_b).softmax(-1)  # halfway from .9 to .1
            assert row.logps[t] == pytest.approx(math.log(p_V[row.ids[t]]), abs=1e-5)
    signals = read_signals(terms_of(method), learner, drawn)
    supervised = signals[""].states.origin_BT[signals[""].supervise_BT].unique().tolist()
    assert supervised == [Origin.MIXTURE if signal == "distribution" else Origin.TEACHER]
