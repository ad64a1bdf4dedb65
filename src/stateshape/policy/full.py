"""Copies of all parameters of a model, put in the modules' places while one of them is active: full-parameter policies.

The base's own tensors stay what they are, so that base, reference and teacher are still there beside a copy; a copy that is
trained costs its memory once more. Tensors that the model ties stay tied. A trained copy is kept in fp32 (fp64 where the model
is): in bf16, which has eight bits, AdamW's updates of about lr would be rounded away. Forward passes see it in the model's own
dtype, and its gradients come back through that cast. Does not know what a copy is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stateshape.core.files import BadInput
from stateshape.core.head import Head
from stateshape.policy.foreign import reason_of
from stateshape.policy.model_files import check_report, quiet


class Slot(NamedTuple):
    """Where a module reads a parameter. A tied one has several."""

    module: nn.Module
    attribute: str


class Copy:
    """`values`: by name, as they are kept. A trained copy's are leaves that need gradients."""

    def __init__(self, values: Mapping[str, Tensor], dtype: torch.dtype, *, is_trained: bool) -> None:
        self.values: dict[str, Tensor] = dict(values)
        if is_trained:
            self.values = {name: nn.Parameter(value) for name, value in values.items()}
        self.dtype = dtype
        self._seen: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None

    def seen(self, *, trainable: bool) -> dict[str, Tensor]:
        """As forward passes read them: in the model's dtype, with or without a way back for gradients."""
        if self._seen is None:
            with torch.enable_grad():
                cast = {name: value.to(self.dtype) for name, value in self.values.items()}
            self._seen = cast, {name: value.detach() for name, value in cast.items()}
        return self._seen[0 if trainable else 1]

    def look_again(self) -> None:
        """A cast is as old as it is, and no optimiser tells that it has changed the values."""
        if any(value.dtype != self.dtype for value in self.values.values()):
            self._seen = None


class FullCopies:
    """Named copies of a model's parameters, of which at most one is in place."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.base: dict[str, nn.Parameter] = dict(model.named_parameters())  # a tied one has one name
        names = {id(parameter): name for name, parameter in self.base.items()}
        self.slots: dict[str, list[Slot]] = {name: [] for name in self.base}
        for module in model.modules():
            for attribute, parameter in module._parameters.items():
                if parameter is not None:
                    self.slots[names[id(parameter)]].append(Slot(module, attribute))
        self.copies: dict[str, Copy] = {}
        self._placed: Mapping[str, Tensor] = self.base

    def __contains__(self, name: object) -> bool:
        return name in self.copies

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.base.values())

    def add(self, name: str, *, dtype: torch.dtype) -> None:
        """A copy to be trained, which says what the base says."""
        values = {
            key: value.detach().to(torch.promote_types(value.dtype, torch.float32), copy=True)
            for key, value in self.base.items()
        }
        self.copies[name] = Copy(values, dtype, is_trained=True)

    def copy(self, name: str, copy: str) -> None:
        """Another one with the same values, which is not trained."""
        source = self.copies[name]
        values = {key: value.detach().clone() for key, value in source.values.items()}
        self.copies[copy] = Copy(values, source.dtype, is_trained=False)

    def load(self, name: str, folder: Path, *, dtype: torch.dtype) -> None:
        """One that is not trained, from a model folder. Raises BadInput if it is not of this architecture."""
        self.copies[name] = Copy(read_parameters(self.model, folder, dtype, self.base), dtype, is_trained=False)

    def state(self, name: str) -> dict[str, Tensor]:
        return {key: value.detach() for key, value in self.copies[name].values.items()}

    @torch.no_grad()
    def set_state(self, name: str, state: Mapping[str, Tensor]) -> None:
        for key, value in self.copies[name].values.items():
            value.copy_(state[key])
        self.copies[name].look_again()

    def place(self, name: str | None, *, trainable: bool) -> None:
        """Makes the modules read this copy; None: the base."""
        values: Mapping[str, Tensor] = self.base
        if name is not None:
            self.copies[name].look_again()
            values = self.copies[name].seen(trainable=trainable)
        if values is self._placed:
            return
        for key, slots in self.slots.items():
            for module, attribute in slots:
                module._parameters[attribute] = values[key]  # type: ignore[assignment]  # a cast one is no leaf
        self._placed = values

    def head(self, name: str, base: Head, module: nn.Module, *, trainable: bool) -> Head:
        """The base's head with this copy's matrix and bias. `module`: that holds them."""
        values = self.copies[name].seen(trainable=trainable)
        own = {
            slot.attribute: values[key] for key, slots in self.slots.items() for slot in slots if slot.module is module
        }
        return base._replace(weight_VD=own["weight"], bias_V=own.get("bias")).first(base.num_tokens)


def read_parameters(model: Any, folder: Path, dtype: torch.dtype, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters in a model folder, read by transformers, on the device and under the names of `expected`.

    Raises: BadInput if the folder holds another architecture, or can't be read.
    """
    try:
        with quiet():
            loaded, report = type(model).from_pretrained(
                str(folder), dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, use_safetensors=True
            )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # damaged files make these libraries raise anything
        raise BadInput(
            f"model: got {folder}, which could not be loaded ({reason_of(error)}); expected the model folder of a run whose "
            "parameters were all trained; train it again"
        ) from None
    check_report(str(folder), report)
    found = dict(loaded.named_parameters())
    shapes, wanted = ({key: tuple(value.shape) for key, value in one.items()} for one in (found, expected))
    if shapes != wanted:
        odd = sorted(key for key in shapes.keys() | wanted.keys() if shapes.get(key) != wanted.get(key))
        raise BadInput(
            f"model: got {folder}, whose parameter {odd[0]} has shape {shapes.get(odd[0])}, and in the base "
            f"{wanted.get(odd[0])} ({len(odd)} such); expected the same parameters; check that it was trained from this base"
        )
    return {key: found[key].detach().to(value.device) for key, value in expected.items()}


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """A folder that transformers reads, with what the model's modules now hold, without adapters."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        key.replace(".base_layer.", "."): value for key, value in model.state_dict().items() if ".lora_" not in key
    }
    with quiet():
        model.save_pretrained(str(folder), state_dict=state)
        tokenizer.save_pretrained(str(folder))
