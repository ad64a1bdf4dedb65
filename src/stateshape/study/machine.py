"""What the machine can do at most: the rate of a large matrix product, measured. Knows nothing of models."""

from __future__ import annotations

import functools
import time

import torch

from stateshape.core.meter import synchronise

# Each width is tried while time is left: the widest is the fastest, but a type the machine does not know may be slow.
WIDTHS = {"cpu": (256, 512, 1024), "cuda": (2048, 4096, 8192)}
REPEATS = 4  # the best of them: the first is slower, and other work disturbs
BUDGET_S = 0.15  # after which no other width is begun


def peak_gflops(dtype: torch.dtype, device: torch.device) -> float:
    """10^9 FLOPs a second of square products with this type and the threads of now: once a process."""
    return _measured(dtype, device, torch.get_num_threads())


@functools.cache
def _measured(dtype: torch.dtype, device: torch.device, num_threads: int) -> float:
    del num_threads  # part of the key
    generator = torch.Generator(device=device).manual_seed(0)  # not the global one, whose state is nobody's to change
    best, began = 0.0, time.perf_counter()
    for width in WIDTHS.get(device.type, WIDTHS["cpu"]):
        a = torch.randn(width, width, generator=generator, device=device).to(dtype)
        out = torch.empty_like(a)
        for _ in range(REPEATS):
            synchronise(device)
            start = time.perf_counter()
            torch.mm(a, a, out=out)
            synchronise(device)
            best = max(best, 2 * width**3 / (time.perf_counter() - start) / 1e9)
        if time.perf_counter() - began > BUDGET_S:
            break
    if device.type == "cuda":
        del a, out
        torch.cuda.empty_cache()  # the sampler asks the device what is free
    return best
