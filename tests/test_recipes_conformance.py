"""What every built-in recipe must do, whatever it is: learn, resume, be chunk-invariant, leave the others alone.

Goldens hold each recipe's losses on the tiny model; STATESHAPE_REGENERATE_GOLDENS=1 writes them anew (say why in LOG.md).
"""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch

import tiny
from stateshape.core.files import BadInput
from stateshape.core.method import Draw
from stateshape.policy.policy import Policy
from stateshape.recipes.recipe import BUILT_IN, all_methods, needs_teacher, recipe_class
from stateshape.states.cuts import UniformCut
from stateshape.train.loop import train
from stateshape.train.settings import TrainSettings
from stateshape.train.step import accumulate

GOLDENS = Path(__file__).parent / "goldens"
GOLDEN_STEPS = 5
SETTINGS = TrainSettings(steps=3, batch_prompts=4, lr=1e-2, lora=tiny.LORA)
NAMES = list(BUILT_IN)

# Short rollouts for the tests; fields without a default must stand here.
SHORT = {
    "sft": {},
    "opd_continuation": {"teacher": "t", "max_new_tokens": 6, "rollout_tokens": 8},
    "opd_one_step": {"teacher": "t", "rollout_tokens": 8},
    "grpo": {"group": 6, "rollout_tokens": 8},
}

# Another value for each field: every option changes something.
OTHER = {
    "sft": {},
    "opd_continuation": {
        "cut": UniformCut(low=0.5, high=0.6),
        "max_new_tokens": 3,
        "rollout_tokens": 4,
        "samples": 2,
        "temperature": 0.5,
        "teacher_temperature": 0.0,
    },
    "opd_one_step": {
        "direction": "reverse",
        "positions": "all",
        "rollout_tokens": 4,
        "samples": 2,
        "temperature": 0.5,
    },
    "grpo": {
        "group": 5,
        "scale": "none",
        "normalise": "sequence-mean",
        "rollout_tokens": 4,
        "temperature": 0.7,
    },
}


