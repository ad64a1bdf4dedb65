"""Tokens per second of sampling and training on the embedded base, beside transformers' own generate; peak memory.

    python -m benchmarks.throughput [--model embedded] [--rows 128] [--new-tokens 96]

Ratios are measured side by side in one process. Writes results/bench/throughput.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from stateshape.core.method import Draw
from stateshape.policy.open import open_policy
from stateshape.policy.policy import Policy
from stateshape.policy.settings import LoraSettings, ModelSettings
from stateshape.recipes.recipe import Parts
from stateshape.recipes.sft import SFT
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.study.provenance import peak_memory_gb, provenance
from stateshape.tasks.load import load_task
from stateshape.tasks.task import GenerationTask
from stateshape.train.settings import TrainSettings
from stateshape.train.step import train_step

REPEATS = 3
OUT = Path(__file__).parent.parent / "results" / "bench" / "throughput.json"


def sampling(policy: Policy, task: GenerationTask, rows: int, new_tokens: int) -> float:
    """New tokens a second of the local sampler, at temperature 1."""
    prompts = [policy.encode_prompt(item.prompt) for item in task.train[:rows]]
    settings = SamplingSettings(max_new_tokens=new_tokens, stops=task.stops, batch_rows=rows)
    began = time.perf_counter()
    completions = LocalSampler().sample(policy, prompts, settings, seed=0)
    return sum(len(completion.ids) for completion in completions) / (time.perf_counter() - began)


def generate(policy: Policy, task: GenerationTask, rows: int, new_tokens: int) -> float:
    """The same work by transformers' generate with its dynamic cache: left-padded, one batch."""
    tokenizer = policy.tokenizer
    tokenizer.padding_side, tokenizer.pad_token_id = "left", policy.pad_id
    batch = tokenizer([item.prompt for item in task.train[:rows]], return_tensors="pt", padding=True)
    policy.activate()
    began = time.perf_counter()
    with torch.no_grad():
        ids_BT = policy.weights.model.generate(
            input_ids=batch["input_ids"].to(policy.device),
            attention_mask=batch["attention_mask"].to(policy.device),
            max_new_tokens=new_tokens,
            do_sample=True,
            top_k=0,
            pad_token_id=policy.pad_id,
        )
    seconds = time.perf_counter() - began
    new_BT = ids_BT[:, batch["input_ids"].shape[1] :]
    ends_BT = torch.isin(new_BT, torch.tensor(policy.eos_ids, device=new_BT.device)).long()
    before_end = (ends_BT.cumsum(1) - ends_BT) == 0
    return float(before_end.sum()) / seconds


def training(policy: Policy, task: GenerationTask, rows: int) -> float:
    """Tokens a second (prompt and answer) of an SFT step."""
    policy.weights.add_adapter("bench", LoraSettings(rank=16, alpha=32), seed=0)
    learner = Policy(policy.weights, "bench", is_trainable=True)
    method = SFT().build(Parts(task=task, sampler=LocalSampler(), teacher=lambda source: policy))
    optimiser = torch.optim.AdamW(learner.parameters(), lr=1e-4)
    draw = Draw(item_ids=tuple(item.item_id for item in task.train[:rows]), step=0, seed=0)
    began = time.perf_counter()
    result = train_step(method, learner, optimiser, draw, TrainSettings())
    seconds = time.perf_counter() - began
    policy.weights.remove_adapter("bench")
    return float(result.signal.states.lengths_B.sum()) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=96)
    chosen = parser.parse_args()
    policy = open_policy(chosen.model, ModelSettings())
    task = load_task("arithmetic", data_dir=None)
    assert isinstance(task, GenerationTask)
    best: dict[str, float] = {}
    for _ in range(REPEATS):  # interleaved, so that a noisy moment hits all of them
        for name, rate in (
            ("sampling_tokens_per_s", sampling(policy, task, chosen.rows, chosen.new_tokens)),
            ("generate_tokens_per_s", generate(policy, task, chosen.rows, chosen.new_tokens)),
            ("training_tokens_per_s", training(policy, task, chosen.rows)),
        ):
            best[name] = max(best.get(name, 0.0), rate)
    record = {
        **{name: round(value, 1) for name, value in best.items()},
        "sampling_over_generate": round(best["sampling_tokens_per_s"] / best["generate_tokens_per_s"], 2),
        "rows": chosen.rows,
        "new_tokens": chosen.new_tokens,
        "repeats": REPEATS,
        "peak_memory_gb": round(peak_memory_gb(policy.device), 2),
        "provenance": provenance(policy.weights, [task]),
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in record.items() if name != "provenance"}, indent=1))


if __name__ == "__main__":
    main()
