"""A LoRA step of SFT, of OPD over the full vocabulary and of GRPO: tokens/s, MFU, peak memory, floors, causes.

MFU: operations of the training phase (for OPD with the teacher's pass) over its seconds and the measured matmul rate. They
are the package's count of what is computed, shared prompts once; `work_unshared` is what benchmarks/limits.py counts for the
same rows one by one, over that. The memory floor: weights read once forward and once backward by each chunk.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.common import DEVICE, Row, load_policy, make_learner, model_label, optimiser_of, timed, train_task
from benchmarks.gpu.causes import floors, largest_causes, profiled, rates, seconds_by_kind
from benchmarks.gpu.record import Job
from benchmarks.gpu.sampling import free
from benchmarks.gpu.stages import Scale
from benchmarks.limits import Shape, forward_flops, shape_of, training_flops
from benchmarks.opd import build as build_opd
from benchmarks.opd import teacher_on
from benchmarks.our_steps import peak_of
from benchmarks.rollout_sizes import Sizes
from stateshape.core.method import Draw, Method, terms_of
from stateshape.policy.policy import Policy
from stateshape.recipes.grpo import GRPO
from stateshape.recipes.recipe import Parts
from stateshape.recipes.sft import SFT
from stateshape.sampling.local import LocalSampler
from stateshape.tasks.task import GenerationTask
from stateshape.train.settings import TrainSettings
from stateshape.train.step import StepResult, accumulate, chunk_tokens, draw_states, read_signals, train_step

LR = 1e-6
Build = Callable[[Policy, GenerationTask, Scale], Method]


def run(job: Job) -> None:
    """Each method on a fresh base, so that each has its own peak memory. Compiled layers last: they take a minute."""
    plain = [(model, name, False) for model in job.models for name in METHODS]
    compiled = [(job.models[0], name, True) for name in METHODS] if DEVICE.type == "cuda" else []
    for model, name, is_compiled in itertools.chain(plain, compiled):
        row: Row = {"method": name, "model": model_label(model), "is_compiled": is_compiled}
        try:
            row |= measured(job, name, model, is_compiled=is_compiled)
        except Exception as error:  # out of memory, or nothing to compile with: the others still count
            row |= {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        job.record.add(row)
        free()


def measured(job: Job, name: str, model: str, *, is_compiled: bool) -> Row:
    scale, task, base = job.scale, train_task(model), load_policy(model, is_compiled=is_compiled)
    method, learner = METHODS[name](base, task, scale), make_learner(base)
    optimiser, shape = optimiser_of(learner, LR), shape_of(learner)
    num_prompts = scale.training_prompts * (scale.group if name == "sft" else 1)

    def draw_of(step: int) -> Draw:
        start = (step + 1) * num_prompts
        ids = tuple(item.item_id for item in task.train[start : start + num_prompts])
        return Draw(item_ids=ids, step=step + 1, seed=0)

    at_rest, results, seconds = 0.0, [], []
    for step in range(-1, scale.training_steps):  # step -1 warms up
        if DEVICE.type == "cuda":
            at_rest = torch.cuda.memory_allocated() / 1e9
        took, result = timed(partial(train_step, method, learner, optimiser, draw_of(step), TrainSettings()))
        if step >= 0:
            results.append(result)
            seconds.append(took)
    causes = causes_of(method, learner, draw_of(scale.training_steps - 1), results, shape, job)
    return numbers_of(name, results, seconds, shape, at_rest=at_rest, job=job) | causes


def numbers_of(
    name: str, results: list[StepResult], seconds: list[float], shape: Shape, *, at_rest: float, job: Job
) -> Row:
    lengths = [length for result in results for length in result.signals[""].states.lengths_B.tolist()]
    supervised = sum(result.num_supervised for result in results)
    phases = {key: sum(result.seconds[key] for result in results) for key in results[0].seconds}
    costly = ("signal", "training") if name == "opd" else ("training",)
    flops = sum(result.costs[phase].flops or 0 for result in results for phase in costly)
    spent = sum(phases[phase] for phase in costly)
    unshared = training_flops(shape, lengths, supervised)
    if name == "opd":
        unshared += forward_flops(shape, lengths, supervised)
    used = max(map(peak_of, results)) if DEVICE.type == "cuda" else None
    peak = rates(job.scale.copy_bytes, job.scale.matmul_width).flops_per_s
    return {
        "rows_per_step": len(lengths) // len(results),
        "tokens": sum(lengths),
        "supervised_tokens": supervised,
        "seconds": sum(seconds),
        "seconds_per_step": sum(seconds) / len(seconds),
        "tokens_per_s": sum(lengths) / sum(seconds),
        "training_phase_tokens_per_s": sum(lengths) / spent,
        "mfu_of_training_phase": flops / spent / peak,
        "work_unshared": unshared / flops,
        "seconds_by_phase": phases,
        "peak_memory_gb": used,
        "extra_memory_gb": None if used is None else used - at_rest,
    }


def causes_of(method: Method, learner: Policy, draw: Draw, results: list[StepResult], shape: Shape, job: Job) -> Row:
    """Of one step's training phase: sampling has a stage of its own."""
    terms = terms_of(method)
    drawn = draw_states(terms, learner, draw)
    signals = read_signals(terms, learner, drawn)
    tokens = chunk_tokens(learner, TrainSettings())

    def work() -> None:
        for name, signal in signals.items():
            accumulate(terms[name], learner, signal, tokens)
        for parameter in learner.parameters():
            parameter.grad = None

    by_kind = seconds_by_kind(profiled(work))
    cost = results[-1].costs["training"]
    chunks = max(1, -(-cost.tokens // tokens))
    read = 2 * chunks * (shape.body + shape.head) * shape.bytes_each
    bounds = floors(rates(job.scale.copy_bytes, job.scale.matmul_width), num_bytes=read, flops=cost.flops)
    floor_s = max(bounds["memory_floor_s"], bounds["compute_floor_s"])
    causes = largest_causes(by_kind, seconds=cost.seconds, floor_s=floor_s)
    return {"training_phase_s": cost.seconds, **bounds, "largest_causes": causes}


def sft_method(base: Policy, task: GenerationTask, scale: Scale) -> Method:
    return SFT().build(Parts(task=task, sampler=LocalSampler(), teacher=lambda source: base))


def opd_method(base: Policy, task: GenerationTask, scale: Scale) -> Method:
    sizes = Sizes(prompts=scale.training_prompts, group=scale.group, new_tokens=scale.new_tokens)
    return build_opd(task, sizes, teacher_on(base))


def grpo_method(base: Policy, task: GenerationTask, scale: Scale) -> Method:
    recipe = GRPO(group=scale.group, rollout_tokens=scale.new_tokens)
    return recipe.build(Parts(task=task, sampler=LocalSampler(), teacher=lambda source: base))


METHODS: dict[str, Build] = {"sft": sft_method, "opd": opd_method, "grpo": grpo_method}
