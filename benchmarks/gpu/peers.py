"""The same GRPO and OPD steps as benchmarks.run takes, beside TRL's GRPOTrainer, DistillationTrainer and GKDTrainer.

Needs trl and datasets. The measured sides are other programs: a floor for ours is in the training stage, for the same model.
"""

from __future__ import annotations

import importlib.util

from benchmarks.common import Options
from benchmarks.gpu.record import Job


def run(job: Job) -> None:
    if missing := [name for name in ("trl", "datasets") if importlib.util.find_spec(name) is None]:
        raise RuntimeError(f"{', '.join(missing)} is not installed here; pack with --peers")
    from benchmarks import grpo, opd

    options = Options(repeats=1, is_small=job.is_toy)
    for side in (grpo, opd):
        for row in side.run(job.models[0], options):
            job.record.add(row)
