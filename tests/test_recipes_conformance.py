"""What every built-in recipe must do, whatever it is: learn, resume, be chunk-invariant, leave the others alone.

Goldens hold each recipe's losses on the tiny model; STATESHAPE_REGENERATE_GOLDENS=1 writes them anew (say why in LOG.md).
"""

import dataclasses
import inspect
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from stateshape.core.files import BadInput
from stateshape.core.method import Draw, terms_of
from stateshape.core.states import Origin
from stateshape.policy.policy import Policy
from stateshape.recipes.names import ALIASES, BUILT_IN
from stateshape.recipes.recipe import all_methods, recipe_class
from stateshape.record.writer import StateWriter
from stateshape.states.cuts import Cut
from stateshape.states.sampled import sampled
from stateshape.states.schedules import Schedule
from stateshape.train.loop import train
from stateshape.train.settings import TrainSettings
from stateshape.train.step import accumulate, draw_states, read_signals

GOLDENS = Path(__file__).parent / "goldens"
GOLDEN_STEPS = 5
SETTINGS = TrainSettings(steps=3, batch_prompts=4, lr=1e-2, lora=tiny.LORA)
EXAMPLE = f"{Path(__file__).parents[1] / 'examples' / 'my_parts.py'}:SparseOPD"
OWN = os.environ.get("STATESHAPE_RECIPE")
NAMES = [*BUILT_IN, EXAMPLE, *([OWN] if OWN and Path(OWN).name != Path(EXAMPLE).name else [])]

# Short rollouts for the tests; fields without a default must stand here. RECORDED becomes the folder of a run with states.
RECORDED = "<recorded>"
SHORT = {
    "sft": {},
    "kd": {"teacher": "t"},
    "continuation_on_data": {"teacher": "t", "max_new_tokens": 6},
    "dpo": {},
    "seq_kd": {"teacher": "t", "max_new_tokens": 6},
    "kd_on_teacher": {"teacher": "t", "max_new_tokens": 6},
    "continuation_on_teacher": {"teacher": "t", "max_new_tokens": 6},
    "opd": {"teacher": "t", "rollout_tokens": 8},
    "opd_logp": {"teacher": "t", "rollout_tokens": 8},
    "opd_continuation": {"teacher": "t", "max_new_tokens": 6, "rollout_tokens": 8},
    "self_continuation": {"max_new_tokens": 6, "rollout_tokens": 8},
    "grpo": {"group": 6, "rollout_tokens": 8},
    "rft": {"rollout_tokens": 8, "samples": 6},
    "online_dpo": {"rollout_tokens": 8, "samples": 6},
    "sdft": {"rollout_tokens": 8},
    "gkd": {"teacher": "t", "rollout_tokens": 8},
    "dagger": {"teacher": "t", "rollout_tokens": 8, "max_new_tokens": 6},
    "grpo_opd": {"teacher": "t", "rollout_tokens": 8, "samples": 6},
    "opd_sft": {"teacher": "t", "rollout_tokens": 8, "sft_share": 0.5},
    "replay": {"states": RECORDED, "signal": "teacher-distribution", "teacher": "t"},
}

SHORT[EXAMPLE] = {"teacher": "t", "rollout_tokens": 8}
if OWN:
    SHORT[OWN] = json.loads(os.environ.get("STATESHAPE_RECIPE_FIELDS", "{}"))

ROLLOUTS = {"rollout_tokens": 4, "samples": 2, "temperature": 0.5}
DIVERGENCE = {"direction": "reverse", "beta": 0.25, "target_temperature": 0.5}
OWN_REWARD = f"{Path(__file__).parent / 'own_parts.py'}:length_reward"

