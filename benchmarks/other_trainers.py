"""What the callback costs a training by another library: the same training with and without it, side by side.

    OMP_NUM_THREADS=1 taskset -c 1 python -m benchmarks.other_trainers [--trainers trainer sft grpo] [--model FOLDER]

Each pair trains the same rows with transformers' Trainer, TRL's SFTTrainer or TRL's GRPOTrainer (TRL: the `bench` extra), by
LoRA of rank 16 in batches of 4; who goes first changes from pair to pair. `watch s` is what the callback says it spent on
measuring, `per evaluation` that over its evaluations. `else` is what is left of the difference between the two, per
step: the hooks themselves, and the noise of the machine. Losses have to be equal to the bit. Writes
results/bench/other-trainers-MODEL.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

from benchmarks.common import DEVICE, RESULTS, TRIED, Row, model_label, origin, quiet_peers, write_json
from benchmarks.trl_peer import peer_lora, peer_model, peer_tokenizer
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.load import load_task
from stateshape.tasks.task import GenerationTask
from stateshape.trainers.callback import StateshapeCallback

TASK, RETENTION = "arithmetic", ["facts"]
BATCH = 4


def settings(steps: int) -> dict[str, Any]:
    return {
        "max_steps": steps,
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": DEVICE.type == "cpu",
        "bf16": DEVICE.type == "cuda",
        "gradient_checkpointing": False,
    }


def items_of(steps: int) -> tuple[GenerationItem, ...]:
    task = load_task(TASK)
    assert isinstance(task, GenerationTask)
    return task.train[: BATCH * steps]


def plain(model: str, steps: int, folder: str) -> Any:
    import peft

    tokenizer, rows = peer_tokenizer(model), []
    for item in items_of(steps):
        prompt, solution = (tokenizer(text or "")["input_ids"] for text in (item.prompt, item.completion))
        rows.append({"input_ids": prompt + solution, "labels": [-100] * len(prompt) + solution})
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return transformers.Trainer(
        model=peft.get_peft_model(peer_model(model), peer_lora()),
        args=transformers.TrainingArguments(folder, **settings(steps)),
        train_dataset=rows,  # type: ignore[arg-type]
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer),
        processing_class=tokenizer,
    )


def sft(model: str, steps: int, folder: str) -> Any:
    import datasets
    import trl

    items = items_of(steps)
    return trl.SFTTrainer(
        model=peer_model(model),
        args=trl.SFTConfig(folder, **settings(steps)),
        train_dataset=datasets.Dataset.from_list([{"prompt": i.prompt, "completion": i.completion} for i in items]),
        processing_class=peer_tokenizer(model),
        peft_config=peer_lora(),
    )


def grpo(model: str, steps: int, folder: str) -> Any:
    import datasets
    import trl

    items = items_of(steps)
    return trl.GRPOTrainer(
        model=peer_model(model),
        reward_funcs=lambda completions, gold, **_: [float(g in c) for c, g in zip(completions, gold)],
        args=trl.GRPOConfig(folder, num_generations=BATCH, max_completion_length=64, **settings(steps)),
        train_dataset=datasets.Dataset.from_list([{"prompt": i.prompt, "gold": i.gold} for i in items]),
        processing_class=peer_tokenizer(model),
        peft_config=peer_lora(),
    )


TRAINERS: dict[str, Callable[[str, int, str], Any]] = {"trainer": plain, "sft": sft, "grpo": grpo}


def once(make: Callable[[], Any], watch: dict[str, Any] | None) -> tuple[float, list[float], StateshapeCallback | None]:
    """Seconds of train(), the losses, and the callback."""
    transformers.set_seed(0)
    trainer = make()
    callback = None if watch is None else StateshapeCallback(**watch).attach(trainer)
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    return seconds, [line["loss"] for line in trainer.state.log_history if "loss" in line], callback


def measure(name: str, model: str, *, steps: int, every: int, limit: int, repeats: int) -> Row:
    alone, watched, spent = [], [], []
    losses: list[list[float]] = []
    for repeat in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            watch = {"task": TASK, "retention": RETENTION, "every": every, "limit": limit, "out": Path(folder) / "out"}
            for is_watched in (False, True) if repeat % 2 == 0 else (True, False):
                make = lambda: TRAINERS[name](model, steps, folder)  # noqa: E731
                seconds, found, callback = once(make, watch if is_watched else None)
                losses.append(found)
                (watched if is_watched else alone).append(seconds)
                if callback is not None and callback.watch is not None:
                    assert callback.watch.is_on
                    spent.append(callback.watch.seconds)
    assert all(one == losses[0] for one in losses), "the callback has changed the training"
    count = len({*range(0, steps, every), steps})
    left = [(w - s - a) / steps for w, s, a in zip(watched, spent, alone, strict=True)]
    return {
        "name": name,
        "steps": steps,
        "evaluations": count,
        "limit": limit,
        "repeats": repeats,
        "alone_seconds": alone,
        "watched_seconds": watched,
        "watch_seconds": spent,
        "step_seconds": statistics.median(alone) / steps,
        "evaluation_seconds": statistics.median(spent) / count,
        "elsewhere_seconds_per_step": statistics.median(left),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainers", nargs="*", default=list(TRAINERS), choices=list(TRAINERS))
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="to try the code: writes below build/")
    asked = parser.parse_args()
    sizes = {"steps": asked.steps, "every": asked.every, "limit": asked.limit, "repeats": asked.repeats}
    quiet_peers()
    rows = [measure(name, asked.model, **sizes) for name in asked.trainers]
    table = Table("trainer", "step s", "per evaluation s", "in steps", "else s/step", "watch s")
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['step_seconds']:.3f}",
            f"{row['evaluation_seconds']:.2f}",
            f"{row['evaluation_seconds'] / row['step_seconds']:.1f}",
            f"{row['elsewhere_seconds_per_step']:+.4f}",
            " ".join(f"{seconds:.1f}" for seconds in row["watch_seconds"]),
        )
    Console().print(table, f"{torch.get_num_threads()} threads; {asked.limit} items of each task")
    place = (TRIED if asked.quick else RESULTS) / f"other-trainers-{model_label(asked.model)}.json"
    write_json(place, {"rows": rows, "origin": origin(asked.model)})


if __name__ == "__main__":
    main()
