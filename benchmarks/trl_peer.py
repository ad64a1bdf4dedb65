"""What the benchmarks against TRL share: its model, its adapter, its settings, and a clock around its steps.

Every trainer is asked for its fastest CPU settings; what they have in common is set here:

- gradient checkpointing off (TRL's default is on); on a CPU fp32 and `use_cpu`, on a GPU bf16 (both sides alike);
- no logging, saving, evaluation, reporting, progress bar or hub; no dataloader workers or pinned memory;
- LoRA from the same peft with the same rank, scale, targets and no dropout; AdamW without decay; clipping at 1.

A step's time is from on_step_begin to on_step_end of the trainer's own loop: generation, rewards, forward, backward,
clipping and the optimiser's step. Loading, tokenising and collating a batch happen before and are not counted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
import transformers
from peft import LoraConfig

from benchmarks.common import (
    DEVICE,
    DTYPE,
    LORA,
    Measured,
    device_peak,
    fastest,
    model_folder,
    now,
    start_device_peak,
)
from stateshape.policy.settings import ALL_LINEAR

Settings = TypeVar("Settings")
LR = 1e-6  # so low that every repeat samples from nearly the same policy, on both sides


def peer_model(model: str) -> Any:
    """The base with sdpa in the same dtype and on the same device as ours."""
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
        model_folder(model), dtype=getattr(torch, DTYPE), attn_implementation="sdpa"
    )
    return loaded.to(DEVICE)


def peer_tokenizer(model: str) -> Any:
    return transformers.AutoTokenizer.from_pretrained(model_folder(model))


def peer_lora() -> LoraConfig:
    return LoraConfig(
        r=LORA.rank,
        lora_alpha=LORA.alpha,
        lora_dropout=0.0,
        target_modules=ALL_LINEAR if ALL_LINEAR in LORA.targets else list(LORA.targets),  # peft's word is a string
        task_type="CAUSAL_LM",
    )


def plain_arguments(*, rows: int, micro_rows: int, steps: int) -> dict[str, Any]:
    """TrainingArguments of a step over `rows` rows in micro-batches of `micro_rows`."""
    assert rows % micro_rows == 0, (rows, micro_rows)
    return {
        "output_dir": tempfile.mkdtemp(prefix="bench-trl-"),
        "per_device_train_batch_size": micro_rows,
        "gradient_accumulation_steps": rows // micro_rows,
        "max_steps": steps,
        "learning_rate": LR,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "lr_scheduler_type": "constant",
        "use_cpu": DEVICE.type == "cpu",
        "bf16": DTYPE == "bfloat16",
        "gradient_checkpointing": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
    }


class StepClock(transformers.TrainerCallback):
    """Seconds of each optimiser step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._began = now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(now() - self._began)


class TrlSide:
    """A trainer whose own loop is run once a repeat. `num_tokens`: how many tokens the last run worked on."""

    def __init__(self, trainer: Any, num_tokens: Callable[[], int]) -> None:
        self.trainer, self.num_tokens, self.clock = trainer, num_tokens, StepClock()
        trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
        trainer.add_callback(self.clock)

    def __call__(self, repeat: int) -> Measured:
        self.clock.seconds.clear()
        self.trainer.args.seed = 100 + repeat  # train() seeds torch with it
        start_device_peak()
        self.trainer.train()
        return Measured(sum(self.clock.seconds), self.num_tokens(), device_peak())


def drained(lengths: list[int]) -> int:
    """Their sum; the list starts again."""
    total = sum(lengths)
    lengths.clear()
    return total


def fastest_side(
    model: str, settings: dict[str, Settings], make: Callable[[Settings], TrlSide]
) -> tuple[str, dict[str, float | None]]:
    """The name of the quickest of TRL's settings. A real model's step on a CPU is long enough to stand without a warm-up."""

    def seconds(setting: Settings) -> float:
        side = make(setting)
        if model == "embedded" or DEVICE.type == "cuda":
            side(0)
        return side(0).seconds

    return fastest({name: partial(seconds, setting) for name, setting in settings.items()})
