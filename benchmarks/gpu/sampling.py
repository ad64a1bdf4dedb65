"""Tokens/s of the local sampler and of transformers' generate, with floors and the largest causes of the gap to them.

GSM8K prompts of mixed length (arithmetic for the embedded base), group 8, no stop texts: rows end at EOS or at their
length. In order of worth: ours on the largest model, generate with a dynamic cache, ours on the smaller models. What has to
be compiled first, which may take minutes, is a stage of its own, with a time limit for each: ours plain, generate with a
static cache, ours with compiled layers. Causes are those of the first new tokens, taken for all.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch

from benchmarks.common import DEVICE, Measured, Row, load_policy, model_label, train_task
from benchmarks.gpu.causes import floors, largest_causes, profiled, rates, seconds_by_kind
from benchmarks.gpu.record import Job
from benchmarks.gpu.within import within
from benchmarks.limits import Shape, decode_bytes, forward_flops, shape_of
from benchmarks.sampling import Generate, Ours
from benchmarks.trl_peer import peer_model
from stateshape.policy.policy import Policy
from stateshape.sampling.settings import SamplingSettings

REPEATS = 2  # after one that warms up; the faster one counts
CASE_S = 75  # of what is compiled, before the next one begins
PROFILED_TOKENS = 32  # new ones: of 256, a profiler's events take longer than what they are about
Engine = Callable[[int], Measured]


def run(job: Job) -> None:
    take_all(job, cases(job), seconds=math.inf)


def static(job: Job) -> None:
    take_all(job, compiled_cases(job, is_gpu=DEVICE.type == "cuda"), seconds=CASE_S)


def take_all(job: Job, cases: Iterable[tuple[str, str, int]], *, seconds: float) -> None:
    """`seconds`: the limit of one."""
    for name, model, rows in cases:
        row: Row = {"engine": name, "model": model_label(model), "rows": rows, "new_tokens": job.scale.new_tokens}
        try:
            with within(seconds):
                row |= measured(job, name, model, rows, has_causes=math.isinf(seconds))
        except Exception as error:  # a static cache may fail to compile here; the others still count
            row |= {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        job.record.add(row | {"group": job.scale.group})
        free()


def cases(job: Job) -> Iterator[tuple[str, str, int]]:
    """(engine, model, rows), in order of worth."""
    largest, *smaller = job.models
    all_rows = job.scale.sampling_rows
    for name in ("ours", "generate, dynamic cache"):
        yield from ((name, largest, rows) for rows in all_rows)
    for model in smaller:
        yield "ours", model, all_rows[-1]


def compiled_cases(job: Job, *, is_gpu: bool) -> Iterator[tuple[str, str, int]]:
    """The number of rows that the dynamic cache is measured at comes first, with all engines."""
    for rows in job.scale.sampling_rows:
        yield "ours", job.models[0], rows
        yield "generate, static cache", job.models[0], rows
        if is_gpu:  # on a CPU compiling takes a minute and brings nothing
            yield "ours, compiled", job.models[0], rows


def measured(job: Job, name: str, model: str, rows: int, *, has_causes: bool) -> Row:
    scale = job.scale
    policy, task = load_policy(model, is_compiled=name == "ours, compiled"), train_task(model)
    # in order of length, as Generate puts them: a measurement's lengths belong to its prompts
    prompts = sorted((policy.encode_prompt(item.prompt) for item in task.train[: rows // scale.group]), key=len)
    make = partial(engine_of, name, model, policy, prompts, scale.group, rows)
    engine, short = make(scale.new_tokens), make(min(PROFILED_TOKENS, scale.new_tokens))
    # a dynamic cache has nothing to record or compile, and takes longest
    first = (short if "dynamic" in name else engine)(-1)
    found = [engine(repeat) for repeat in range(1 if name.startswith("generate") else REPEATS)]
    best = min(found, key=lambda one: one.seconds / one.tokens)
    lengths = [len(prompt) for prompt in prompts for _ in range(scale.group)]
    bounds = bounds_of(shape_of(policy), lengths, best, job)
    floor_s = max(bounds["memory_floor_s"], bounds["compute_floor_s"])
    causes = causes_of(short, best, floor_s) if has_causes and name.startswith("ours") else []
    return {
        "tokens_per_s": best.tokens / best.seconds,
        "tokens": best.tokens,
        "seconds": best.seconds,
        "first_seconds": first.seconds,  # with recording or compiling
        "decode_step_s": best.seconds / max(best.lengths),
        "share_of_bandwidth_limit": bounds["memory_floor_s"] / best.seconds,
        "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9 if DEVICE.type == "cuda" else None,
        **bounds,
        "largest_causes": causes,
    }


def causes_of(short: Engine, best: Measured, floor_s: float) -> list[Row]:
    """Of ours alone: a profile of generate takes longer than all else here."""
    short(-1)  # which records or compiles for itself
    longer = best.seconds / short(0).seconds
    by_kind = {kind: longer * part for kind, part in seconds_by_kind(profiled(lambda: short(0))).items()}
    return largest_causes(by_kind, seconds=best.seconds, floor_s=floor_s)


def engine_of(
    name: str, model: str, policy: Policy, prompts: list[list[int]], group: int, rows: int, new_tokens: int
) -> Engine:
    if name.startswith("ours"):
        return Ours(policy, prompts, SamplingSettings(max_new_tokens=new_tokens, num_samples=group, batch_rows=rows))
    cache = "static" if "static" in name else "dynamic"
    return Generate(
        peer_model(model), policy, prompts, group=group, new_tokens=new_tokens, batch_rows=rows, cache=cache
    )


def bounds_of(shape: Shape, prompt_lengths: list[int], best: Measured, job: Job) -> Row:
    """Weights and cache are read once per step; every token goes through the model, and the head reads each."""
    found = rates(job.scale.copy_bytes, job.scale.matmul_width)
    whole = [prompt + new for prompt, new in zip(prompt_lengths, best.lengths, strict=True)]
    flops = forward_flops(shape, whole, sum(best.lengths))
    return floors(found, num_bytes=decode_bytes(shape, prompt_lengths, best.lengths), flops=flops)


def free() -> None:
    """Of what the case before held."""
    torch.compiler.reset()
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
