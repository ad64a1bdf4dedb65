"""Runs: learning rate, which prompts when, resuming to the same bits, divergence; every option changes something."""

import dataclasses
import json
import math

import pytest
import torch

import tiny
from stateshape.core.files import BadInput
from stateshape.core.method import Draw
from stateshape.losses.cross_entropy import CrossEntropy
from stateshape.policy.settings import LoraSettings
from stateshape.recipes.recipe import recipe_class
from stateshape.train.checkpoint import newest_checkpoint
from stateshape.train.loop import draw_for, finish, train
from stateshape.train.settings import Band, TrainSettings, lr_at
from stateshape.train.step import TrainingDiverged, train_step

SETTINGS = TrainSettings(steps=5, batch_prompts=4, lr=1e-2, lora=tiny.LORA)


def run(folder, settings=SETTINGS, *, recipe="sft", seed=3, on_step=None, method=None, dtype=torch.float32, **choices):
    """One run on the tiny model from scratch; a folder with a checkpoint is resumed. Returns its shared weights."""
    shared = tiny.weights(dtype=dtype)
    learner, teacher = tiny.learner(shared, lora=settings.lora), tiny.teacher(shared)
    parts = tiny.parts(teacher)
    made = method or recipe_class(recipe)(**choices).build(parts)
    folder.mkdir(exist_ok=True)
    ids = tuple(item.item_id for item in parts.task.train)
    train(made, learner, ids, settings, seed=seed, folder=folder, on_step=on_step)
    return shared


