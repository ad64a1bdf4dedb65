"""The same GRPO and OPD steps as benchmarks.run takes, beside TRL's GRPOTrainer, DistillationTrainer and GKDTrainer.

Needs trl and datasets. Floors are for both sides: the weights are read once per decoding step and three times per training
step; operations are those of our rows, at the length of GSM8K's prompts. What our side's gap is made of is in the sampling and
training stages.
"""

from __future__ import annotations

import importlib.util

from benchmarks.common import Options, Row, load_policy
from benchmarks.gpu.causes import floors, rates
from benchmarks.gpu.record import Job
from benchmarks.limits import Shape, forward_flops, shape_of, training_flops
from benchmarks.rollout_sizes import Sizes, sizes_of

PROMPT_TOKENS = 60  # of a GSM8K question, about


def run(job: Job) -> None:
    if missing := [name for name in ("trl", "datasets") if importlib.util.find_spec(name) is None]:
        raise RuntimeError(f"{', '.join(missing)} is not installed here; pack with --peers")
    from benchmarks import grpo, opd

    options = Options(repeats=1, is_small=job.is_toy)
    model = job.models[0]
    sizes, shape = sizes_of(model, options), shape_of(load_policy(model))
    for side in (grpo, opd):
        for row in side.run(model, options):
            job.record.add(row | {"seconds": row["ours_seconds"]} | bounds_of(row, sizes, shape, job))


def bounds_of(row: Row, sizes: Sizes, shape: Shape, job: Job) -> Row:
    if row["ours_seconds"] is None:  # a row about memory
        return {}
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