# Another value for each field: every option changes something.
OTHER = {
    "sft": {},
    "kd": DIVERGENCE,
    "continuation_on_data": {"cut": Cut(low=0.5, high=0.6), "max_new_tokens": 3, "teacher_temperature": 0.0},
    "dpo": {"shape": "ipo", "beta": 0.5, "reference": "t"},
    "seq_kd": {"max_new_tokens": 3, "samples": 2, "teacher_temperature": 0.0},
    "kd_on_teacher": {**DIVERGENCE, "max_new_tokens": 3, "samples": 2, "teacher_temperature": 0.0},
    "continuation_on_teacher": {"cut": Cut(low=0.5, high=0.6), "max_new_tokens": 3, "teacher_temperature": 0.0},
    "opd": {**DIVERGENCE, **ROLLOUTS, "positions": "last"},
    "opd_logp": ROLLOUTS,
    "opd_continuation": {
        **ROLLOUTS,
        "cut": Cut(low=0.5, high=0.6),
        "prefixes": "frozen",
        "keep": "correct",
        "max_new_tokens": 3,
        "teacher_temperature": 0.0,
    },
    "self_continuation": {
        **ROLLOUTS,
        "writer": "base",
        "cut": Cut(low=0.5, high=0.6),
        "keep": "correct",
        "max_new_tokens": 3,
    },
    "grpo": {
        "group": 5,
        "reward": OWN_REWARD,
        "baseline": "leave-one-out",
        "scale": "none",
        "truncated": "mask",
        "normalise": "sequence-mean",
        "ratio": "sequence",
        "clip_low": 0.001,
        "clip_high": 0.001,
        "kl_coefficient": 0.5,
        "kl_estimator": "k2",
        "reference": "t",
        "rollout_tokens": 4,
        "temperature": 0.7,
    },
    "rft": {
        "rollout_tokens": 4,
        "samples": 3,
        "temperature": 0.5,
        "keep": "all",
        "threshold": 0.75,
        "regenerate": "step",
        "reward": OWN_REWARD,
    },
    "online_dpo": {
        "rollout_tokens": 4,
        "samples": 4,
        "temperature": 0.5,
        "shape": "ipo",
        "beta": 0.5,
        "reference": "t",
        "reward": OWN_REWARD,
    },
    "sdft": {**DIVERGENCE, "direction": "forward", **ROLLOUTS, "ema_rate": 1.0, "template": "{solution} {prompt}"},
    "gkd": {
        **DIVERGENCE,
        "learner_share": Schedule(value=0.0),
        "direction": "forward",
        "rollout_tokens": 4,
        "temperature": 0.5,
    },
    "dagger": {
        **ROLLOUTS,
        "signal": "distribution",
        "schedule": Schedule(kind="constant", value=0.0),
        "unit": "token",
        "aggregate": True,
        "cut": Cut(low=0.5, high=0.6),
        "max_new_tokens": 3,
        "teacher_temperature": 0.0,
        **DIVERGENCE,
    },
    "grpo_opd": {
        "rollout_tokens": 4,
        "samples": 4,
        "temperature": 0.5,
        "reward_weight": 3.0,
        "opd_weight": 0.1,
        "reward": OWN_REWARD,
    },
    "opd_sft": {**ROLLOUTS, "sft_share": 0.2, "opd_weight": 0.1, "sft_weight": 3.0},
    EXAMPLE: ROLLOUTS,
    "replay": {
        "signal": "teacher-log-prob",
        "term": "",
        **DIVERGENCE,
        "cut": Cut(low=0.5, high=0.6),
        "max_new_tokens": 3,
        "temperature": 0.5,
        "reward": OWN_REWARD,
        "share": 0.6,  # three of the five recorded steps
        "chosen": "random",
    },
}

# What an option needs beside it to matter.
BESIDE = {(name, "beta"): {"direction": "jsd"} for name in ("kd", "kd_on_teacher", "opd", "sdft", "gkd", "replay")} | {
    ("grpo", "clip_low"): {"reference": "t", "kl_coefficient": 0.1},
    ("grpo", "kl_estimator"): {"kl_coefficient": 0.5},
    ("grpo", "reference"): {"kl_coefficient": 0.5},
    ("rft", "threshold"): {"reward": OWN_REWARD},
    ("dagger", "target_temperature"): {"signal": "distribution"},
    ("dagger", "direction"): {"signal": "distribution"},
    ("dagger", "beta"): {"signal": "distribution", "direction": "jsd"},
    ("dagger", "unit"): {"schedule": Schedule(value=0.5)},
    ("replay", "cut"): {"signal": "teacher-continuation"},
    ("replay", "max_new_tokens"): {"signal": "teacher-continuation"},
    ("replay", "temperature"): {"signal": "teacher-continuation"},
    ("replay", "share"): {"chosen": "random"},
    ("replay", "chosen"): {"share": 0.6},
    ("replay", "reward"): {"signal": "reward"},
}
# With one update a batch the ratio is 1: whether it is clipped, and over what it is taken, changes nothing yet.
# One method alone has no terms to choose from. Tests of their own: test_losses_values, test_record.
NEVER_MATTERS_HERE = {("grpo", "clip_low"), ("grpo", "clip_high"), ("grpo", "ratio"), ("replay", "term")}


