"""The callback inside a plain Trainer: it measures, it changes nothing, and it never stops a training."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import peft
import pytest
import torch

import trainer_rows as of
from stateshape import StateshapeCallback, watch_training
from stateshape.cli import main
from stateshape.core import layout
from stateshape.core.files import BadInput, read_json, read_jsonl
from stateshape.core.records import EvalStep, LocalityRecord, SupervisionMap
from stateshape.core.states import Origin
from stateshape.evals.evaluate import evaluate
from stateshape.evals.neutral import neutral_nats, neutral_texts
from stateshape.policy.open import open_policy
from stateshape.policy.settings import ModelSettings
from stateshape.study.along import some_items
from stateshape.study.loaded import take_curves
from stateshape.tasks.load import load_task
from stateshape.trainers.batches import read_batch
from stateshape.trainers.live import Live
from stateshape.trainers.reading import reading


@pytest.fixture(autouse=True, scope="module")
def short_texts():
    """Measured on little: what is measured is tested where it is made."""
    with pytest.MonkeyPatch.context() as patch:
        of.measure_little(patch)
        yield


class Watched:
    """A training of three steps with the callback attached."""

    def __init__(self, folder, *, lora):
        self.out = folder / "watched"
        self.trainer = of.plain_trainer(folder / "hf", of.model(lora=lora))
        self.callback = StateshapeCallback(out=self.out, **of.SMALL).attach(self.trainer)
        self.trainer.train()
        self.evals = read_jsonl(self.out / layout.EVAL_STEPS, EvalStep)
        self.landed = read_jsonl(self.out / layout.LOCALITY, LocalityRecord)


@pytest.fixture(scope="module")
def with_lora(tmp_path_factory):
    return Watched(tmp_path_factory.mktemp("lora"), lora=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return Watched(tmp_path_factory.mktemp("whole"), lora=False)


@pytest.mark.parametrize("kind", ["with_lora", "whole"])
def test_a_training_is_the_same_to_the_bit_with_and_without_the_callback(kind, request, tmp_path):
    watched = request.getfixturevalue(kind)
    alone = of.plain_trainer(tmp_path, of.model(lora=kind == "with_lora"))
    alone.train()
    assert of.steps_of(watched.trainer) == of.steps_of(alone)
    assert len(of.steps_of(alone)) == 3
    theirs = dict(watched.trainer.model.named_parameters())
    assert all(torch.equal(value, theirs[name]) for name, value in alone.model.named_parameters())


def test_it_evaluates_before_the_first_step_every_so_many_and_after_the_last(with_lora):
    assert [line.step for line in with_lora.evals] == [0, 2, 3]
    assert with_lora.evals[0].num_items == {"arithmetic": 2, "facts": 2}


@pytest.mark.parametrize("kind", ["with_lora", "whole"])
def test_the_model_is_its_base_before_the_first_step_and_another_one_after_it(kind, request):
    first, second, *_ = request.getfixturevalue(kind).evals
    assert first.neutral_change == 0
    assert first.distances["forward_kl_new_task_nats"] == pytest.approx(0, abs=1e-9)
    assert second.distances["forward_kl_new_task_nats"] > 1e-6
    assert second.neutral_change != 0


def test_the_base_of_an_adapter_is_there_all_the_time_and_that_of_a_whole_model_is_not(with_lora, whole):
    assert with_lora.evals[-1].distances["reverse_kl_new_task_nats"] > 1e-6
    assert with_lora.evals[-1].distances["update_frobenius"] > 0
    assert not {"reverse_kl_new_task_nats", "update_frobenius"} & whole.evals[-1].distances.keys()
    assert with_lora.landed[-1].values["base_surprisal_nats"] > 0
    assert whole.landed[-1].values["base_surprisal_nats"] is None


@pytest.mark.parametrize("kind", ["with_lora", "whole"])
def test_what_it_saves_measures_as_the_model_did_at_the_end(kind, request):
    """By our own commands' way of reading it, whose forward pass is another one."""
    watched = request.getfixturevalue(kind)
    policy = open_policy(str(watched.out), ModelSettings(device="cpu"))
    last = watched.evals[-1]
    assert neutral_nats(policy, neutral_texts(is_embedded=True)) == pytest.approx(last.neutral_nats, rel=1e-4)
    rows = evaluate(policy, some_items(load_task("facts"), 2))
    assert np.mean([row.scores["mc2"] for row in rows]) == pytest.approx(last.scores["facts"]["mc2"], rel=1e-4)