class World:
    """Shared weights with a learner and a teacher, and the recipe's method on them."""

    def __init__(self, name, *, dtype=torch.float32, **choices):
        self.asked = []
        self.shared = tiny.weights(dtype=dtype)
        self.learner, self.teacher = tiny.learner(self.shared), tiny.teacher(self.shared)
        parts = dataclasses.replace(tiny.parts(self.teacher), teacher=self.load)
        self.ids = tuple(item.item_id for item in parts.task.train)
        self.recipe = recipe_class(name)(**{**SHORT[name], **choices})
        self.method = self.recipe.build(parts)

    def load(self, name):
        self.asked.append(name)
        return self.teacher

    def train(self, folder, settings=SETTINGS, on_step=None):
        folder.mkdir(parents=True, exist_ok=True)
        train(self.method, self.learner, self.ids, settings, seed=3, folder=folder, on_step=on_step)
        return tiny.snapshot(self.shared, "learner")


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_built_in_recipe_is_tried_here():
    assert SHORT.keys() == OTHER.keys() == BUILT_IN.keys()
    assert [record.method for record in all_methods()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_declared_composition_is_what_is_built(name):
    world = World(name)
    declared = world.recipe.composition
    method = world.method
    assert (declared.states, declared.signal, declared.loss) == (
        method.states.kind,
        method.signal.kind,
        method.loss.kind,
    )
    assert world.asked == (["t"] if needs_teacher(world.recipe) else [])


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_documented_by_its_own_fields(name):
    found = recipe_class(name)
    assert found.__doc__
    assert found.source
    source = Path(__import__(found.__module__, fromlist=["x"]).__file__).read_text().splitlines()
    for field in dataclasses.fields(found):
        line = next(k for k, text in enumerate(source) if text.strip().startswith(f"{field.name}:"))
        assert source[line + 1].strip().startswith('"""'), field.name


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_and_leaves_base_and_teacher_alone(name, tmp_path):
    world = World(name)
    learner = tiny.snapshot(world.shared, "learner")
    teacher, base = tiny.snapshot(world.shared, "teacher"), tiny.base_snapshot(world.shared)
    trained = world.train(tmp_path)
    assert all(torch.isfinite(value).all() for value in trained.values())
    # lora_A gets no gradient on the first step (B is 0), but by the third every tensor has moved.
    assert [key for key in trained if torch.equal(trained[key], learner[key])] == []
    assert tiny.is_same(tiny.snapshot(world.shared, "teacher"), teacher)
    assert tiny.is_same(tiny.base_snapshot(world.shared), base)
    assert None not in losses(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_do_not_depend_on_chunks(name):
    world = World(name, dtype=torch.float64)
    tiny.fill(world.shared, "learner", seed=1, size=0.1)
    draw = Draw(item_ids=world.ids[:4], step=0, seed=3)
    with torch.no_grad():
        states = world.method.states.draw(world.learner, draw)
        signal = world.method.signal.read(world.learner, states, draw)
    found = []
    for chunk_tokens in (10**9, 40, 1):
        for parameter in world.learner.parameters():
            parameter.grad = None
        accumulate(world.method, world.learner, signal, world.method.loss.count(signal), chunk_tokens)
        found.append(torch.cat([p.grad.flatten() for p in world.learner.parameters()]))
    assert found[0].norm() > 1e-3
    for other in found[1:]:
        assert (other - found[0]).norm() <= 1e-6 * found[0].norm()


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_resumes_to_the_same_bits(name, tmp_path):
    class Killed(Exception):
        pass

    def on_step(done, total, record):
        if done == 2:
            raise Killed

    whole = World(name).train(tmp_path / "whole")
    with pytest.raises(Killed):
        World(name).train(tmp_path / "cut", on_step=on_step)
    resumed = World(name).train(tmp_path / "cut")
    assert tiny.is_same(whole, resumed)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


@pytest.mark.parametrize(("name", "option"), [(name, option) for name in NAMES for option in OTHER[name]])
def test_every_option_changes_something(name, option, tmp_path):
    plain = World(name).train(tmp_path / "plain")
    other = World(name, **{option: OTHER[name][option]}).train(tmp_path / "other")
    assert not tiny.is_same(plain, other)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_tried(name):
    assert OTHER[name].keys() == {field.name for field in dataclasses.fields(recipe_class(name))} - {"teacher"}
    for option, value in OTHER[name].items():
        assert getattr(recipe_class(name)(**SHORT[name]), option) != value


@pytest.mark.parametrize("name", ["opd_continuation", "opd_one_step"])
def test_another_teacher_teaches_something_else(name, tmp_path):
    plain = World(name).train(tmp_path / "plain")
    world = World(name)
    tiny.fill(world.shared, "teacher", seed=99, size=0.2)
    assert not tiny.is_same(plain, world.train(tmp_path / "other"))


def test_a_greedy_grpo_is_refused():
    with pytest.raises(ValueError, match="temperature"):
        World("grpo", temperature=0.0)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_one_step_distillation_comes_closer_to_its_teacher(direction, tmp_path):
    """Exact KL over every state, averaged over the first and the last quarter of a longer run."""
    world = World("opd_one_step", direction=direction, positions="all")
    world.train(tmp_path, dataclasses.replace(SETTINGS, steps=24))
    curve = losses(tmp_path)
    assert sum(curve[-6:]) < 0.8 * sum(curve[:6])


def test_sft_learns_its_solutions(tmp_path):
    World("sft").train(tmp_path, dataclasses.replace(SETTINGS, steps=24))
    curve = losses(tmp_path)
    assert curve[-1] < 0.5 * curve[0]


def test_grpo_raises_its_reward(tmp_path):
    world = World("grpo", group=16)
    world.train(tmp_path, dataclasses.replace(SETTINGS, steps=16, batch_prompts=6))
    rewards = [json.loads(line)["stats"]["reward"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.1


@pytest.mark.parametrize("name", NAMES)
def test_golden_losses(name, tmp_path):
    World(name).train(tmp_path, dataclasses.replace(SETTINGS, steps=GOLDEN_STEPS))
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    curve = {key: [record[key] for record in records] for key in ("loss", "grad_norm", "num_supervised")}
    path = GOLDENS / f"{name}.json"
    if os.environ.get("STATESHAPE_REGENERATE_GOLDENS") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(curve, indent=1) + "\n")
    golden = json.loads(path.read_text())
    assert curve["num_supervised"] == golden["num_supervised"]
    assert curve["grad_norm"] == pytest.approx(golden["grad_norm"], rel=1e-3)
    # abs: GRPO's on-policy loss is a difference of near-equal sums
    assert curve["loss"] == pytest.approx(golden["loss"], rel=1e-4, abs=1e-5)


# Recipes by name


def test_a_recipe_of_your_own_is_found_by_its_path():
    assert recipe_class("stateshape.recipes.sft:SFT") is recipe_class("sft")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sftt", "expected one of sft, opd_continuation, opd_one_step, grpo"),
        ("stateshape.recipes.sft:Nothing", "can't be imported"),
        ("no.such.module:X", "can't be imported"),
        ("stateshape.policy.policy:Policy", "has no `composition` and `build`"),
    ],
)
def test_a_recipe_that_is_not_there_is_named(name, message):
    with pytest.raises(BadInput, match=message):
        recipe_class(name)


def test_the_trained_adapter_is_the_learner(tmp_path):
    world = World("sft")
    world.train(tmp_path)
    fresh = tiny.weights()
    fresh.load_adapter("loaded", tmp_path / "adapter")
    ids, lengths = torch.tensor([[5, 9, 13]]), torch.tensor([3])
    with torch.no_grad():
        said = tiny.hidden(world.learner, ids, lengths)
        assert torch.equal(tiny.hidden(Policy(fresh, "loaded"), ids, lengths), said)
        assert not torch.equal(tiny.hidden(Policy(fresh, None), ids, lengths), said)
