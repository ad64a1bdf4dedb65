"""Memory that training and sampling take, from the shapes of a model. Bytes; GB are 1e9 of them.

Not counted: what attention, norms and the head keep for a moment, and what torch holds beside.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from stateshape.policy.device import resolve_device, resolve_dtype
from stateshape.policy.fingerprint import folder_of
from stateshape.policy.flops import activation_bytes
from stateshape.policy.settings import ModelSettings
from stateshape.policy.targets import linear_layers, sizes
from stateshape.policy.tensor_files import count_numbers

if TYPE_CHECKING:
    from stateshape.policy.weights import SharedWeights

STATE_BYTES = 4  # of a weight that is trained, its gradient, and each of AdamW's two moments: all fp32
GB = 1e9
LARGE = 9.995e8  # rounds to three digits of a GB


class TrainingMemory(NamedTuple):
    """Bytes. base: the weights that stay; own, gradients, moments: of what is trained; cast: what forward passes see of it."""

    num_trained: int
    base: int
    own: int
    cast: int
    gradients: int
    moments: int

    @property
    def total(self) -> int:
        return self.base + self.own + self.cast + self.gradients + self.moments


def lora_memory(weights: SharedWeights, rank: int) -> TrainingMemory:
    """With LoRA on the layers that all-linear chooses."""
    chosen = [one.layer for one in linear_layers(weights) if one.is_chosen]
    return trained_memory(sum(rank * sum(sizes(layer)) for layer in chosen), base_bytes(weights), weights.dtype)


def full_memory(weights: SharedWeights) -> TrainingMemory:
    """With all parameters trained, beside the base."""
    return trained_memory(weights.full.num_parameters, base_bytes(weights), weights.dtype)


def planned_memory(model: str, settings: ModelSettings) -> TrainingMemory | None:
    """As full_memory, from the headers of the model's files, before it is loaded. None where they are not here yet."""
    folder = folder_of(model)
    numbers = None if folder is None else count_numbers(folder)
    if numbers is None:
        return None
    dtype = resolve_dtype(settings.dtype, resolve_device(settings.device))
    return trained_memory(numbers, numbers * dtype.itemsize, dtype)


def trained_memory(num_trained: int, base: int, dtype: torch.dtype) -> TrainingMemory:
    one = num_trained * max(STATE_BYTES, dtype.itemsize)
    cast = num_trained * dtype.itemsize if dtype.itemsize < STATE_BYTES else 0
    return TrainingMemory(num_trained, base, one, cast, one, 2 * one)


def base_bytes(weights: SharedWeights) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in weights.full.base.values())


def in_words(memory: TrainingMemory) -> str:
    """Of a full run."""
    parts = [f"weights {gb(memory.own)}", f"gradients {gb(memory.gradients)}", f"AdamW {gb(memory.moments)}"]
    if memory.cast:
        parts.insert(1, f"their cast {gb(memory.cast)}")
    return (
        f"trains all {millions(memory.num_trained)} parameters of a copy: {', '.join(parts)}, beside the base's "
        f"{gb(memory.base)}: {gb(memory.total)} and activations; a checkpoint holds {gb(memory.own + memory.moments)}"
    )


def gb(num_bytes: float) -> str:
    return f"{num_bytes / GB:.2f} GB" if num_bytes >= LARGE else f"{num_bytes / 1e6:.3g} MB"


def millions(count: int) -> str:
    return f"{count / 1e6:,.1f} M" if count >= LARGE / 1e4 else f"{count:,}"


def cache_bytes(weights: SharedWeights) -> int | None:
    """Of one token of one row while sampling. None for a model that keeps its own cache."""
    shapes = weights.passes.cache_shapes
    return None if shapes is None else sum(map(math.prod, shapes)) * weights.dtype.itemsize


def activations_per_thousand(weights: SharedWeights) -> int:
    """Bytes that a training pass keeps for 1,000 tokens until backward, roughly."""
    return 1000 * activation_bytes(weights)
