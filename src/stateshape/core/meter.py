"""Where time and memory go: phases of work, what was computed in them, and the most memory that was held.

A phase is opened around work (`with meter.phase("sampling", costs): ...`); what runs inside counts its tokens and FLOPs;
when it ends, its cost is added to the caller's table. Always on: a phase costs about 0.1 ms, a count next to nothing.

CPU memory is the process's resident size. Its high-water mark is set back when a phase begins (Linux: 5 written to
/proc/self/clear_refs, proc(5)), which also lowers getrusage's ru_maxrss; where that can't be done, a phase is given the
process's mark so far. Does not know what the phases are, nor what an operation costs.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from stateshape.core.records import PhaseCost

CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
RUSAGE_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss's unit


class Meter:
    """One for all weights of a run: learner, teacher and base count on the same."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.is_open = False
        self._tokens = 0
        self._flops: int | None = 0
        self.num_tokens = 0  # through the models since the beginning, in and out of phases

    @contextmanager
    def phase(self, name: str, costs: dict[str, PhaseCost]) -> Iterator[None]:
        """Adds what the block costs to costs[name], also where it ends in an exception. Phases do not nest."""
        assert not self.is_open, f"phase {name} was opened inside another one, whose cost would be counted twice"
        self.is_open, self._tokens, self._flops = True, 0, 0
        reset_peak_memory(self.device)
        began = time.perf_counter()
        try:
            yield
        finally:
            synchronise(self.device)
            cost = PhaseCost(
                seconds=time.perf_counter() - began,
                tokens=self._tokens,
                flops=self._flops,
                peak_memory_gb=peak_memory_gb(self.device),
            )
            costs[name] = costs[name].plus(cost) if name in costs else cost
            self.is_open = False

    def count(self, *, tokens: int, flops: int | None) -> None:
        """Work of the open phase, if there is one. flops None: not known, and so is the phase's sum."""
        self.num_tokens += tokens
        self._tokens += tokens
        self._flops = None if flops is None or self._flops is None else self._flops + flops


def synchronise(device: torch.device) -> None:
    """Waits for a GPU to be done: a phase's work must not be timed in the next."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Lets the high-water mark start again from what is held now, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):  # no /proc, or one that may not be written to: the mark is then the process's so far
        CLEAR_REFS.write_text("5", encoding="ascii")


def peak_memory_gb(device: torch.device) -> float:
    """GPU: most memory allocated; CPU: the process's largest resident size; since the last reset, in 10^9 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    with suppress(OSError):  # no /proc
        for line in STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RUSAGE_UNIT / 1e9
