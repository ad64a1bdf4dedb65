"""What a killed run leaves behind: adapter, optimiser state and step, in one file that appears whole.

Written after every step, so it is made cheap: each kind of number (parameters, first moments, ...) as one vector, and a
new name each time, because a file system may wait for the disk when a file is renamed over another one.

There is no generator state to keep: every random choice is seeded by run, purpose and step.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from stateshape.core import layout
from stateshape.core.files import BadInput, parse, plain, whole
from stateshape.core.records import PhaseCost
from stateshape.policy.policy import Policy


class Progress(NamedTuple):
    """Where a run stands after `step` completed steps."""

    step: int
    num_supervised: int
    num_sampled: int
    costs: dict[str, PhaseCost]  # of all steps so far, also of those before the run was stopped


def save_checkpoint(
    folder: Path,
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    progress: Progress,
    carried: Sequence[str] = (),
) -> None:
    """`carried`: further adapters that change while the run trains, such as a moving average of the learner's."""
    parameters = policy.parameters()
    states = [optimiser.state[parameter] for parameter in parameters]
    example: dict[str, Tensor] = next((one for one in states if one), {})
    pairs = list(zip(states, parameters, strict=True))
    state = {
        "parameters": as_vector(parameters),
        "optimiser": {
            name: as_vector([untouched(value, parameter) if name not in one else one[name] for one, parameter in pairs])
            for name, value in example.items()
        },
        "carried": {name: policy.weights.adapter_state(name) for name in carried},
        "progress": plain(progress._asdict()),
    }
    path = folder / layout.CHECKPOINT.replace("*", str(progress.step))
    with whole(path) as temporary:
        torch.save(state, temporary)
    for older in set(folder.glob(layout.CHECKPOINT)) - {path}:
        older.unlink()


def load_checkpoint(folder: Path, policy: Policy, optimiser: torch.optim.Optimizer) -> Progress | None:
    """Restores the newest checkpoint, if there is one. Tensors only: no code in the file is run."""
    path = newest_checkpoint(folder)
    if path is None:
        return None
    parameters = policy.parameters()
    try:
        state = torch.load(path, map_location=policy.device, weights_only=True)
        with torch.no_grad():
            for parameter, value in zip(parameters, from_vector(state["parameters"], parameters), strict=True):
                parameter.copy_(value)
        for name, vector in state["optimiser"].items():
            is_single = vector.numel() == len(parameters)  # one number a tensor: Adam's step count
            values = vector if is_single else from_vector(vector, parameters)
            for parameter, value in zip(parameters, values, strict=True):
                optimiser.state[parameter][name] = value.clone()
        for name, values in state["carried"].items():
            if not policy.weights.has_adapter(name):
                policy.weights.copy_adapter(policy.adapter or "", name)
            policy.weights.set_adapter_state(name, values)
        costs = parse(state["progress"].pop("costs"), dict[str, PhaseCost], where="costs")
        return Progress(**state["progress"], costs=costs)
    except Exception as error:  # a damaged file makes the unpickler raise anything
        # torch's text on unpickling advises to run the file's code: not ours
        reason = (
            "unreadable" if isinstance(error, pickle.UnpicklingError) else (str(error).splitlines() or [""])[0][:200]
        )
        raise BadInput(
            f"{path}: not a checkpoint of this run ({reason}); delete the file to start the run again"
        ) from None


def untouched(example: Tensor, parameter: Tensor) -> Tensor:
    """The optimiser's number for a parameter that has had no gradient yet. `example`: another one's."""
    return torch.zeros_like(example if example.ndim == 0 else parameter)


def newest_checkpoint(folder: Path) -> Path | None:
    return max(folder.glob(layout.CHECKPOINT), key=lambda path: (len(path.name), path.name), default=None)


def remove_checkpoints(folder: Path) -> None:
    for path in folder.glob(layout.CHECKPOINT):
        path.unlink()


def as_vector(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def from_vector(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Raises RuntimeError where the vector is not as long as the tensors together."""
    parts = vector.split([tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]
