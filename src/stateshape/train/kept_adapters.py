"""The adapter at chosen steps of a run, each in a folder that peft loads as it is: checkpoint-<step>/.

A folder appears whole: it is written beside and then renamed. Does not know what the adapters are kept for.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stateshape.core import layout

if TYPE_CHECKING:
    from stateshape.policy.policy import Policy

TEMPORARY = ".{}.tmp"


Spacing = Literal["doubling", "even", "kl"]
CANDIDATES = 5  # per point, where points are chosen among them by KL
FINE = 20  # the same, where points are to enclose a distance


def kept_steps(num_steps: int, points: int, spacing: Spacing = "doubling", *, per_point: int = CANDIDATES) -> list[int]:
    """Different numbers of completed steps, in order; the last is num_steps. At most `points`, but for kl.

    doubling: each is half of the next one. even: all are equally far apart, up to rounding. kl: candidates, so many per
    point at most: every step, or each the same multiple of the one before, up to rounding; how far they are is not known yet.
    """
    if spacing == "kl":
        most = per_point * points
        if num_steps <= most:
            return list(range(1, num_steps + 1))
        return sorted({round(num_steps ** (i / most)) for i in range(1, most)} | {num_steps})
    if spacing == "even":
        return sorted({-(-num_steps * i // points) for i in range(1, points + 1)})
    return sorted({-(-num_steps // 2**i) for i in range(min(points, num_steps.bit_length() + 1))})


def keep_adapter(folder: Path, learner: Policy, step: int) -> None:
    """The learner's adapter after `step` completed steps."""
    assert learner.adapter is not None
    place = layout.kept_checkpoint(folder, step)
    temporary = place.with_name(TEMPORARY.format(place.name))
    try:
        learner.weights.save_adapter(learner.adapter, temporary)
        temporary.rename(place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def forget_kept_after(folder: Path, num_done: int) -> None:
    """Deletes what a killed run kept after `num_done` completed steps, and what it left half written."""
    for path in folder.glob(TEMPORARY.format("checkpoint-*")):
        if path.is_dir():
            shutil.rmtree(path)
    for step, path in layout.kept_checkpoints(folder).items():
        if step > num_done:
            shutil.rmtree(path)
