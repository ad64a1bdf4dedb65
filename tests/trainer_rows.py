"""What tests of other trainers share: the tiny model as transformers has it, rows of labels, and a plain Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from stateshape.embedded import base_folder
from stateshape.tasks.load import load_task

PLAIN = {
    "max_steps": 3,
    "per_device_train_batch_size": 2,
    "report_to": [],
    "logging_steps": 1,
    "use_cpu": True,
    "save_strategy": "no",
    "learning_rate": 1e-2,
    "disable_tqdm": True,
    "bf16": False,
}
SMALL = {"task": "arithmetic", "retention": ["facts"], "every": 2, "limit": 2, "positions": 16}
LORA = peft.LoraConfig(r=2, lora_dropout=0.2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
ITEMS = load_task("arithmetic").train[:8]


def measure_little(patch: pytest.MonkeyPatch) -> None:
    """Few and short texts, so that an evaluation takes a fraction of a second."""
    patch.setattr("stateshape.study.eval_watch.REFERENCE_PROMPTS", 4)
    patch.setattr("stateshape.study.eval_watch.REFERENCE_TOKENS", 6)
    patch.setattr("stateshape.tasks.embedded.MAX_NEW_TOKENS", 6)
    patch.setattr("stateshape.evals.neutral.EMBEDDED_DOCUMENTS", 4)


def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(str(base_folder()))


def model(*, lora: bool = True) -> Any:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(str(base_folder()))
    return peft.get_peft_model(base, LORA) if lora else base


def rows() -> list[dict[str, list[int]]]:
    """Prompts without labels, solutions with them."""
    of = tokenizer()
    found = []
    for item in ITEMS:
        prompt, solution = (of(text, add_special_tokens=False)["input_ids"] for text in (item.prompt, item.completion))
        labels = [-100] * len(prompt) + solution
        found.append({"input_ids": prompt + solution, "labels": labels, "attention_mask": [1] * len(labels)})
    return found


def padded(batch: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    longest = max(len(row["labels"]) for row in batch)
    fill = {"input_ids": 0, "labels": -100, "attention_mask": 0}
    return {k: torch.tensor([row[k] + [v] * (longest - len(row[k])) for row in batch]) for k, v in fill.items()}


def plain_trainer(out: Path, trained: Any, callbacks: list[Any] | None = None, **more: Any) -> Trainer:
    return Trainer(
        model=trained,
        args=TrainingArguments(str(out), **{**PLAIN, **more}),
        train_dataset=rows(),
        data_collator=padded,
        processing_class=tokenizer(),
        callbacks=callbacks,
    )


def steps_of(trainer: Trainer) -> list[tuple[float, float]]:
    """Loss and norm of the gradient, by step."""
    return [(line["loss"], line["grad_norm"]) for line in trainer.state.log_history if "loss" in line]
