"""A process that trains by Unsloth, which patches transformers and TRL for all that follows.

Arguments: a folder for the result, one for what is measured or "" for a training without the callback, and lora or whole.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import unsloth  # isort: skip  # before transformers and TRL
import datasets
import pytest
import torch
import trl

import trainer_rows as of
from stateshape import StateshapeCallback
from stateshape.embedded import base_folder

if __name__ == "__main__":
    folder, watched, kind = sys.argv[1:]
    torch.set_num_threads(1)
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        str(base_folder()),
        max_seq_length=256,
        dtype=torch.float32,
        load_in_4bit=False,
        full_finetuning=kind == "whole",
    )
    if kind == "lora":
        model = unsloth.FastLanguageModel.get_peft_model(model, r=2, random_state=0)
    trainer = trl.SFTTrainer(
        model=model,
        processing_class=tokenizer,
        args=trl.SFTConfig(folder, **of.PLAIN),
        train_dataset=datasets.Dataset.from_list(
            [{"prompt": item.prompt, "completion": item.completion} for item in of.ITEMS]
        ),
    )
    if watched:
        of.measure_little(pytest.MonkeyPatch())
        StateshapeCallback(out=watched, **of.SMALL).attach(trainer)
    trainer.train()
    trainer.save_model(folder)
    Path(folder, "steps.json").write_text(json.dumps(of.steps_of(trainer)), encoding="utf-8")
