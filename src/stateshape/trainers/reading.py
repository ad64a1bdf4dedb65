"""Measures a model in the middle of its training and leaves no trace: modes, gradients' flags, adapters, random numbers.

A run is the same to the bit with and without what happens inside. Does not know what is measured.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper


@contextmanager
def reading(model: Any, device: torch.device, autocast: torch.dtype | None) -> Iterator[None]:
    """Inside, the model is in evaluation mode, without gradients.

    Args:
        model: with its adapters, as it is trained.
        autocast: dtype of mixed precision, where the training has it.
    """
    modules = list(model.modules())
    modes = [module.training for module in modules]
    needs = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    adapters = adapters_off(modules)
    drawn = random_states(device)
    try:
        for module in modules:
            module.training = False  # not eval(): what a model does in its own is its own business
        with torch.no_grad(), torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            yield
    finally:
        # weights that were cast without gradients must not be found by a training step under the same autocast
        torch.clear_autocast_cache()
        switch_adapters(adapters)
        for parameter, is_needed in needs:
            parameter.requires_grad_(is_needed)
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        set_random_states(device, drawn)


def adapters_off(modules: list[Any]) -> list[tuple[Any, bool]]:
    """Of each of peft's layers, whether its adapters are off."""
    layers = [module for module in modules if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    return [(layer, layer._disable_adapters) for layer in layers]


def switch_adapters(layers: list[tuple[Any, bool]]) -> None:
    """Not by peft's own call, which also decides what is trained."""
    for layer, is_off in layers:
        layer._disable_adapters = is_off


def random_states(device: torch.device) -> tuple[Any, ...]:
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), on_device


def set_random_states(device: torch.device, states: tuple[Any, ...]) -> None:
    own, of_numpy, of_torch, on_device = states
    random.setstate(own)
    np.random.set_state(of_numpy)
    torch.set_rng_state(of_torch)
    if on_device is not None:
        torch.cuda.set_rng_state(on_device, device)