def test_supervision_is_measured_on_the_batch_of_the_next_step_before_its_update(with_lora):
    assert [line.step for line in with_lora.landed] == [0, 2]
    assert with_lora.landed[0].values["surprisal_nats"] == with_lora.landed[0].values["base_surprisal_nats"]
    assert with_lora.landed[1].values["surprisal_nats"] != with_lora.landed[1].values["base_surprisal_nats"]


def test_the_surprisal_of_supervised_tokens_is_the_loss_of_the_trainer(whole):
    losses = [loss for loss, _ in of.steps_of(whole.trainer)]
    assert whole.landed[0].values["surprisal_nats"] == pytest.approx(losses[0], rel=1e-4)
    assert whole.landed[1].values["surprisal_nats"] == pytest.approx(losses[2], rel=1e-4)


def test_the_supervision_map_counts_the_labels_of_the_steps_it_saw(whole):
    made = read_json(whole.out / layout.SUPERVISION, SupervisionMap)
    counted = sum(cell.num_tokens for cell in made.cells)
    share = [line.values["supervised_share"] for line in whole.landed]
    assert {cell.origin for cell in made.cells} == {"dataset"}
    assert 0.2 < min(share) < max(share) < 0.9
    labels = sum(sum(label != -100 for label in row["labels"]) for row in of.rows())
    assert 0 < counted < labels
    assert 0 < sum(cell.mass for cell in made.cells) < counted


def test_the_values_are_in_the_trainers_own_log_and_do_not_cost_it_a_line(with_lora):
    log = with_lora.trainer.state.log_history
    assert [line["step"] for line in log if "eval_neutral_change" in line] == [0, 2, 3]
    assert [line["step"] for line in log if "loss" in line] == [1, 2, 3]
    assert [line["step"] for line in log if "locality/surprisal_nats" in line] == [1, 3]
    assert (
        next(line for line in log if "eval_facts/mc2" in line)["eval_facts/mc2"]
        == with_lora.evals[0].scores["facts"]["mc2"]
    )


def test_a_tracker_of_the_trainer_is_told(tmp_path, monkeypatch):
    event_files = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = of.plain_trainer(tmp_path / "hf", of.model(), report_to=["tensorboard"], max_steps=1)
    StateshapeCallback(out=tmp_path / "watched", **of.SMALL).attach(trainer)
    trainer.train()
    events = event_files.EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"eval/neutral_change", "eval/facts/mc2", "eval/k3_distance", "train/locality/surprisal_nats"} <= tags
    assert [event.step for event in events.Scalars("eval/neutral_change")] == [0, 1]


def test_among_the_callbacks_alone_it_measures_all_but_supervision(tmp_path):
    callback = StateshapeCallback(out=tmp_path / "watched", **of.SMALL)
    trainer = of.plain_trainer(tmp_path / "hf", of.model(), [callback], max_steps=1)
    trainer.train()
    assert [line.step for line in read_jsonl(tmp_path / "watched" / layout.EVAL_STEPS, EvalStep)] == [0, 1]
    assert [line["step"] for line in trainer.state.log_history if "eval_neutral_change" in line] == [0, 1]
    assert not (tmp_path / "watched" / layout.SUPERVISION).exists()


