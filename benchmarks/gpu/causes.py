"""Floors of a piece of work, and the largest causes of the gap to what was measured.

    memory floor    bytes that must be read or written over a measured copy rate
    compute floor   floating-point operations over a measured rate of matrix products
    gap             measured seconds less the larger floor

The causes come from torch's profiler, which is run on the same work once more: kernels by kind, and the time in which the
device waited (measured seconds less all kernels). The kind that the floor is made of counts with what it takes beyond it.
On a CPU, where the stages are rehearsed, operators are timed instead of kernels. Knows no stage.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch

from benchmarks.common import DEVICE, Row
from benchmarks.limits import copy_bandwidth, matmul_peak
from stateshape.core.records import OperatorCost
from stateshape.train.operators import watched

PRODUCTS, WAITING, OTHER = "matrix products", "the device waits for the host", "other kernels"
# by the first pattern that a kernel's or operator's name contains
KINDS = (
    ("attention", r"flash|fmha|attention|sdpa|mha"),
    (PRODUCTS, r"gemm|gemv|cutlass|cublas|wgmma|\bxmma|nvjet|splitk|aten\.(mm|addmm|bmm|baddbmm|linear)"),
    ("softmax and drawing", r"softmax|scan|cumsum|search|arg_?max|nextafter|log_?softmax"),
    ("copies, indexing, filling", r"memcpy|memset|copy|cat|index|gather|scatter|embedding|fill|nonzero|sort"),
    ("optimiser", r"adam|multi_tensor|foreach"),
    ("norms and elementwise", r"elementwise|vectorized|unrolled|norm|reduce|triton|aten\."),
)
SHOWN = 3


class Rates(NamedTuple):
    """What the device does at best, measured in this process."""

    bytes_per_s: float
    flops_per_s: float


@cache
def rates(copy_bytes: int, matmul_width: int) -> Rates:
    return Rates(copy_bandwidth(copy_bytes), matmul_peak(matmul_width))


def floors(rates: Rates, *, num_bytes: float, flops: float) -> Row:
    return {
        "memory_floor_s": num_bytes / rates.bytes_per_s,
        "compute_floor_s": flops / rates.flops_per_s,
        "copy_rate_gb_per_s": rates.bytes_per_s / 1e9,
        "matmul_rate_tflops": rates.flops_per_s / 1e12,
    }


def kind_of(kernel: str) -> str:
    return next((kind for kind, pattern in KINDS if re.search(pattern, kernel, re.IGNORECASE)), OTHER)


def seconds_by_kind(operators: list[OperatorCost]) -> dict[str, float]:
    """`operators`: the most expensive ones, with their shares of all; what is not among them counts as other kernels."""
    if not operators:
        return {}
    found: dict[str, float] = {}
    for one in operators:
        found[kind_of(one.operator)] = found.get(kind_of(one.operator), 0.0) + one.self_seconds
    total = operators[0].self_seconds / operators[0].share
    found[OTHER] = found.get(OTHER, 0.0) + max(total - sum(found.values()), 0.0)
    return found


def largest_causes(by_kind: dict[str, float], *, seconds: float, floor_s: float) -> list[Row]:
    """The three largest parts of `seconds` beyond the floor. The profiler slows small kernels: read shares."""
    gap = seconds - floor_s
    parts = dict(by_kind)
    parts[PRODUCTS] = max(parts.get(PRODUCTS, 0.0) - floor_s, 0.0)
    parts[WAITING] = max(seconds - sum(by_kind.values()), 0.0)
    largest = sorted(parts.items(), key=lambda part: -part[1])[:SHOWN]
    return [
        {"cause": kind, "seconds": part, "share_of_gap": part / gap if gap > 0 else None}
        for kind, part in largest
        if part > 0
    ]


def profiled(work: Callable[[], Any]) -> list[OperatorCost]:
    return watched(work, torch.device(DEVICE))[1]
