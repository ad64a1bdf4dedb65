"""How many threads a process takes that works beside others. Knows no run. Torch-free until threads are taken."""

from __future__ import annotations

import os

from threadpoolctl import threadpool_limits

VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # of torch, of NumPy and SciPy, of either


def take_threads(number: int) -> None:
    """At most so many in each library: torch, NumPy and SciPy have threads of their own and would each take all cores."""
    import torch

    torch.set_num_threads(number)
    for name in VARIABLES:  # of libraries that are loaded later
        asked = os.environ.get(name, "")
        os.environ[name] = str(min(number, int(asked)) if asked.isdecimal() else number)
    threadpool_limits(number)  # of those that are here
