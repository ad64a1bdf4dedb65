"""A time limit for a piece of work in this process: compiling, which nobody knows the length of. Knows no stage."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN_S = 5.0  # where the first one came in a place that drops what is raised


class _Over(BaseException):
    """No Exception: a compiler that goes on without what failed would go on."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises TimeoutError where the work takes longer. For the main thread. Infinity is no limit."""
    if math.isinf(seconds):
        yield
        return

    def end(*_: object) -> None:
        raise _Over

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        yield
    except _Over:
        raise TimeoutError(f"not done after {seconds:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