def test_reading_puts_back_everything_that_it_changes():
    trained = of.model().train()
    trained.base_model.model.model.layers[0].eval()  # a mixture of modes stays one
    modes = [module.training for module in trained.modules()]
    needs = [parameter.requires_grad for parameter in trained.parameters()]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    live = Live(trained, of.tokenizer())

    def stopped():
        with reading(trained, live.device, torch.bfloat16):
            live.base().activate()
            assert not any(module.training for module in trained.modules())
            assert not torch.is_grad_enabled()
            random.random(), np.random.rand(), torch.rand(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert modes == [module.training for module in trained.modules()]
    assert needs == [parameter.requires_grad for parameter in trained.parameters()]
    assert not any(getattr(module, "_disable_adapters", False) for module in trained.modules())
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[:2]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert torch.is_grad_enabled()


def test_a_resumed_training_goes_on_with_the_same_file(tmp_path):
    def trainer(steps):
        made = of.plain_trainer(tmp_path / "hf", of.model(), max_steps=steps, save_strategy="steps", save_steps=2)
        StateshapeCallback(out=tmp_path / "watched", **of.SMALL).attach(made)
        return made

    trainer(3).train()  # stopped, as it were, after a step that no checkpoint has
    resumed = trainer(4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "hf" / "checkpoint-2"))
    assert [line.step for line in read_jsonl(tmp_path / "watched" / layout.EVAL_STEPS, EvalStep)] == [0, 2, 4]
    assert [line.step for line in read_jsonl(tmp_path / "watched" / layout.LOCALITY, LocalityRecord)] == [0, 2]


@pytest.mark.slow
def test_of_two_processes_the_first_measures_and_both_train_as_without_it(tmp_path):
    script = Path(__file__).parent / "watched_ranks.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*command, str(tmp_path)], env=environment, check=True, capture_output=True, timeout=300)
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    assert [rank["measured"] for rank in ranks] == [True, False]
    assert ranks[0]["watched"] == ranks[0]["alone"] == ranks[1]["watched"] == ranks[1]["alone"]
    assert [line.step for line in read_jsonl(tmp_path / "watched" / layout.EVAL_STEPS, EvalStep)] == [0, 2, 3]


# Nothing is lost


def test_a_measurement_that_fails_is_said_once_and_the_training_goes_on(tmp_path, monkeypatch, caplog):
    trainer = of.plain_trainer(tmp_path / "hf", of.model())
    callback = StateshapeCallback(out=tmp_path / "watched", **of.SMALL).attach(trainer)
    real = callback.on_step_end

    def failing(*args, **kwargs):
        monkeypatch.setattr("stateshape.trainers.watch.eval_step", fail)
        return real(*args, **kwargs)

    def fail(*args):
        raise RuntimeError("no memory left\nfor that")

    monkeypatch.setattr(callback, "on_step_end", failing)
    with caplog.at_level(logging.WARNING, logger="stateshape"):
        trainer.train()
    said = [record.getMessage() for record in caplog.records if "watching has stopped" in record.getMessage()]
    assert len(said) == 1
    assert "after step 2 (no memory left\\nfor that); the training goes on" in said[0]
    assert trainer.state.global_step == 3
    assert trainer.model.training
    assert (tmp_path / "watched" / "adapter_model.safetensors").exists()
    assert [line.step for line in read_jsonl(tmp_path / "watched" / layout.EVAL_STEPS, EvalStep)] == [0]


