"""The callback inside TRL's own trainers. Runs where TRL is installed (the `bench` extra)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

import trainer_rows as of
from stateshape import StateshapeCallback
from stateshape.core import layout
from stateshape.core.files import read_json, read_jsonl
from stateshape.core.records import EvalStep, LocalityRecord, SupervisionMap

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True, scope="module")
def short_texts():
    with pytest.MonkeyPatch.context() as patch:
        of.measure_little(patch)
        yield


def sft_trainer(folder: Path, **more: Any) -> Any:
    lora = more.pop("lora", of.LORA)
    rows = [{"prompt": item.prompt, "completion": item.completion} for item in of.ITEMS]
    return trl.SFTTrainer(
        model=of.model(lora=False),
        args=trl.SFTConfig(str(folder), **{**of.PLAIN, **more}),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=of.tokenizer(),
        peft_config=lora,
    )


def in_turn(completions: list[str], **columns: Any) -> list[float]:
    """So that no group has equal rewards."""
    return [float(i % 2) for i in range(len(completions))]


def grpo_trainer(folder: Path, **more: Any) -> Any:
    lora = more.pop("lora", of.LORA)
    settings = {"num_generations": 2, "max_completion_length": 8}
    return trl.GRPOTrainer(
        model=of.model(lora=False),
        reward_funcs=in_turn,
        args=trl.GRPOConfig(str(folder), **{**of.PLAIN, **settings, **more}),
        train_dataset=datasets.Dataset.from_list([{"prompt": item.prompt} for item in of.ITEMS]),
        processing_class=of.tokenizer(),
        peft_config=lora,
    )


def rloo_trainer(folder: Path, **more: Any) -> Any:
    settings = {"num_generations": 2, "max_completion_length": 8}
    return trl.RLOOTrainer(
        model=of.model(lora=False),
        reward_funcs=in_turn,
        args=trl.RLOOConfig(str(folder), **of.PLAIN, **settings),
        train_dataset=datasets.Dataset.from_list([{"prompt": item.prompt} for item in of.ITEMS]),
        processing_class=of.tokenizer(),
        peft_config=of.LORA,
    )


CASES = [
    (sft_trainer, {}),
    (sft_trainer, {"packing": True, "max_length": 64, "lora": None}),
    (sft_trainer, {"gradient_checkpointing": True, "gradient_accumulation_steps": 2}),
    (grpo_trainer, {}),
    (grpo_trainer, {"beta": 0.1, "num_iterations": 2}),
    (grpo_trainer, {"lora": None}),
    (sft_trainer, {"bf16": True}),
    (rloo_trainer, {}),
]
OFTEN = {0, 3}  # the others take as long


@pytest.mark.parametrize(
    ("make", "more"),
    [pytest.param(*case, marks=() if i in OFTEN else pytest.mark.slow) for i, case in enumerate(CASES)],
)
def test_trl_trains_the_same_to_the_bit_with_and_without_the_callback(make, more, tmp_path):
    alone = make(tmp_path / "alone", **more)
    alone.train()
    watched = make(tmp_path / "hf", **more)  # now: a trainer draws from where its constructor has set the seed
    StateshapeCallback(out=tmp_path / "watched", **of.SMALL).attach(watched)
    watched.train()
    assert of.steps_of(watched) == of.steps_of(alone)
    assert len(of.steps_of(alone)) == 3
    assert [line.step for line in read_jsonl(tmp_path / "watched" / layout.EVAL_STEPS, EvalStep)] == [0, 2, 3]
    assert [line.step for line in read_jsonl(tmp_path / "watched" / layout.LOCALITY, LocalityRecord)] == [0, 2]


def test_a_line_in_between_leaves_the_metrics_that_trl_averages_alone(tmp_path):
    """TRL's own log would forget those of the steps before: a line every three steps would then be about the last one."""
    found = []
    for name in ("alone", "watched"):
        trainer = grpo_trainer(tmp_path / f"hf_{name}", logging_steps=3)
        if name == "watched":
            StateshapeCallback(out=tmp_path / name, **of.SMALL).attach(trainer)
        trainer.train()
        found.append([line["reward"] for line in trainer.state.log_history if "reward" in line])
    assert found[0] == found[1]
    assert len(found[0]) == 1


def test_in_grpo_supervision_is_on_what_the_learner_wrote(tmp_path):
    trainer = grpo_trainer(tmp_path / "hf")
    StateshapeCallback(out=tmp_path / "watched", **of.SMALL).attach(trainer)
    trainer.train()
    made = read_json(tmp_path / "watched" / layout.SUPERVISION, SupervisionMap)
    assert {cell.origin for cell in made.cells} == {"learner"}
    assert 0 < sum(cell.num_tokens for cell in made.cells) <= 2 * 2 * 8  # steps, rows, tokens
    assert sum(cell.mass for cell in made.cells) > 0
    assert (tmp_path / "watched" / "adapter_model.safetensors").exists()


def test_in_sft_the_surprisal_of_supervised_tokens_is_trls_loss(tmp_path):
    trainer = sft_trainer(tmp_path / "hf", lora=None)
    StateshapeCallback(out=tmp_path / "watched", **of.SMALL).attach(trainer)
    trainer.train()
    first, second = read_jsonl(tmp_path / "watched" / layout.LOCALITY, LocalityRecord)
    losses = [loss for loss, _ in of.steps_of(trainer)]
    assert first.values["surprisal_nats"] == pytest.approx(losses[0], rel=1e-4)
    assert second.values["surprisal_nats"] == pytest.approx(losses[2], rel=1e-4)


def load_example() -> Any:
    spec = importlib.util.spec_from_file_location("watch_trl", Path(__file__).parents[1] / "examples" / "watch_trl.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_in_dpo_all_but_supervision_is_measured(tmp_path, caplog):
    rows = [
        {"prompt": item.prompt, "chosen": item.completion, "rejected": (item.completion or "")[::-1]}
        for item in of.ITEMS
    ]
    trainer = trl.DPOTrainer(
        model=of.model(lora=False),
        args=trl.DPOConfig(str(tmp_path / "hf"), **of.PLAIN),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=of.tokenizer(),
        peft_config=of.LORA,
    )
    StateshapeCallback(out=tmp_path / "watched", **of.SMALL).attach(trainer)
    trainer.train()
    assert [line.step for line in read_jsonl(tmp_path / "watched" / layout.EVAL_STEPS, EvalStep)] == [0, 2, 3]
    assert not (tmp_path / "watched" / layout.SUPERVISION).exists()
    assert sum("neither labels nor advantages" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "grpo"])
def test_the_example_of_the_guide_runs(kind, tmp_path):
    example = load_example()
    trainer = example.watched(getattr(example, kind)(str(tmp_path / "out"), 2), str(tmp_path / "out"))
    trainer.train()
    assert [line.step for line in read_jsonl(tmp_path / "out" / layout.EVAL_STEPS, EvalStep)] == [0, 1, 2]
    assert (tmp_path / "out" / layout.SUPERVISION).exists()
