"""A recorded step's stand-in: it runs the step again each time. What a recording must give the same numbers as."""

from __future__ import annotations

from collections.abc import Callable


class Steps:
    """In the place of a CUDA graph."""

    def __init__(self, step: Callable[[], None]) -> None:
        self.replay = step


class Again:
    """In the place of sampling.decode.Recorder: the same buffers and rounded shapes, nothing recorded."""

    def __call__(self, step: Callable[[], None]) -> Steps:
        return Steps(step)
