"""Makes the embedded base: tokenizer, then one run of next-token training on the generated world, on CPU.

Deterministic from a seed on one machine with one thread count. Validation items alone are scored while training; the
test split is never read here. Knows nothing of studies or methods. Suffixes: B row, T position, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from stateshape.core.files import BadInput, read_json
from stateshape.embedded.corpus import DOMAINS, documents
from stateshape.embedded.measure import exam_accuracy, fact_scores, target_accuracy
from stateshape.embedded.packing import IGNORED, Batch, batches
from stateshape.embedded.tokens import CONTEXT, train_tokenizer
from stateshape.embedded.world import arithmetic, exam, facts

DEFAULT_STEPS = 1500
DEFAULT_SEED = 1
TOKENIZER_SEED = 0
TOKENIZER_DOCUMENTS = 20_000
NUM_SCORED = 120  # validation facts and exam questions at each point of the curve
NUM_PROBLEMS_SCORED = 240
CURVE_FILE = "training.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Warm-up, a constant rate, a linear decay to zero. Chosen on validation in short runs."""

    peak_rate: float = 3e-3
    warmup_steps: int = 100
    decay_share: float = 0.25
    weight_decay: float = 0.1
    num_rows: int = 20
    row_length: int = 288
    score_every: int = 200
    max_norm: float = 1.0

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 0..steps-1."""
        decay_steps = max(1, round(self.decay_share * steps))
        return self.peak_rate * min((step + 1) / self.warmup_steps, 1.0, (steps - step) / decay_steps)


class CurveLosses(NamedTuple):
    """Nats per token, mean since the last point, in the order of DOMAINS."""

    arithmetic: float
    lore: float
    exam: float


class CurvePoint(NamedTuple):
    """Losses in nats per token, mean since the last point, by domain; scores on validation items."""

    step: int
    tokens: int
    seconds: float
    loss_arithmetic: float
    loss_lore: float
    loss_exam: float
    target_accuracy: float
    mc1: float
    exam_accuracy: float


class TrainedBase(NamedTuple):
    """`tokens`: trained on, padding excluded. Accuracies: validation items, with the stored (bf16) weights."""

    path: Path
    sha256: str
    seconds: float
    tokens: int
    target_accuracy: float
    mc1: float
    exam_accuracy: float


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3 of 2.1M parameters, untrained; this shape trains at about 13,000 tokens/s on two cores."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=192,
            num_hidden_layers=4,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=32,
            intermediate_size=576,
            tie_word_embeddings=True,
            max_position_embeddings=CONTEXT,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _optimizer(model: Qwen3ForCausalLM, schedule: Schedule) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": schedule.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True)


def _token_losses(model: Qwen3ForCausalLM, batch: Batch) -> torch.Tensor:
    """Cross-entropy in nats per position, 0 where ignored. bf16 autocast: twice as fast as fp32 on AVX512-BF16."""
    with torch.autocast("cpu", torch.bfloat16):
        logits_BTV = model(
            input_ids=batch.ids_BT, position_ids=batch.positions_BT, attention_mask=batch.attend_B1TT, use_cache=False
        ).logits
    flat = cross_entropy(logits_BTV.flatten(0, 1).float(), batch.targets_BT.flatten(), reduction="none")
    return flat.view_as(batch.targets_BT)


def _scores(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> tuple[float, float, float]:
    model.eval()
    target = target_accuracy(model, tokenizer, arithmetic("validation", NUM_PROBLEMS_SCORED))
    mc1 = fact_scores(model, tokenizer, facts("validation", NUM_SCORED)).mc1
    right = exam_accuracy(model, tokenizer, exam("validation", NUM_SCORED))
    model.train()
    return target, mc1, right


def _fit(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    schedule: Schedule,
    *,
    steps: int,
    seed: int,
    say: Callable[[str], None],
) -> list[CurvePoint]:
    """The training loop; the model is changed in place."""
    optimizer, curve, tokens, began = _optimizer(model, schedule), [], 0, time.monotonic()
    sums, counts = torch.zeros(len(DOMAINS)), torch.zeros(len(DOMAINS))
    packed = batches(documents(seed), tokenizer, num_rows=schedule.num_rows, length=schedule.row_length)
    for step, batch in enumerate(islice(packed, steps)):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step, steps)
        losses_BT = _token_losses(model, batch)
        supervise_BT = batch.targets_BT != IGNORED
        (losses_BT.sum() / supervise_BT.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.max_norm)
        optimizer.step()
        optimizer.zero_grad()
        tokens += int(supervise_BT.sum())
        sums.index_add_(0, batch.domains_BT[supervise_BT], losses_BT.detach()[supervise_BT])
        counts += torch.bincount(batch.domains_BT[supervise_BT], minlength=len(DOMAINS))
        if (step + 1) % schedule.score_every == 0 or step + 1 == steps:
            seconds, means = time.monotonic() - began, CurveLosses(*(sums / counts).tolist())
            curve.append(CurvePoint(step + 1, tokens, seconds, *means, *_scores(model, tokenizer)))
            say(" ".join(f"{k}={v:.4g}" for k, v in curve[-1]._asdict().items()))
            sums.zero_()
            counts.zero_()
    return curve


def _write(folder: Path, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> str:
    """Weights as bf16, tokenizer, config. Returns the safetensors' sha256."""
    model.to(torch.bfloat16)  # type: ignore[arg-type]
    model.save_pretrained(folder)
    config_path = folder / "config.json"
    config = json.loads(config_path.read_text())
    config["dtype"] = "float32"  # stored as bf16 to be small; loaded as fp32 unless the caller asks otherwise
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    tokenizer.save_pretrained(folder)
    weights = folder / "model.safetensors"
    weights.chmod(0o644)  # safetensors makes it readable by its owner alone
    return hashlib.sha256(weights.read_bytes()).hexdigest()