def test_a_first_evaluation_that_fails_is_one_line_before_the_first_step(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr("stateshape.trainers.watch.eval_step", fail)
    trainer = of.plain_trainer(tmp_path / "hf", of.model())
    StateshapeCallback(out=tmp_path / "watched", **of.SMALL).attach(trainer)
    with pytest.raises(
        BadInput, match=r"before the first step failed .* give a smaller limit if memory was short"
    ) as refused:
        trainer.train()
    assert "\n" not in str(refused.value)


def test_batches_of_another_kind_are_said_once_and_cost_the_supervision_map_alone(tmp_path, caplog):
    watch = watch_training(of.model(), of.tokenizer(), out=tmp_path, num_steps=4, **of.SMALL)
    with caplog.at_level(logging.WARNING, logger="stateshape"):
        watch.see({"chosen": torch.ones(1), "rejected": torch.ones(1)})
        watch.see({"chosen": torch.ones(1)})
    assert [record.getMessage() for record in caplog.records] == [
        "stateshape: no supervision map, since this trainer's batches have neither labels nor advantages (but chosen, rejected)"
    ]
    assert watch.step(1) == {}
    assert watch.is_on


# Batches


def test_padding_is_no_row_and_packed_texts_are_several():
    labels = torch.tensor([[-100, 5, 6, -100, -100], [-100, -100, 7, 8, 9]])
    ids = torch.tensor([[3, 5, 6, 0, 0], [3, 4, 7, 8, 9]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    batch = read_batch({"input_ids": ids, "labels": labels, "attention_mask": mask})
    assert batch.num_tokens == 8
    assert [(row.ids, row.first, row.at.tolist()) for row in batch.rows] == [
        ([3, 5, 6], 1, [1, 2]),
        ([3, 4, 7, 8, 9], 2, [2, 3, 4]),
    ]
    places = torch.tensor([[0, 1, 2, 0, 1, 0, 1, 2]])
    flat = torch.cat([ids[0, :3], torch.tensor([3, 4]), ids[1, :3]])[None]
    packed = read_batch({"input_ids": flat, "labels": flat, "position_ids": places})
    # a text's first token is predicted by nothing
    assert [(row.ids, row.first, row.at.tolist()) for row in packed.rows] == [
        ([3, 5, 6], 0, [1, 2]),
        ([3, 4], 0, [1]),
        ([3, 4, 7], 0, [1, 2]),
    ]


def test_completions_count_by_the_size_of_their_advantage_and_a_tools_text_does_not():
    batch = read_batch(
        {
            "prompt_ids": torch.tensor([[0, 3, 4], [5, 3, 4]]),
            "prompt_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]),
            "completion_ids": torch.tensor([[7, 8, 9], [7, 1, 0]]),
            "completion_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
            "tool_mask": torch.tensor([[1, 0, 1], [1, 1, 1]]),
            "advantages": torch.tensor([-2.0, 0.5]),
        }
    )
    first, second = batch.rows
    assert (first.ids, first.first, first.at.tolist(), first.weight.tolist()) == (
        [3, 4, 7, 8, 9],
        2,
        [2, 4],
        [2.0, 2.0],
    )
    assert (second.ids, second.first, second.at.tolist()) == ([5, 3, 4, 7, 1], 3, [3, 4])
    assert first.origin == second.origin == Origin.LEARNER
    assert batch.num_tokens == 10


# Refusals


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"task": "facts", "retention": []},
            "task: got 'facts', which is multiple choice; expected a task that is answered",
        ),
        ({"retention": "facts"}, "retention: got 'facts'; expected a list of tasks; write"),
        ({"every": 0}, "every: got 0; expected steps"),
        ({"task": "arithmetics"}, "did you mean arithmetic"),
        ({"limit": 0}, "limit: got 0; expected 1 or more"),
    ],
)
def test_what_makes_no_sense_is_refused_when_the_callback_is_made(given, said, tmp_path):
    with pytest.raises(BadInput, match=said):
        StateshapeCallback(out=tmp_path / "watched", **{**of.SMALL, **given})
    assert not (tmp_path / "watched").exists()


def test_a_folder_of_another_run_is_refused_before_the_first_step(with_lora, tmp_path):
    trainer = of.plain_trainer(tmp_path / "hf", of.model())
    StateshapeCallback(out=with_lora.out, **of.SMALL).attach(trainer)
    with pytest.raises(BadInput, match=r"out: .* holds eval_steps.jsonl of another run; expected a new folder"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_whole_model_in_the_middle_of_its_training_is_refused_since_its_base_is_gone(tmp_path):
    def trainer(**more):
        return of.plain_trainer(tmp_path / "hf", of.model(lora=False), save_steps=2, **more)

    trainer(max_steps=2, save_strategy="steps").train()
    resumed = trainer(max_steps=3)
    StateshapeCallback(out=tmp_path / "watched", **of.SMALL).attach(resumed)
    with pytest.raises(BadInput, match="from step 2 on; expected the base, which is gone by then"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "hf" / "checkpoint-2"))


