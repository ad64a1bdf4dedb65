"""How many threads a process takes that works beside others. Knows no run."""

from __future__ import annotations

import os

import torch
from threadpoolctl import threadpool_limits

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def take_threads(number: int) -> None:
    """At most so many in each library: torch, NumPy and SciPy have threads of their own and would each take all cores."""
    torch.set_num_threads(number)
    for name in VARIABLES:  # of libraries that are loaded later
        asked = os.environ.get(name, "")
        os.environ[name] = str(min(number, int(asked)) if asked.isdecimal() else number)
    threadpool_limits(number)  # of those that are here
