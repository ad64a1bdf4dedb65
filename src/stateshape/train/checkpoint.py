"""What a killed run leaves behind: adapter, optimiser state and step, in one file that is replaced whole.

There is no generator state to keep: every random choice is seeded by run, purpose and step.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import NamedTuple

import torch

from stateshape.core.files import BadInput, parse, plain
from stateshape.core.records import PhaseCost
from stateshape.policy.policy import Policy

NAME = "checkpoint.pt"


class Progress(NamedTuple):
    """Where a run stands after `step` completed steps."""

    step: int
    num_supervised: int
    num_sampled: int
    costs: dict[str, PhaseCost]  # of all steps so far, also of those before the run was stopped


def save_checkpoint(folder: Path, policy: Policy, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
    assert policy.adapter is not None
    temporary = folder / f".{NAME}.{os.getpid()}.tmp"
    state = {
        "adapter": policy.weights.adapter_state(policy.adapter),
        "optimiser": optimiser.state_dict(),
        "progress": plain(progress._asdict()),
    }
    try:
        torch.save(state, temporary)
        temporary.replace(folder / NAME)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(folder: Path, policy: Policy, optimiser: torch.optim.Optimizer) -> Progress | None:
    """Restores the newest checkpoint, if there is one. Tensors only: no code in the file is run."""
    path = folder / NAME
    if not path.exists():
        return None
    assert policy.adapter is not None
    try:
        state = torch.load(path, map_location=policy.device, weights_only=True)
        policy.weights.set_adapter_state(policy.adapter, state["adapter"])
        optimiser.load_state_dict(state["optimiser"])
        costs = parse(state["progress"].pop("costs"), dict[str, PhaseCost], where="costs")
        return Progress(**state["progress"], costs=costs)
    except (RuntimeError, ValueError, KeyError, TypeError, EOFError, OSError, pickle.UnpicklingError) as error:
        # torch's text on unpickling advises to run the file's code: not ours
        reason = "unreadable" if isinstance(error, pickle.UnpicklingError) else (str(error).splitlines() or [""])[0]
        raise BadInput(
            f"{path}: not a checkpoint of this run ({reason}); delete the file to start the run again"
        ) from None
