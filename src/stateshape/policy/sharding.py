"""A frozen base whose layers are split over the ranks: each keeps 1/W of a layer's numbers, and has the rest while it runs it.

FSDP2 (torch.distributed.fsdp.fully_shard) on each layer of the base; what stands around them, embedding, last norm and head,
stays whole, because losses and the sampler read it past its modules. Adapters are put on afterwards, so that they stay ordinary
tensors, the same on every rank. Before a layer runs, forward or backward, the ranks agree on it (core/in_step.py). Only the
model's own modules take part: our decoder reads stacked weights without calling them. Does not know what a pass is for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from stateshape.core.files import BadInput
from stateshape.core.ranks import Ranks


class ShardedLayer:
    """One layer after fully_shard."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.owner, self.name = next(
            (owner, name)
            for owner in module.modules()
            for name in owner._parameters
            if owner._parameters[name] is not None
        )

    def is_whole(self) -> bool:
        return not isinstance(self.owner._parameters[self.name], DTensor)

    def put_together(self) -> None:
        self.module.unshard()

    def let_go(self) -> None:
        self.module.reshard()


def shard_layers(model: Any, *, source: str, device: torch.device, ranks: Ranks) -> None:
    """Splits the model's layers over the ranks, one after another, and moves all of it to the device.

    Raises: BadInput if the model has no list of layers.
    """
    mesh = init_device_mesh(device.type, (ranks.count,))
    for module in layers_of(model, source):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
        number = ranks.add_layer(ShardedLayer(module))
        agree_before(module, number, ranks)
    model.to(device)


def agree_before(module: nn.Module, number: int, ranks: Ranks) -> None:
    """Has the ranks agree before FSDP's own hooks gather the layer, on the way forward and back."""

    def before_forward(*_: object) -> None:
        ranks.put_together(number)

    def before_backward(_: Tensor) -> None:
        ranks.put_together(number)

    def after_forward(_module: nn.Module, _inputs: object, output: object) -> None:
        for tensor in tensors_in(output):
            if tensor.requires_grad:
                tensor.register_hook(before_backward)

    module.register_forward_pre_hook(before_forward, prepend=True)
    module.register_forward_hook(after_forward, prepend=True)


def tensors_in(output: object) -> Iterable[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, list | tuple):
        for part in output:
            yield from tensors_in(part)


def layers_of(model: nn.Module, source: str) -> list[nn.Module]:
    """The list of modules with the most parameters, of those that are in no other list. Raises BadInput if there is none."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) > 0]
    inner = {id(below) for one in lists for below in one.modules() if below is not one}
    outer = [one for one in lists if id(one) not in inner]
    if not outer:
        raise BadInput(
            f"shard_base: got true for {source!r}, which has no list of layers; expected one, to split between the processes; "
            "leave shard_base out"
        )
    largest: nn.ModuleList = max(outer, key=num_parameters)
    return list(largest)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def resident_bytes(model: nn.Module) -> int:
    """Of the base's numbers that this rank keeps while nothing runs."""
    own = (one.to_local() if isinstance(one, DTensor) else one for one in model.parameters())
    return sum(one.numel() * one.element_size() for one in own)
