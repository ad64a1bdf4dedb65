"""TRL's SFTTrainer and GRPOTrainer, watched: forgetting, drift, KL and where supervision lands, while they train."""

import sys

import trl
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from stateshape import StateshapeCallback, load_task
from stateshape.embedded import base_folder

MODEL = str(base_folder())  # 2 M parameters, in the package; name yours
ITEMS = load_task("arithmetic").train[:256]
LORA = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
COMMON = {"per_device_train_batch_size": 8, "learning_rate": 1e-3, "logging_steps": 5, "report_to": [], "bf16": False}


def watched(trainer, out):
    """The lines to add: before trainer.train()."""
    StateshapeCallback(
        task="arithmetic",  # what it is trained for: a task's name, or a .jsonl file
        retention=["facts"],  # what should not suffer
        every=0.25,  # evaluations: before the first step, at each quarter, after the last
        limit=32,  # items of each task
        out=out,
    ).attach(trainer)
    return trainer


def sft(out, steps):
    rows = [{"prompt": item.prompt, "completion": item.completion} for item in ITEMS]
    return trl.SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(MODEL),
        processing_class=AutoTokenizer.from_pretrained(MODEL),
        args=trl.SFTConfig(f"{out}/trl", max_steps=steps, **COMMON),
        train_dataset=Dataset.from_list(rows),
        peft_config=LORA,
    )


def right(completions, gold, **columns):
    return [float(answer in text.split()) for text, answer in zip(completions, gold)]


def grpo(out, steps):
    rows = [{"prompt": item.prompt, "gold": item.gold} for item in ITEMS]
    return trl.GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(MODEL),
        processing_class=AutoTokenizer.from_pretrained(MODEL),
        args=trl.GRPOConfig(f"{out}/trl", max_steps=steps, max_completion_length=64, **COMMON),
        reward_funcs=right,
        train_dataset=Dataset.from_list(rows),
        peft_config=LORA,
    )


if __name__ == "__main__":
    kind, folder = sys.argv[1:]  # sft or grpo, and a new folder
    watched({"sft": sft, "grpo": grpo}[kind](folder, 20), folder).train()