def record(folder, **choices):
    """A run whose states are on record."""
    folder.mkdir(exist_ok=True)
    world = World("opd", folder, samples=2, **choices)
    train(
        world.method,
        world.learner,
        world.ids,
        dataclasses.replace(SETTINGS, steps=GOLDEN_STEPS),
        seed=5,
        folder=folder,
        watches=[StateWriter(folder, world.method, budget_mb=10)],
    )
    return folder


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record(tmp_path_factory.mktemp("recorded"))


@pytest.fixture
def world(tmp_path, recorded):
    """Makes worlds, each with a folder of its own."""
    made = []

    def make(name, **choices):
        folder = tmp_path / f"world{len(made)}"
        made.append(World(name, folder, recorded=recorded, **choices))
        return made[-1]

    return make


@pytest.fixture(scope="module")
def plain(tmp_path_factory, recorded):
    """The adapter that a recipe trains with its short choices and those given: once for all tests that compare with it."""
    done = {}

    def trained(name, **choices):
        asked = name, repr(sorted(choices.items()))
        if asked not in done:
            done[asked] = World(name, tmp_path_factory.mktemp("plain"), recorded=recorded, **choices).train()
        return done[asked]

    return trained


class World:
    """Shared weights with a learner and a teacher, and the recipe's method on them."""

    def __init__(self, name, folder, *, recorded=None, dtype=torch.float32, is_sharded=False, **choices):
        self.asked = []
        self.folder = folder
        self.shared = tiny.weights(dtype=dtype, is_sharded=is_sharded)
        self.learner, self.teacher = tiny.learner(self.shared), tiny.teacher(self.shared)
        parts = dataclasses.replace(tiny.parts(self.teacher, folder=folder), teacher=self.load)
        self.ids = tuple(item.item_id for item in parts.task.train)
        fields = {key: str(recorded) if value == RECORDED else value for key, value in (SHORT[name] | choices).items()}
        self.recipe = recipe_class(name)(**fields)
        self.method = self.recipe.build(parts)

    def load(self, name):
        self.asked.append(name)
        return self.teacher

    def train(self, settings=SETTINGS, on_step=None):
        self.folder.mkdir(parents=True, exist_ok=True)
        train(self.method, self.learner, self.ids, settings, seed=3, folder=self.folder, on_step=on_step)
        return tiny.snapshot(self.shared, "learner")

    @property
    def losses(self):
        return losses(self.folder)

    def rewarded(self, seed):
        """Share of fresh rollouts that are right."""
        parts = tiny.parts(self.teacher)
        draw = Draw(item_ids=self.ids, step=0, seed=seed)
        settings = parts.sampling(8, samples=16)
        rows = sampled(self.learner, Origin.LEARNER, parts.items, parts.sampler, settings, draw)
        texts = [(row.item_id, self.learner.decode(row.ids[row.prompt_length :])) for row in rows]
        return np.mean([parts.is_right(*one) for one in texts])


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_every_built_in_recipe_is_tried_here():
    assert OTHER.keys() == {*BUILT_IN, EXAMPLE}
    assert SHORT.keys() >= OTHER.keys()
    assert [record.method for record in all_methods()] == list(BUILT_IN)