def prompt_tuned():
    config = peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    return peft.get_peft_model(of.model(lora=False), config)


def with_trained_head():
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    return peft.get_peft_model(of.model(lora=False), config)


def split():
    whole = of.model(lora=False)
    next(whole.parameters()).ds_id = 0  # DeepSpeed's mark
    return whole


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (prompt_tuned, "an adapter of type PROMPT_TUNING; expected one inside the layers, such as LoRA"),
        (with_trained_head, r"an adapter on its head \(lm_head\); expected layers below the head"),
        (split, r"split over processes \(FSDP, DeepSpeed ZeRO-3 or tensor parallel\); expected whole ones"),
        (lambda: torch.nn.Linear(2, 2), "has no head over a vocabulary; expected a causal language model"),
    ],
)
def test_a_model_that_cannot_be_read_is_refused_in_a_line_that_says_what_to_do(make, said, tmp_path):
    with pytest.raises(BadInput, match=said) as refused:
        watch_training(make(), of.tokenizer(), out=tmp_path / "watched", num_steps=2, **of.SMALL)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "watched").exists()


def test_a_second_trainer_and_something_that_is_none_are_refused(tmp_path, with_lora):
    callback = StateshapeCallback(out=tmp_path / "watched", **of.SMALL)
    with pytest.raises(BadInput, match="trainer: got int; expected a transformers Trainer"):
        callback.attach(3)
    callback.attach(of.plain_trainer(tmp_path / "hf", of.model()))
    with pytest.raises(BadInput, match="trainer: got a second one"):
        callback.attach(with_lora.trainer)


# The plain hook, and the audit


def test_a_loop_of_ones_own_is_watched_by_three_calls(tmp_path):
    trained = of.model().train()
    watch = watch_training(trained, of.tokenizer(), out=tmp_path / "mine", num_steps=2, **of.SMALL)
    optimiser = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=1e-2)
    told = []
    for step in range(2):
        batch = of.padded(of.rows()[2 * step : 2 * step + 2])
        watch.see(batch)
        trained(**batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        told.append(watch.step(step + 1))
    watch.finish()
    first, second = told
    assert first.keys() == {f"locality/{name}" for name in (
        "supervised_share", "surprisal_nats", "base_surprisal_nats", "mass_per_token", "reachability_gap_nats"
    )}  # fmt: skip
    assert second["eval/k3_distance"] > 0
    assert {"adapter_config.json", "adapter_model.safetensors", layout.EVAL_STEPS} <= {
        p.name for p in (tmp_path / "mine").iterdir()
    }


def test_an_audit_takes_the_curves_of_the_folder_along(with_lora, tmp_path):
    take_curves(str(with_lora.out), tmp_path)
    assert read_jsonl(tmp_path / layout.EVAL_STEPS, EvalStep) == with_lora.evals
    assert read_json(tmp_path / layout.SUPERVISION, SupervisionMap).cells
    take_curves("embedded", tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_an_audit_reads_the_folder_and_shows_its_curves(with_lora, tmp_path):
    words = ["audit", "embedded", str(with_lora.out), "--task", "arithmetic", "--retention", "facts", "--limit", "2"]
    small = ["--prompts", "2", "--cuts", "1", "--max-new-tokens", "4", "--no-hidden", "--device", "cpu", "--quiet"]
    assert main([*words, *small, "--out", str(tmp_path / "audit")]) == 0
    page = (tmp_path / "audit" / "report.html").read_text(encoding="utf-8")
    assert "While it was trained" in page
    assert "Forgetting of neutral text" in page
    assert json.loads((tmp_path / "audit" / "audit.json").read_text(encoding="utf-8"))[0]["label"] == "watched"
