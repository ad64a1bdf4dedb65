"""Which layers an adapter goes on. `all-linear` means all linear layers of the blocks; peft's own names work too.

Left alone by all-linear: the head and the embedding; the router and the experts of a mixture; and what peft refuses in
state-space models, whose fused kernels read the weights past any adapter. Weights that are not layers but bare tensors, as
fused experts are, cannot be adapted. Loads nothing, and peft and transformers only once there are layers: what plans a run
imports this file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from stateshape.core.files import BadInput
from stateshape.policy.settings import ALL_LINEAR, LoraSettings

if TYPE_CHECKING:
    from stateshape.policy.weights import SharedWeights

ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})  # one output per expert, or one in all
EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
EXPERTS = "experts"
# peft raises for these in models of these types (its _check_lora_target_modules_mamba)
FUSED_STATE_SPACE = frozenset({"mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h"})
FUSED_NAMES = frozenset({"out_proj", "conv1d"})
SHOWN = 12


class Linear(NamedTuple):
    """A linear layer of the base. `name`: in the model; `is_chosen`: whether all-linear adapts it."""

    name: str
    layer: Any
    is_chosen: bool

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]


def linear_layers(weights: SharedWeights) -> list[Linear]:
    """Linear layers of the base, whether an adapter wraps them or not; the head is not among them."""
    head = weights.model.get_output_embeddings()
    found = [(name, bare(module)) for name, module in linear_modules(weights.model, below=head)]
    return [Linear(name, layer, not _is_left_alone(name, layer, weights.config)) for name, layer in found]


def linear_modules(root: nn.Module, *, below: nn.Module | None = None) -> Iterator[tuple[str, Any]]:
    """Linear layers under `root` by name, wrapped by their adapters if they have any. below: leaves out what is in it."""
    inside = set() if below is None else set(below.modules())
    for name, module in root.named_modules():
        if module in inside:
            continue
        if bare(module) is not module:
            inside.update(module.modules())
        if isinstance(bare(module), nn.Linear) or is_transposed(bare(module)):
            yield name, module


def bare(module: Any) -> Any:
    """The base's module, without an adapter around it."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def is_transposed(module: Any) -> bool:
    """Whether it is GPT-2's kind of linear layer, whose matrix has the outputs in columns."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def resolve(weights: SharedWeights, lora: LoraSettings) -> list[str]:
    """The names that peft is given: of all-linear the shortest endings that name its layers and no others.

    Raises: BadInput if a target names no linear layer, which peft would ignore, or if there are none.
    """
    layers = linear_layers(weights)
    if ALL_LINEAR not in lora.targets:
        for target in lora.targets:
            check_target(target, layers, weights)
        return list(lora.targets)
    if lora.targets != (ALL_LINEAR,):
        raise BadInput(
            f"lora.targets: got {ALL_LINEAR} beside {', '.join(sorted(set(lora.targets) - {ALL_LINEAR}))}; expected either "
            "names of layers or all-linear, which contains them; leave the others out"
        )
    chosen = {one.name for one in layers if one.is_chosen}
    if not chosen:
        raise BadInput(
            f"lora.targets: got {ALL_LINEAR}, but {weights.source!r} has no linear layer in its blocks; expected some; name "
            "other layers, or use another model"
        )
    return shortest_endings(chosen, {name for name, _ in weights.model.named_modules()} - chosen)


def check_target(target: str, layers: Sequence[Linear], weights: SharedWeights) -> None:
    """Raises BadInput."""
    if any(f".{one.name}".endswith(f".{target}") for one in layers) or target == "lm_head":  # which has its own message
        return
    names = sorted({one.last for one in layers})
    known = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    raise BadInput(
        f"lora.targets: got {target!r}, which names no linear layer of {weights.source}; expected {ALL_LINEAR}, or some "
        f"of {known}"
    )


def shortest_endings(chosen: Collection[str], others: Collection[str]) -> list[str]:
    """Endings, cut at dots, so that every chosen name has one and none of the others does."""
    taken = {one for other in others for one in endings(other)}
    return sorted({next(one for one in endings(name) if one not in taken) for name in chosen})


def endings(name: str) -> Iterator[str]:
    """From the last part to the whole name."""
    parts = name.split(".")
    return (".".join(parts[k:]) for k in range(len(parts) - 1, -1, -1))


def fused_experts(weights: SharedWeights) -> int:
    """How many parameters lie in experts that are tensors of their own, which no adapter reaches."""
    return sum(
        parameter.numel()
        for name, parameter in weights.model.named_parameters()
        if EXPERTS in name.split(".") and not name.endswith((".weight", ".bias")) and ".lora_" not in name
    )


def sizes(layer: Any) -> tuple[int, int]:
    """Rows and columns of a linear layer's matrix, which may lie packed in memory."""
    return (layer.out_features, layer.in_features) if isinstance(layer, nn.Linear) else tuple(layer.weight.shape)


def _is_left_alone(name: str, layer: Any, config: Any) -> bool:
    parts = name.split(".")
    outputs = layer.nf if is_transposed(layer) else layer.out_features
    counts = {1, *(getattr(config, field, None) for field in EXPERT_COUNTS)}
    is_router = not ROUTERS.isdisjoint(parts[-2:]) and outputs in counts
    is_fused = getattr(config, "model_type", "") in FUSED_STATE_SPACE and parts[-1] in FUSED_NAMES
    return is_router or EXPERTS in parts or is_fused