@pytest.mark.parametrize("name", NAMES)
def test_the_declared_composition_is_what_is_built(name, world):
    made = world(name)
    chosen = getattr(made.recipe, "composition", None)
    declared = made.recipe.compositions if chosen is None else (chosen,)
    built = [term.method for term in terms_of(made.method).values()]
    assert set(declared) <= set(made.recipe.compositions)
    assert [(one.states, one.signal, one.loss) for one in declared] == [
        (one.states.kind, one.signal.kind, one.loss.kind) for one in built
    ]
    assert made.asked == (["t"] if SHORT[name].get("teacher") else [])


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_documented_by_its_own_fields(name):
    found = recipe_class(name)
    assert found.__doc__
    assert found.source
    source = [line for kind in found.__mro__[:-1] for line in inspect.getsource(kind).splitlines()]
    for field in dataclasses.fields(found):
        line = next(k for k, text in enumerate(source) if text.strip().startswith(f"{field.name}:"))
        assert source[line + 1].strip().startswith('"""'), field.name


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_and_leaves_base_and_teacher_alone(name, world):
    made = world(name)
    learner = tiny.snapshot(made.shared, "learner")
    teacher, base = tiny.snapshot(made.shared, "teacher"), tiny.base_snapshot(made.shared)
    trained = made.train()
    assert all(torch.isfinite(value).all() for value in trained.values())
    # lora_A gets no gradient on the first step (B is 0), but by the third every tensor has moved.
    assert [key for key in trained if torch.equal(trained[key], learner[key])] == []
    assert tiny.is_same(tiny.snapshot(made.shared, "teacher"), teacher)
    assert tiny.is_same(tiny.base_snapshot(made.shared), base)
    assert None not in made.losses


@pytest.mark.parametrize("name", NAMES)
def test_gradients_do_not_depend_on_chunks(name, world):
    made = world(name, dtype=torch.float64)
    tiny.fill(made.shared, "learner", seed=1, size=0.1)
    draw = Draw(item_ids=made.ids[:4], step=0, seed=3)
    terms = terms_of(made.method)
    signals = read_signals(terms, made.learner, draw_states(terms, made.learner, draw))
    found = []
    for chunk_tokens in (10**9, 40, 1):
        for parameter in made.learner.parameters():
            parameter.grad = None
        for term, signal in signals.items():
            accumulate(terms[term], made.learner, signal, chunk_tokens)
        found.append(torch.cat([p.grad.flatten() for p in made.learner.parameters()]))
    assert found[0].norm() > 1e-3
    for other in found[1:]:
        assert (other - found[0]).norm() <= 1e-6 * found[0].norm()


@pytest.mark.numerics
@pytest.mark.parametrize("name", NAMES)
def test_a_killed_run_resumes_to_the_same_bits(name, tmp_path, recorded):
    class Killed(Exception):
        pass

    def on_step(done, total, record):
        if done == 2:
            raise Killed

    def fresh(folder):
        return World(name, tmp_path / folder, recorded=recorded)

    whole = fresh("whole").train()
    with pytest.raises(Killed):
        fresh("cut").train(on_step=on_step)
    resumed = fresh("cut").train()
    assert tiny.is_same(whole, resumed)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name in NAMES for option in OTHER.get(name, {}) if (name, option) not in NEVER_MATTERS_HERE],
)
def test_every_option_changes_something(name, option, world, plain):
    beside = BESIDE.get((name, option), {})
    other = world(name, **beside | {option: OTHER[name][option]}).train()
    assert not tiny.is_same(plain(name, **beside), other)


@pytest.mark.parametrize("name", list(OTHER))
def test_every_option_is_tried(name):
    fields = {field.name for field in dataclasses.fields(recipe_class(name))}
    elsewhere = {"opd": {"top_k"}}.get(name, set())  # of a teacher on a server: tests/test_served_teacher.py
    assert OTHER[name].keys() == fields - {"teacher", "states"} - elsewhere
    for option, value in OTHER[name].items():
        beside = BESIDE.get((name, option), {})
        assert getattr(recipe_class(name)(**SHORT[name] | beside), option) != value


@pytest.mark.parametrize("name", [name for name in NAMES if "teacher" in SHORT[name]])
def test_another_teacher_teaches_something_else(name, world, plain):
    made = world(name)
    tiny.fill(made.shared, "teacher", seed=99, size=0.2)
    assert not tiny.is_same(plain(name), made.train())


@pytest.mark.parametrize(
    ("name", "signal"), [("dagger", "continuation"), ("replay", "teacher-continuation"), ("replay", "teacher-log-prob")]
)
def test_a_target_temperature_needs_a_distribution_as_the_target(name, signal):
    choices = SHORT[name] | {"signal": signal, "target_temperature": 0.5}
    with pytest.raises(BadInput, match=r"target_temperature: got 0\.5 for signal .*; expected 1; use --signal"):
        recipe_class(name)(**choices)


