"""A step of on-policy distillation over the full vocabulary beside TRL: 8 prompts x 8 samples, up to 128 new tokens.

The learner samples, a frozen teacher gives its whole next-token distribution at every sampled token, the loss is the
forward KL. Ours: the three choices composed by hand, with the teacher as an adapter on the learner's own weights. TRL
has two trainers for it, and both are timed:

- `DistillationTrainer` (main code base; a head that never holds the full logits): beta 0, one sample a prompt, so
  each prompt stands eight times in its data;
- `GKDTrainer` (experimental, older): lmbda 1, beta 0, full logits of student and teacher.

Both load the teacher as a second model: a plain base without an adapter, which is the cheapest they allow. Rest as in
grpo.py and trl_peer.py. Tried first, the fastest being timed: training micro-batches as in grpo.py (for GKD those
whose logits fit into memory; it also generates by micro-batch), and a static cache for DistillationTrainer.

Memory: a fresh process a side, which imports, loads the base and runs a small forward pass; then the resident size is
noted and the peak's mark is reset; then come adapter, teacher, trainer and one whole step. What the peak adds is the extra
memory over the model (for TRL with its second model). `step_mb` counts from just before the step instead, so without
adapter, trainer and second model. TRL is measured as it was timed, and DistillationTrainer also at the fewest rows tried.

    python -m benchmarks.opd --memory ours|distillation|gkd --model embedded --micro-rows 8      (one such process)
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.common import (
    BARS,
    DEVICE,
    LORA,
    Options,
    Row,
    compared,
    interleave,
    load_policy,
    model_label,
    reset_peak,
    status_mb,
    train_task,
)
from benchmarks.grpo import lengths_of
from benchmarks.our_steps import OurSteps
from benchmarks.rollout_sizes import Sizes, draws, items_of, sizes_of, trial_of
from benchmarks.trl_peer import TrlSide, drained, fastest_side, peer_lora, peer_model, peer_tokenizer, plain_arguments
from stateshape.core.method import Method
from stateshape.core.seeds import generator_for
from stateshape.losses.divergence import Divergence
from stateshape.policy.policy import Policy
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.signals.distribution import TeacherDistribution
from stateshape.states.sampled import LearnerStates
from stateshape.tasks.task import GenerationTask
from stateshape.train.settings import TrainSettings

Setting = tuple[int, str | None]  # rows of a training micro-batch, cache implementation
GKD_LOGIT_COPIES = 12  # student, teacher, their log-softmaxes, the divergence and gradients, held at once
GKD_BYTES = 60e9 if DEVICE.type == "cuda" else 8e9  # what those may take


def teacher_on(base: Policy) -> Policy:
    """A frozen adapter that says something else than the base."""
    base.weights.add_adapter("teacher", LORA, seed=7)
    generator = generator_for(7, "fill")
    state = {
        key: 0.02 * torch.randn(value.shape, generator=generator).to(value) if "lora_B" in key else value
        for key, value in base.weights.adapter_state("teacher").items()
    }
    base.weights.set_adapter_state("teacher", state)
    return Policy(base.weights, "teacher")


def build(task: GenerationTask, sizes: Sizes, teacher: Policy) -> Method:
    return Method(
        states=LearnerStates(
            items={item.item_id: item for item in task.train},
            sampler=LocalSampler(),
            settings=SamplingSettings(max_new_tokens=sizes.new_tokens, num_samples=sizes.group),
        ),
        signal=TeacherDistribution(teacher=teacher, positions="all"),
        loss=Divergence(direction="forward"),
    )


def our_side(base: Policy, task: GenerationTask, sizes: Sizes) -> OurSteps:
    teacher = teacher_on(base)
    return OurSteps(base, partial(build, task, sizes, teacher), partial(draws, task, sizes), TrainSettings())


def prompts_of(task: GenerationTask, sizes: Sizes) -> list[str]:
    return [item.prompt for item in items_of(task, sizes) for _ in range(sizes.group)]


def common_parts(student: Any, model: str, task: GenerationTask, sizes: Sizes, tokenizer: Any) -> dict[str, Any]:
    """What both trainers are made of: student, teacher, prompts, tokenizer and adapter."""
    from datasets import Dataset

    return {
        "model": student,
        "teacher_model": peer_model(model),
        "train_dataset": Dataset.from_dict({"prompt": prompts_of(task, sizes)}),
        "processing_class": tokenizer,
        "peft_config": peer_lora(),
    }


def common_arguments(sizes: Sizes, micro_rows: int) -> dict[str, Any]:
    """Forward KL (beta 0) of what the student samples at temperature 1."""
    return {
        **plain_arguments(rows=sizes.rows, micro_rows=micro_rows, steps=sizes.steps),
        "temperature": 1.0,
        "beta": 0.0,
    }


def distillation_side(student: Any, model: str, task: GenerationTask, sizes: Sizes, setting: Setting) -> TrlSide:
    from trl import DistillationConfig, DistillationTrainer

    micro_rows, cache = setting
    tokenizer = peer_tokenizer(model)
    trainer = DistillationTrainer(
        args=DistillationConfig(
            **common_arguments(sizes, micro_rows),
            max_completion_length=sizes.new_tokens,
            top_k=0,
            top_p=1.0,
            shuffle_dataset=False,
            cache_implementation=cache,
        ),
        **common_parts(student, model, task, sizes, tokenizer),
    )
    prompt_tokens = sum(len(ids) for ids in tokenizer(prompts_of(task, sizes))["input_ids"])
    # TRL counts prompts and completions, from 0 in every train()
    return TrlSide(trainer, lambda: int(trainer.state.num_input_tokens_seen) - prompt_tokens)


def gkd_side(student: Any, model: str, task: GenerationTask, sizes: Sizes, setting: Setting) -> TrlSide:
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    tokenizer = peer_tokenizer(model)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token

    def collate(rows: list[dict[str, str]]) -> dict[str, torch.Tensor]:
        """Prompts alone: with lmbda 1 the rest of the batch is what the student writes."""
        batch = tokenizer([row["prompt"] for row in rows], return_tensors="pt", padding=True)
        return {
            "prompts": batch["input_ids"],
            "prompt_attention_mask": batch["attention_mask"],
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
            "labels": batch["input_ids"],
        }

    trainer = GKDTrainer(
        args=GKDConfig(
            **common_arguments(sizes, setting[0]),
            max_new_tokens=sizes.new_tokens,
            lmbda=1.0,
            train_sampling_strategy="sequential",
        ),
        data_collator=collate,
        **common_parts(student, model, task, sizes, tokenizer),
    )
    lengths: list[int] = []
    generate = trainer.generate_on_policy_outputs

    def counted(*args: Any) -> Any:
        written = generate(*args)
        lengths.append(int((written[2] != -100).sum()))
        return written

    setattr(trainer, "generate_on_policy_outputs", counted)  # noqa: B010 (mypy takes it for a method)
    return TrlSide(trainer, partial(drained, lengths))


SIDES: dict[str, Callable[..., TrlSide]] = {"distillation": distillation_side, "gkd": gkd_side}
PEERS = {"distillation": "trl DistillationTrainer", "gkd": "trl GKDTrainer"}


def settings_of(kind: str, policy: Policy, task: GenerationTask, sizes: Sizes) -> dict[str, Setting]:
    """What is tried of a trainer."""
    if kind == "distillation":
        named: dict[str, Setting] = {f"micro-batches of {n}, dynamic cache": (n, None) for n in sizes.micro_rows}
        return named | {f"micro-batches of {sizes.micro_rows[-1]}, static cache": (sizes.micro_rows[-1], "static")}
    width = max(len(policy.encode_prompt(item.prompt)) for item in items_of(task, sizes)) + sizes.new_tokens
    row_bytes = width * policy.head.num_tokens * 4 * GKD_LOGIT_COPIES
    fitting = [n for n in sizes.micro_rows if n * row_bytes < GKD_BYTES] or [sizes.micro_rows[-1]]
    return {f"micro-batches of {n}, dynamic cache": (n, None) for n in fitting}


def run(model: str, options: Options = Options()) -> list[Row]:  # noqa: B008
    sizes, task, base = sizes_of(model, options), train_task(model), load_policy(model)
    sides: dict[str, Any] = {"ours": our_side(base, task, sizes)}
    chosen: dict[str, tuple[str, Setting, dict[str, float | None]]] = {}
    for kind, make in SIDES.items():
        settings = settings_of(kind, base, task, sizes)
        trial = trial_of(model, sizes)

        def attempt(setting: Setting, make: Callable[..., TrlSide] = make, trial: Sizes = trial) -> TrlSide:
            return make(peer_model(model), model, task, trial, setting)

        name, tried = fastest_side(model, settings, attempt)
        chosen[kind] = (name, settings[name], tried)
        sides[kind] = make(peer_model(model), model, task, sizes, settings[name])
    measured = interleave(sides, repeats=options.num_repeats(3 if model == "embedded" else 2))
    rows = []
    for kind, (name, _, tried) in chosen.items():
        label = "opd" if kind == "distillation" else "opd_gkd"
        row = compared(label, model, measured["ours"], measured[kind], peer=PEERS[kind], peer_settings=name)
        rows.append(row | lengths_of(row, sizes) | {"peer_tried_seconds": tried})
    if DEVICE.type == "cuda":  # each row has its extra_peak_gb
        return rows
    return rows + memory_rows(model, options, {kind: setting[0] for kind, (_, setting, _) in chosen.items()})


# Memory


def memory_rows(model: str, options: Options, micro_rows: dict[str, int]) -> list[Row]:
    """The extra memory of each side as it was timed, and of DistillationTrainer at its smallest micro-batch."""
    ours = memory_in_fresh_process("ours", model, options, 0)
    smallest = sizes_of(model, options).micro_rows[-1]
    cases = [("opd_memory", "distillation", micro_rows["distillation"]), ("opd_memory", "distillation", smallest)]
    cases.append(("opd_memory_gkd", "gkd", micro_rows["gkd"]))
    rows = []
    for label, kind, size in dict.fromkeys(cases):
        peer = memory_in_fresh_process(kind, model, options, size)
        rows.append(
            {
                "name": label,
                "model": model_label(model),
                "unit": "MB",
                "ours_seconds": None,
                "peer_seconds": None,
                "ratio": peer["extra_mb"] / ours["extra_mb"],
                "bar": BARS["opd_memory"],
                "peer": f"{PEERS[kind]}, {size} rows",
                **{f"ours_{key}": value for key, value in ours.items()},
                **{f"peer_{key}": value for key, value in peer.items()},
                "peer_micro_rows": size,
            }
        )
    return rows


def memory_in_fresh_process(kind: str, model: str, options: Options, micro_rows: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.opd", "--memory", kind, "--model", model]
    command += ["--micro-rows", str(micro_rows), "--threads", str(torch.get_num_threads())]
    told = subprocess.run(
        [*command, *(["--small"] if options.is_small else [])], capture_output=True, text=True, check=False
    )
    if told.returncode != 0:
        raise RuntimeError(f"{kind}: the memory process ended with {told.returncode}: {told.stderr[-2000:]}")
    return json.loads(told.stdout.splitlines()[-1])


def measure_memory(kind: str, model: str, options: Options, micro_rows: int) -> dict[str, float]:
    """One step in this process, which should be fresh."""
    for module in ("datasets", "trl.trainer.distillation_trainer", "trl.trainer.sft_trainer"):
        importlib.import_module(module)  # so that no side's memory holds its libraries' code

    sizes = replace(sizes_of(model, options), steps=1)
    task = train_task(model)
    base = load_policy(model) if kind == "ours" else peer_model(model)
    network = base.weights.model if isinstance(base, Policy) else base
    with torch.no_grad():
        network(input_ids=torch.arange(8)[None])
        sum(float(parameter.sum()) for parameter in network.parameters())  # a mapped file is resident once it was read
    model_mb = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters()) / 1e6
    reset_peak()
    loaded = status_mb("VmRSS")
    if isinstance(base, Policy):
        side: Any = our_side(base, task, sizes)
    else:
        side = SIDES[kind](base, model, task, sizes, (micro_rows, None))
        sum(float(parameter.sum()) for parameter in side.trainer.teacher_model.parameters())
    ready = status_mb("VmRSS")
    setup_peak = status_mb("VmHWM")
    reset_peak()
    measured = side(0)
    seen_gb = side.peak_gb if isinstance(side, OurSteps) else 0.0
    peak = max(status_mb("VmHWM"), seen_gb * 1e3)
    return {
        "extra_mb": max(peak, setup_peak) - loaded,
        "step_mb": peak - ready,
        "loaded_mb": loaded,
        "model_mb": model_mb,
        "sampled_tokens": measured.tokens,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="One memory measurement; see the module's docstring.")
    parser.add_argument("--memory", choices=["ours", *SIDES], required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--micro-rows", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    options = Options(is_small=chosen.small)
    print(json.dumps(measure_memory(chosen.memory, chosen.model, options, chosen.micro_rows)))


if __name__ == "__main__":
    main()