def metrics(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


# Learning rate


def test_the_learning_rate_by_hand():
    # 10 steps, warm-up 20% = 2 steps: half, full; then eight steps of a cosine from lr to lr / 10.
    settings = TrainSettings(lr=1.0, warmup_share=0.2)
    rates = [lr_at(settings, step, 10) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[4] == pytest.approx(0.1 + 0.45 * (1 + math.sqrt(0.5)))  # a quarter of the way: cos(pi / 4)
    assert rates[6] == pytest.approx(0.55)  # half way
    assert rates[9] == pytest.approx(0.1 + 0.45 * (1 + math.cos(7 / 8 * math.pi)))
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_a_constant_schedule_warms_up_and_stays():
    settings = TrainSettings(lr=2.0, warmup_share=0.4, schedule="constant")
    assert [lr_at(settings, step, 5) for step in range(5)] == [1.0, 2.0, 2.0, 2.0, 2.0]
    assert [lr_at(TrainSettings(lr=2.0, warmup_share=0.0), 0, n) for n in (1, 2)] == [2.0, 2.0]


def test_the_number_of_steps():
    assert TrainSettings(batch_prompts=4).num_steps(10) == 3  # one epoch, the last batch runs into the next
    assert TrainSettings(batch_prompts=4, epochs=2.5).num_steps(10) == 7
    assert TrainSettings(batch_prompts=4, epochs=2, train_items=6).num_steps(10) == 3
    assert TrainSettings(steps=9).num_steps(10) == 9


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lr": 0.0}, "lr: got 0.0"),
        ({"batch_prompts": 0}, "batch_prompts: got 0"),
        ({"chunk_tokens": -1}, "chunk_tokens: got -1"),
        ({"checkpoint_every": 0}, "checkpoint_every: got 0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm: got 0.0"),
        ({"steps": 0}, "steps: got 0"),
        ({"epochs": -1.0}, "epochs: got -1.0"),
        ({"epochs": 1.0, "steps": 2}, "expected one of them"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(BadInput, match=message):
        TrainSettings(**wrong)


def test_more_items_than_there_are_is_refused():
    with pytest.raises(BadInput, match="train_items: got 11; expected 1 to 10"):
        TrainSettings(train_items=11).num_items(10)


# Which prompts


@pytest.mark.parametrize("batch", [1, 3, 4, 7, 15])
def test_each_epoch_draws_every_item_once_whatever_the_batch(batch):
    ids = tuple("abcdefg")
    stream = [i for step in range(40) for i in draw_for(ids, batch=batch, step=step, seed=1).item_ids]
    epochs = [tuple(stream[k : k + 7]) for k in range(0, len(stream) - 6, 7)]
    assert all(sorted(epoch) == list(ids) for epoch in epochs)
    assert len(set(epochs[:5])) == 5  # each in its own order
    one_by_one = [draw_for(ids, batch=1, step=k, seed=1).item_ids[0] for k in range(40)]
    assert stream[:40] == one_by_one  # the stream does not depend on the batch


def test_trap_resume_drops_or_replays_prompts():
    """trl#5911: a draw depends on its step and seed, not on what was drawn before."""
    ids = tuple("abcdefg")
    forward = [draw_for(ids, batch=3, step=step, seed=1) for step in range(6)]
    backward = [draw_for(ids, batch=3, step=step, seed=1) for step in reversed(range(6))]
    assert forward == backward[::-1]
    assert forward != [draw_for(ids, batch=3, step=step, seed=2)._replace(seed=1) for step in range(6)]


# Resuming


class Killed(Exception):
    pass


def killed_at(step):
    def on_step(done, total, record):
        if done == step:
            raise Killed

    return on_step


@pytest.mark.numerics
@pytest.mark.parametrize(("checkpoint_every", "kill_at"), [(1, 3), (2, 3), (4, 2)])
def test_trap_irreproducible_a_killed_run_resumes_to_the_same_bits(tmp_path, checkpoint_every, kill_at):
    """Killed between checkpoints too: what was done after the last one is done again, and written once."""
    settings = dataclasses.replace(SETTINGS, checkpoint_every=checkpoint_every)
    choices = {"teacher": "t", "max_new_tokens": 4, "rollout_tokens": 6}
    whole = run(tmp_path / "whole", settings, recipe="opd_continuation", **choices)
    with pytest.raises(Killed):
        run(tmp_path / "cut", settings, recipe="opd_continuation", on_step=killed_at(kill_at), **choices)
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 77, "loss": 0.')  # a write that was cut off
    resumed = run(tmp_path / "cut", settings, recipe="opd_continuation", **choices)
    assert tiny.is_same(tiny.snapshot(whole, "learner"), tiny.snapshot(resumed, "learner"))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")
    assert [record["step"] for record in metrics(tmp_path / "cut")] == [0, 1, 2, 3, 4]
    assert (tmp_path / "whole" / "states.jsonl").read_text() == (tmp_path / "cut" / "states.jsonl").read_text()
    files = [tmp_path / name / "adapter" / "adapter_model.safetensors" for name in ("whole", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_run_depends_on_its_seed(tmp_path):
    a, b, c = (run(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b") != metrics(tmp_path / "c")
    assert tiny.is_same(tiny.snapshot(a, "learner"), tiny.snapshot(b, "learner"))
    assert not tiny.is_same(tiny.snapshot(a, "learner"), tiny.snapshot(c, "learner"))


def test_a_finished_run_stays_as_it_is(tmp_path):
    first = run(tmp_path)
    before = metrics(tmp_path)
    again = run(tmp_path)
    assert tiny.is_same(tiny.snapshot(first, "learner"), tiny.snapshot(again, "learner"))
    assert metrics(tmp_path) == before
    finish(tmp_path)
    assert newest_checkpoint(tmp_path) is None


def test_the_newest_checkpoint_counts_even_where_a_kill_left_two(tmp_path):
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}.pt").touch()
    assert newest_checkpoint(tmp_path).name == "checkpoint-10.pt"


@pytest.mark.parametrize("content", [b"not a checkpoint", b"", b"PK\x03\x04 torn"])
def test_a_broken_checkpoint_is_named_with_the_way_out(tmp_path, content):
    (tmp_path / "checkpoint-3.pt").write_bytes(content)
    with pytest.raises(BadInput, match=r"checkpoint-3\.pt: not a checkpoint of this run .* delete the file"):
        run(tmp_path)


@pytest.mark.parametrize("other", [LoraSettings(rank=2, alpha=8.0), LoraSettings(rank=4, targets=("q_proj",))])
def test_a_checkpoint_of_another_adapter_is_refused(tmp_path, other):
    with pytest.raises(Killed):
        run(tmp_path, on_step=killed_at(2))
    with pytest.raises(BadInput, match="not a checkpoint of this run"):
        run(tmp_path, dataclasses.replace(SETTINGS, lora=other))


# Divergence, empty batches, the optimiser


class Broken(CrossEntropy):
    """Not a number from the third step on."""

    calls = 0

    def total(self, learner, signal):
        value = super().total(learner, signal)
        Broken.calls += 1
        return value if Broken.calls < 3 else value._replace(total=value.total * float("nan"))


def sft_with(loss):
    return dataclasses.replace(recipe_class("sft")().build(tiny.parts(tiny.teacher(tiny.weights()))), loss=loss)


def test_divergence_names_the_step_and_the_prompts_and_keeps_the_last_good_state(tmp_path):
    Broken.calls = 0
    drawn = draw_for(tuple(f"item{i}" for i in range(6)), batch=4, step=2, seed=3).item_ids
    with pytest.raises(TrainingDiverged, match=f"step 2: loss nan.* batch: {', '.join(drawn)};"):
        run(tmp_path, method=sft_with(Broken()))
    assert [record["step"] for record in metrics(tmp_path)] == [0, 1]
    state = torch.load(newest_checkpoint(tmp_path), weights_only=True)
    assert state["progress"]["step"] == 2
    assert state["parameters"].isfinite().all()


def one_step(learner, method, settings=SETTINGS, lr=0.1):
    optimiser = torch.optim.AdamW(learner.parameters(), lr=lr, weight_decay=0.5)
    return train_step(method, learner, optimiser, Draw(item_ids=("item0", "item1"), step=0, seed=1), settings)


def test_trap_an_all_masked_batch_makes_no_update():
    """Nothing supervised: no loss (not 0), no gradient, and weights that do not move, not even by weight decay."""
    shared = tiny.weights()
    learner, teacher = tiny.learner(shared, size=0.1), tiny.teacher(shared)
    task = dataclasses.replace(tiny.task(), grade=lambda text, item: None)
    method = recipe_class("grpo")(group=2, rollout_tokens=4).build(dataclasses.replace(tiny.parts(teacher), task=task))
    unscorable = dataclasses.replace(method.signal, reward=lambda *given: None)
    before = tiny.snapshot(shared, "learner")
    result = one_step(learner, dataclasses.replace(method, signal=unscorable))
    assert (result.loss, result.grad_norm, result.num_supervised) == (None, None, 0)
    assert result.stats["reward"] is None
    assert result.stats["share_rewards_missing"] == 1
    assert tiny.is_same(tiny.snapshot(shared, "learner"), before)


def test_trap_grpo_loss_is_zero_and_nobody_knows_why():
    """trl#2703: the share of groups without any difference, and the gradient norm, stand beside the loss."""
    shared = tiny.weights()
    learner, teacher = tiny.learner(shared), tiny.teacher(shared)
    learner.eos_ids = ()  # rows of one length
    task = dataclasses.replace(tiny.task(), stops=())
    method = recipe_class("grpo")(group=4, rollout_tokens=4).build(dataclasses.replace(tiny.parts(teacher), task=task))

    def reward(item_id, text, finish):
        return 1.0 if item_id == "item0" else float(len(text) + ord(text[0]) if text else 0)

    result = one_step(learner, dataclasses.replace(method, signal=dataclasses.replace(method.signal, reward=reward)))
    assert result.loss == pytest.approx(0, abs=1e-4)  # credit sums to 0 over rows of one length at ratio 1
    assert result.grad_norm > 1e-3
    assert result.stats["share_zero_variance_groups"] == 0.5
    assert result.stats["share_rewards_missing"] == 0
    assert result.stats["ratio"] == pytest.approx(1, abs=1e-4)


def test_gradients_are_clipped_and_the_norm_before_clipping_is_recorded():
    """Adam hides a gradient's size on its first step, so the clipped gradient itself is looked at."""
    norms = {}
    for limit in (1e-3, 1e9):
        shared = tiny.weights()
        learner, teacher = tiny.learner(shared), tiny.teacher(shared)
        settings = dataclasses.replace(SETTINGS, max_grad_norm=limit)
        result = one_step(learner, recipe_class("sft")().build(tiny.parts(teacher)), settings)
        left = torch.stack([p.grad.norm() for p in learner.parameters()]).norm().item()
        norms[limit] = (result.grad_norm, left)
    assert norms[1e-3][0] == norms[1e9][0] == pytest.approx(norms[1e9][1])
    assert norms[1e-3][1] == pytest.approx(1e-3, rel=1e-3)


# Every option changes something

CHANGED = {
    "lr": 2e-2,
    "epochs": None,  # see test_the_number_of_steps
    "steps": 4,
    "train_items": 4,
    "batch_prompts": 3,
    "supervised_per_step": 5,
    "band": Band(high=0.3),
    "protect": None,  # a term that a study adds, see test_protection.py
    "warmup_share": 0.6,
    "schedule": "constant",
    "weight_decay": 0.5,
    "max_grad_norm": 1e-6,
    "chunk_tokens": None,  # must change nothing; see below
    "states_mb": None,  # changes what is on record, see test_record.py
    "checkpoint_every": None,  # see test_trap_irreproducible
    "lora": LoraSettings(rank=4, alpha=16.0),
    "parameters": None,  # tests/test_full.py
}


def test_every_train_setting_is_looked_at():
    assert CHANGED.keys() == {field.name for field in dataclasses.fields(TrainSettings)}


def test_every_train_setting_changes_the_run(tmp_path):
    plain = tiny.snapshot(run(tmp_path / "plain"), "learner")
    assert tiny.is_same(plain, tiny.snapshot(run(tmp_path / "same"), "learner"))
    for name, value in CHANGED.items():
        if value is not None:
            other = run(tmp_path / name, dataclasses.replace(SETTINGS, **{name: value}))
            assert not tiny.is_same(plain, tiny.snapshot(other, "learner")), name


@pytest.mark.numerics
def test_chunk_tokens_changes_the_passes_and_not_the_run(tmp_path, monkeypatch):
    """In fp64: Adam makes a whole step of a gradient next to 0, so in fp32 rounding alone may part two runs."""
    calls, plain = [], CrossEntropy.total

    def spy(self, learner, signal):
        calls.append(len(signal.states))
        return plain(self, learner, signal)

    monkeypatch.setattr(CrossEntropy, "total", spy)
    run(tmp_path / "whole", dtype=torch.float64)
    assert calls == [4] * 5
    run(tmp_path / "chunks", dataclasses.replace(SETTINGS, chunk_tokens=1), dtype=torch.float64)
    assert calls[5:] == [1] * 20
    for a, b in zip(metrics(tmp_path / "whole"), metrics(tmp_path / "chunks")):
        assert (a["loss"], a["grad_norm"]) == pytest.approx((b["loss"], b["grad_norm"]), rel=1e-8)


def test_what_a_run_counts(tmp_path):
    run(tmp_path)
    task = tiny.task()
    for record in metrics(tmp_path):
        drawn = draw_for(tuple(i.item_id for i in task.train), batch=4, step=record["step"], seed=3).item_ids
        solutions = {item.item_id: len(item.completion) + 1 for item in task.train}  # and the end token
        assert record["num_supervised"] == sum(solutions[item_id] for item_id in drawn)
        assert record["num_rows"] == 4
        assert record["origin_shares"] == {"dataset": 1.0}
        assert record["stats"]["nll_nats"] == pytest.approx(record["loss"])
    samples = [json.loads(line) for line in (tmp_path / "states.jsonl").read_text().splitlines()]
    spans = [(s["origin"], s["is_supervised"]) for s in samples[0]["spans"]]
    assert spans == [("prompt", False), ("dataset", True)]
    item = next(item for item in task.train if item.item_id == samples[0]["item_id"])
    assert [s["text"] for s in samples[0]["spans"]] == [item.prompt, item.completion + "<eos>"]