def test_a_greedy_grpo_is_refused(world):
    with pytest.raises(ValueError, match="temperature"):
        world("grpo", temperature=0.0)


@pytest.mark.parametrize("direction", ["forward", "reverse", "jsd"])
def test_on_policy_distillation_comes_closer_to_its_teacher(direction, world):
    """Exact divergence over every state, averaged over the first and the last quarter of a longer run."""
    made = world("opd", direction=direction)
    made.train(dataclasses.replace(SETTINGS, steps=24))
    curve = made.losses
    assert sum(curve[-6:]) < 0.8 * sum(curve[:6])


def test_sft_learns_its_solutions(world):
    made = world("sft")
    made.train(dataclasses.replace(SETTINGS, steps=24))
    assert made.losses[-1] < 0.5 * made.losses[0]


@pytest.mark.parametrize(
    ("name", "group", "steps"), [("grpo", "group", 16), ("rft", "samples", 16), ("online_dpo", "samples", 24)]
)
def test_reward_is_raised(name, group, steps, world):
    """Rises by .16 and more with each of several seeds: a token that rounding flips is no more than another seed."""
    made = world(name, **{group: 16})
    reward = lambda: np.mean([made.rewarded(step) for step in range(4)])  # noqa: E731
    before = reward()
    made.train(dataclasses.replace(SETTINGS, steps=steps, batch_prompts=6))
    assert reward() > before + 0.1


@pytest.mark.numerics
@pytest.mark.parametrize("name", list(BUILT_IN))
def test_golden_losses(name, tmp_path):
    """In fp64: Adam divides a gradient by its own size, so where one is next to 0 fp32 rounding alone moves a weight by lr.

    Between four instruction sets these curves differ by 1e-14 (LOG.md); the rest of the tolerance is room for others.
    """
    recorded = record(tmp_path / "recorded", dtype=torch.float64) if RECORDED in SHORT[name].values() else None
    made = World(name, tmp_path / "world", recorded=recorded, dtype=torch.float64)
    made.train(dataclasses.replace(SETTINGS, steps=GOLDEN_STEPS))
    records = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    curve = {key: [record[key] for record in records] for key in ("loss", "grad_norm", "num_supervised")}
    path = GOLDENS / f"{name}.json"
    if os.environ.get("STATESHAPE_REGENERATE_GOLDENS") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(curve, indent=1) + "\n")
    golden = json.loads(path.read_text())
    assert curve["num_supervised"] == golden["num_supervised"]
    # abs: GRPO's on-policy loss is a difference of near-equal sums
    for key in ("loss", "grad_norm"):
        assert curve[key] == pytest.approx(golden[key], rel=1e-8, abs=1e-10), key


# Recipes by name


def test_a_recipe_of_your_own_is_found_by_its_path():
    assert recipe_class("stateshape.recipes.sft:SFT") is recipe_class("sft")


def test_an_earlier_name_still_means_its_recipe():
    assert ALIASES.keys().isdisjoint(BUILT_IN)
    for earlier, name in ALIASES.items():
        assert recipe_class(earlier) is recipe_class(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sftt", "expected one of sft, kd, .*replay"),
        ("stateshape.recipes.sft:Nothing", "can't be imported"),
        ("no.such.module:X", "can't be imported"),
        ("stateshape.policy.policy:Policy", "has no `compositions` and `build`"),
    ],
)
def test_a_recipe_that_is_not_there_is_named(name, message):
    with pytest.raises(BadInput, match=message):
        recipe_class(name)


def test_the_trained_adapter_is_the_learner(world):
    made = world("sft")
    made.train()
    fresh = tiny.weights()
    fresh.load_adapter("loaded", made.folder / "adapter")
    ids, lengths = torch.tensor([[5, 9, 13]]), torch.tensor([3])
    with torch.no_grad():
        said = tiny.hidden(made.learner, ids, lengths)
        assert torch.equal(tiny.hidden(Policy(fresh, "loaded"), ids, lengths), said)
        assert not torch.equal(tiny.hidden(Policy(fresh, None), ids, lengths), said)
