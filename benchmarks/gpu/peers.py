"""A step of GRPO and of on-policy distillation beside TRL's GRPOTrainer, DistillationTrainer and GKDTrainer, in this order.

Each comparison is a row of its own, written when it is had. One step of each side, after one that warms up; a side is
alone in memory. Settings are those of benchmarks/grpo.py and opd.py but for their number: TRL's trainers take a dynamic
cache and the first of the micro-batches that fits, since trying others takes longer than all else. Their step that warms
up is as wide and a few tokens long. GKDTrainer holds whole logits and samples by micro-batch, so its step is smaller, on
both sides.

TRL's head is written in Triton, which needs a C compiler and Python's headers; where they are missing, it is told that there
is no Triton and takes its own code in torch. A row says which.

Needs trl and datasets. Floors are for both sides: the weights are read once per decoding step and three times per training
step; operations are those of our rows, at the length of GSM8K's prompts. What our side's gap is made of is in the sampling and
training stages.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
import transformers

from benchmarks.common import DEVICE, Measured, Row, compared, load_policy, model_label, train_task
from benchmarks.gpu.causes import floors, rates
from benchmarks.gpu.record import Job
from benchmarks.gpu.sampling import free
from benchmarks.limits import Shape, forward_flops, shape_of, training_flops
from benchmarks.our_steps import OurSteps
from benchmarks.rollout_sizes import Sizes
from benchmarks.trl_peer import TrlSide, peer_model
from stateshape.tasks.task import GenerationTask

PROMPT_TOKENS = 60  # of a GSM8K question, about
WARM_TOKENS = 8
WIDE = Sizes(prompts=16, new_tokens=256, steps=1, micro=(32, 16, 8))  # the rows of the training stage
WITH_LOGITS = Sizes(prompts=4, new_tokens=128, steps=1, micro=(16, 8))
TINY = Sizes(prompts=2, group=4, new_tokens=12, steps=1, micro=(8,))


class Comparison(NamedTuple):
    """`theirs`: of a number of rows in a training micro-batch."""

    name: str
    peer: str
    sizes: Sizes
    ours: Callable[[Sizes], OurSteps]
    theirs: Callable[[Sizes, int], TrlSide]


def run(job: Job) -> None:
    if missing := [name for name in ("trl", "datasets") if importlib.util.find_spec(name) is None]:
        raise RuntimeError(f"{', '.join(missing)} is not installed here; pack with --peers")
    model, failed, has_triton = job.models[0], [], triton_compiles()
    if not has_triton:
        transformers.utils.is_triton_available = lambda: False  # before trl asks, when it is imported
    shape = shape_of(load_policy(model))
    for one in comparisons(model, train_task(model), is_toy=job.is_toy):
        try:
            row = side_by_side(one, model)
            row |= bounds_of(row, one.sizes, shape, job) | {"peer_has_triton": has_triton}
        except Exception as error:  # the others still count
            failed.append(one.name)
            row = {
                "name": one.name,
                "model": model_label(model),
                "error": f"{type(error).__name__}: {str(error)[:300]}",
            }
        job.record.add(row)
        free()
    if failed:
        raise RuntimeError(f"not measured: {', '.join(failed)}")


def triton_compiles() -> bool:
    """Its driver compiles a file of its own when it is first used."""
    if DEVICE.type != "cuda":
        return False
    try:
        driver = importlib.import_module("triton.runtime.driver")
        driver.driver.active.utils.get_device_properties(0)
    except Exception as error:
        print(f"  Triton does not compile here: {type(error).__name__}: {str(error)[:200]}", flush=True)
        return False
    return True


def comparisons(model: str, task: GenerationTask, *, is_toy: bool) -> Iterator[Comparison]:
    from benchmarks import grpo, opd

    def distilled(kind: str, sizes: Sizes, micro_rows: int) -> TrlSide:
        return opd.SIDES[kind](peer_model(model), model, task, sizes, (micro_rows, None))

    def our_distilled(sizes: Sizes) -> OurSteps:
        return opd.our_side(load_policy(model), task, sizes)

    wide, with_logits = (TINY, TINY) if is_toy else (WIDE, WITH_LOGITS)
    yield Comparison(
        "grpo",
        "trl GRPOTrainer",
        wide,
        lambda sizes: grpo.our_side(model, task, sizes),
        lambda sizes, micro_rows: grpo.peer_side(model, task, sizes, (micro_rows, None)),
    )
    yield Comparison("opd", opd.PEERS["distillation"], wide, our_distilled, partial(distilled, "distillation"))
    yield Comparison("opd_gkd", opd.PEERS["gkd"], with_logits, our_distilled, partial(distilled, "gkd"))


def side_by_side(one: Comparison, model: str) -> Row:
    from benchmarks.grpo import lengths_of

    ours = our_step(one)
    theirs, micro_rows = their_step(one)
    settings = f"micro-batches of {micro_rows}, dynamic cache"
    row = compared(one.name, model, [ours], [theirs], peer=one.peer, peer_settings=settings)
    return row | lengths_of(row, one.sizes) | {"seconds": row["ours_seconds"]}


def our_step(one: Comparison) -> Measured:
    side = one.ours(one.sizes)
    side(-1)
    return side(0)


def their_step(one: Comparison) -> tuple[Measured, int]:
    """With the rows of its micro-batches."""
    free()
    largest, *smaller = one.sizes.micro_rows
    one.theirs(replace(one.sizes, new_tokens=WARM_TOKENS), largest)(-1)
    for micro_rows in (largest, *smaller):
        free()
        try:
            return one.theirs(one.sizes, micro_rows)(0), micro_rows
        except torch.OutOfMemoryError as error:
            print(f"  {one.peer}, micro-batches of {micro_rows}: {str(error)[:200]}", flush=True)
    raise RuntimeError(f"{one.peer}: none of the micro-batches of {one.sizes.micro_rows} rows fits")


def bounds_of(row: Row, sizes: Sizes, shape: Shape, job: Job) -> Row:
    weights = (shape.body + shape.head) * shape.bytes_each
    num_rows = sizes.rows * sizes.steps
    new = row["ours_tokens"] / num_rows
    passes = 2 if row["name"].startswith("opd") else 1  # the teacher's is another
    flops = passes * forward_flops(shape, [round(new)] * num_rows, round(row["ours_tokens"]))
    flops += training_flops(shape, [round(new) + PROMPT_TOKENS] * num_rows, round(row["ours_tokens"]))
    return floors(
        rates(job.scale.copy_bytes, job.scale.matmul_width),
        num_bytes=weights * sizes.steps * (new + 3),
        flops=flops,
    )