def check_replaces(folder: Path, *, steps: int, seed: int, threads: int) -> None:
    """A folder that is replaced holds nothing, or a base made in the same way. Raises BadInput."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / CURVE_FILE).exists():
        raise BadInput(
            f"out: {folder} is not empty and contains no embedded base; expected a new or empty folder, or one"
        )
    there = read_json(folder / CURVE_FILE, dict[str, Any])
    for name, value in (("steps", steps), ("seed", seed), ("threads", threads)):
        if there.get(name) != value:
            raise BadInput(
                f"out: {folder} holds a base with different {name} ({there.get(name)} there, {value} now); expected the same; "
                "give --out another folder, or --overwrite to replace it"
            )


def _replace_folder(new: Path, old: Path) -> None:
    """Swap folders by renames, so that `old` is never half-written."""
    aside = old.with_name(old.name + ".old")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        os.rename(old, aside)
    os.rename(new, old)
    shutil.rmtree(aside, ignore_errors=True)


def train_base(
    *,
    out_dir: Path,
    steps: int = DEFAULT_STEPS,
    seed: int = DEFAULT_SEED,
    threads: int = 2,
    say: Callable[[str], None] = print,
) -> TrainedBase:
    """Train the base from nothing and write it to `out_dir`, with its curve in training.json."""
    if steps < 1 or threads < 1:
        raise ValueError(f"steps, threads: got {steps}, {threads}; expected both >= 1")
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    began, schedule = time.monotonic(), Schedule()
    tokenizer = train_tokenizer(doc.text for doc in islice(documents(TOKENIZER_SEED), TOKENIZER_DOCUMENTS))
    model = new_model(tokenizer)
    curve = _fit(model, tokenizer, schedule, steps=steps, seed=seed, say=say)
    fresh = out_dir.with_name(out_dir.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    sha256 = _write(fresh, model, tokenizer)
    stored = Qwen3ForCausalLM.from_pretrained(fresh, dtype=torch.float32)
    seconds, final = time.monotonic() - began, _scores(stored, tokenizer)
    report = {
        "seed": seed, "steps": steps, "threads": threads, "seconds": round(seconds, 1), "sha256": sha256,
        "schedule": asdict(schedule), "curve": [point._asdict() for point in curve],
    }  # fmt: skip
    (fresh / CURVE_FILE).write_text(json.dumps(report, indent=1) + "\n")
    _replace_folder(fresh, out_dir)
    return TrainedBase(out_dir, sha256, seconds, curve[-1].tokens, *final)
