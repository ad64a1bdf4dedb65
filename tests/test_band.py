"""Supervision in a band of the learner's probability: one mask, whatever the signal; counts and the supervision map follow."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

import tiny
from stateshape.core.method import Draw, terms_of
from stateshape.locality.supervision import EDGES_NATS, tally_of
from stateshape.recipes.recipe import recipe_class
from stateshape.train.band import in_band
from stateshape.train.loop import train
from stateshape.train.settings import Band, TrainSettings
from stateshape.train.step import accumulate, draw_states, read_signals, train_step

DRAW = Draw(item_ids=("item0", "item1", "item2", "item3"), step=0, seed=5)
SETTINGS = TrainSettings(steps=2, batch_prompts=4, lr=1e-2, lora=tiny.LORA)
RARE = Band(high=0.02)  # the tiny model finds most of the solutions' characters unlikely, and its own likely
RECIPES = {
    "sft": {},
    "kd": {"teacher": "t"},
    "opd_logp": {"teacher": "t", "rollout_tokens": 8},
    "grpo_opd": {"teacher": "t", "rollout_tokens": 8, "samples": 4},
}


def world(recipe):
    shared = tiny.weights(dtype=torch.float64)
    learner, teacher = tiny.learner(shared, size=0.1), tiny.teacher(shared)
    method = recipe_class(recipe)(**RECIPES[recipe]).build(tiny.parts(teacher))
    return learner, method, read_signals(terms_of(method), learner, draw_states(terms_of(method), learner, DRAW))


def probability(learner, states, b, t):
    """One token's, from a forward pass of its row alone."""
    row = states.rows(torch.tensor([b]))
    at_BT = torch.zeros_like(row.ids_BT, dtype=torch.bool)
    at_BT[0, t - 1] = True
    with torch.no_grad():
        hidden_1D = learner.hidden(row.ids_BT, row.lengths_B, at_BT)
        return float((hidden_1D @ learner.head.weight_VD.T).softmax(-1)[0, row.ids_BT[0, t]])


@pytest.mark.parametrize("recipe", RECIPES)
def test_only_tokens_in_the_band_stay_and_all_of_them(recipe):
    learner, _, signals = world(recipe)
    for name, chosen in in_band(signals, learner, RARE).items():
        whole = signals[name]
        wanted = torch.zeros_like(whole.supervise_BT)
        for b, t in whole.supervise_BT.nonzero().tolist():
            wanted[b, t] = probability(learner, whole.states, b, t) <= RARE.high
        assert torch.equal(chosen.supervise_BT, wanted)
        assert 0 < int(wanted.sum()) < int(whole.supervise_BT.sum())


@pytest.mark.parametrize("recipe", RECIPES)
def test_bands_that_share_no_token_add_up_to_the_whole_sum_and_count(recipe):
    """A loss is a sum with a count: (sum of one + sum of the other) over both counts is the loss without a band."""
    learner, method, signals = world(recipe)
    for name, term in terms_of(method).items():
        parts = [in_band(signals, learner, band)[name] for band in (RARE, Band(low=RARE.high))]
        counts = [term.method.loss.count(part) for part in parts]
        whole = term.method.loss.count(signals[name])
        assert sum(counts) == whole
        sums = [accumulate(term, learner, part, 10**6).loss * count for part, count in zip(parts, counts)]
        assert sum(sums) == pytest.approx(accumulate(term, learner, signals[name], 10**6).loss * whole, rel=1e-9)


class Map:
    """A watch that keeps a step's supervision map."""

    phase = "locality"

    def before_update(self, learner, read) -> None:
        pass

    def after_update(self, learner, read, update) -> None:
        self.cells = tally_of(read.signals[""], update.per_token[""]).as_map().cells


@pytest.mark.parametrize("recipe", ["sft", "kd"])
def test_the_supervision_map_shows_the_band(recipe):
    """From 6 nats up is a probability of .0025 and less: a band up to there leaves the map's last bin of surprisal alone."""
    learner, method, signals = world(recipe)
    watch = Map()
    optimiser = torch.optim.AdamW(learner.parameters(), lr=1e-3)
    settings = dataclasses.replace(SETTINGS, band=Band(high=math.exp(-EDGES_NATS[-1]) - 1e-6))
    result = train_step(method, learner, optimiser, DRAW, settings, [watch])
    assert {cell.surprisal for cell in watch.cells} == {len(EDGES_NATS) - 1}
    assert sum(cell.num_tokens for cell in watch.cells) == result.num_supervised
    assert 0 < result.num_supervised < int(signals[""].supervise_BT.sum())


def test_a_budget_is_taken_from_the_tokens_in_the_band():
    learner, method, signals = world("kd")
    chosen = in_band(signals, learner, RARE)[""].supervise_BT
    optimiser = torch.optim.AdamW(learner.parameters(), lr=1e-3)
    settings = dataclasses.replace(SETTINGS, band=RARE, supervised_per_step=3)
    result = train_step(method, learner, optimiser, DRAW, settings)
    assert result.num_supervised == 3
    assert not bool((result.signals[""].supervise_BT & ~chosen).any())


@pytest.mark.parametrize("recipe", ["sft", "kd"])
def test_a_step_without_a_token_in_the_band_moves_nothing(recipe, tmp_path):
    learner, method, _ = world(recipe)
    adapter = tiny.snapshot(learner.weights, "learner")
    settings = dataclasses.replace(SETTINGS, band=Band(high=1e-30))
    train(method, learner, DRAW.item_ids, settings, seed=3, folder=tmp_path)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(one["loss"], one["num_supervised"]) for one in records] == [(None, 0)] * 2
    assert tiny.is_same(adapter, tiny.snapshot(learner.weights, "learner"))
