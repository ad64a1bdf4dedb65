"""Somebody else's model as our policies see weights: by its own forward pass, with its adapters on or off, changed in nothing.

Stands in for policy/weights.py, whose model is ours alone: that one freezes it, moves its weights together and fixes its rotary
angles. Where the trained parameters are an adapter's, the base is the same model with adapters off. Where they are the model's
own, the base is gone after the first step: `Live.frozen` keeps its head, and what was measured of it before. Knows no trainer.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper

from stateshape.core.files import BadInput
from stateshape.core.head import Head
from stateshape.core.meter import Meter
from stateshape.core.wording import shown
from stateshape.embedded import base_folder
from stateshape.policy.checks import (
    MAX_ROUNDED_GAP,
    MAX_ROUNDING,
    Passes,
    check_tokens,
    read_head,
    refusing,
)
from stateshape.policy.general import hidden_by_rows
from stateshape.policy.habits import find_habits
from stateshape.policy.policy import Policy
from stateshape.policy.probe import make_probe, run_own
from stateshape.policy.source import EMBEDDED
from stateshape.policy.weights import Passed, SharedWeights
from stateshape.trainers.reading import adapters_off, reading, switch_adapters

UNNAMED = "the model being trained"


class Live(SharedWeights):
    """Read only: every call has to be inside `reading()`, as `__init__` is by itself."""

    def __init__(self, model: Any, tokenizer: Any, *, autocast: torch.dtype | None = None) -> None:
        """autocast: the training's mixed precision. Raises BadInput for a model that can't be read.

        Sets what Policy asks for, and nothing that changes the model as the class above does.
        """
        self.whole = model
        self.adapter = adapter_of(model)
        self.model: Any = model.get_base_model() if self.adapter is not None else model
        self.tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a processor has one
        self.source = source_of(self.model)
        check_readable(self.model, self.tokenizer, self.source)
        self.config = self.model.config.get_text_config()
        self.device: torch.device = next(self.model.parameters()).device
        self.autocast = autocast
        self.dtype: torch.dtype = autocast or self.model.dtype
        self.row_limit: int | None = None
        self.meter = Meter(self.device)
        module = self.model.get_output_embeddings()
        self.head = Head(module.weight, getattr(module, "bias", None))
        check_tokens(self)
        with reading(self.whole, self.device, autocast):
            self.passes = self._passes()

    def _passes(self) -> Passes:
        """The model's own forward pass; what it allows is tried out in the dtype it trains in."""
        limit = max(MAX_ROUNDED_GAP, MAX_ROUNDING * torch.finfo(self.dtype).eps)
        with refusing(self):
            probe = make_probe(self)
            self.head = read_head(self, run_own(self, probe), limit)
            return Passes("general", habits=find_habits(self.model, probe.rows, limit=limit, cached_limit=limit))

    @property
    def is_whole(self) -> bool:
        """Whether the model's own parameters are trained, and no adapter."""
        return self.adapter is None

    def frozen(self) -> Live:
        """The same with a copy of the head as it is now."""
        kept = copy.copy(self)
        bias_V = None if self.head.bias_V is None else self.head.bias_V.detach().clone()
        kept.head = self.head._replace(weight_VD=self.head.weight_VD.detach().clone(), bias_V=bias_V)
        return kept

    def base(self) -> Policy:
        """The base: adapters off; of a model that is trained whole, the model as it is now."""
        return Policy(self.frozen() if self.is_whole else self, None)

    def learner(self) -> Policy:
        return Policy(self, self.adapter)

    def head_of(self, adapter: str | None, *, trainable: bool = False) -> Head:
        return self.head

    def is_full(self, name: str | None) -> bool:
        return False

    def is_plain(self, adapter: str | None) -> bool:
        return False

    def activate(self, name: str | None, *, trainable: bool = False) -> None:
        """Adapters off for the base, as they are trained for the learner."""
        if self.is_whole:
            return
        layers = adapters_off(list(self.model.modules()))
        switch_adapters([(layer, name is None) for layer, _ in layers])

    def hidden_at(self, rows: Sequence[Sequence[int]], places: Sequence[np.ndarray]) -> Passed:
        habits = self.passes.habits
        assert habits is not None
        hidden_ND, lengths = hidden_by_rows(
            self.model, rows, places, may_pad=habits.pads_right, may_batch=habits.batches
        )
        return Passed(hidden_ND, sum(lengths), sum(n * (n + 1) // 2 for n in lengths))


def adapter_of(model: Any) -> str | None:
    """The adapter that is trained; None where the model's own parameters are. Raises BadInput."""
    if not isinstance(model, peft.PeftModel):
        return None
    name = model.active_adapter
    if isinstance(name, list | tuple) or name not in model.peft_config:
        raise BadInput(
            f"model: got several active adapters ({shown(name)}); expected one; activate the one that is trained"
        )
    config = model.peft_config[name]
    if config.is_prompt_learning or config.is_adaption_prompt:
        kind = str(config.peft_type).removeprefix("PeftType.")
        raise BadInput(
            f"model: got an adapter of type {kind}; expected one inside the layers, such as LoRA; leave "
            "the callback out"
        )
    return str(name)


def source_of(model: Any) -> str:
    """The base's name: of the embedded base as our commands know it."""
    name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
    return EMBEDDED if name and Path(name).absolute() == base_folder().absolute() else name or UNNAMED


def check_readable(model: Any, tokenizer: Any, source: str) -> None:
    """Raises BadInput, one line that says what to do."""
    if tokenizer is None or not hasattr(tokenizer, "get_vocab"):
        raise BadInput(
            "tokenizer: got none; expected the model's; give the trainer its tokenizer (processing_class=tokenizer)"
        )
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None or getattr(head, "weight", None) is None:
        raise BadInput(
            f"model: got {shown(source)}, which has no head over a vocabulary; expected a causal language model; leave the "
            "callback out"
        )
    if isinstance(head, BaseTunerLayer | AuxiliaryTrainingWrapper):
        raise BadInput(
            f"model: got {shown(source)} with an adapter on its head (lm_head); expected layers below the head, which is "
            "read as one matrix; leave lm_head out of target_modules and modules_to_save, or leave the callback out"
        )
    parameters = list(model.parameters())
    if any(hasattr(one, "ds_id") or hasattr(one, "device_mesh") or one.numel() == 0 for one in parameters):
        raise BadInput(
            f"model: got {shown(source)}, whose parameters are split over processes (FSDP, DeepSpeed ZeRO-3 or tensor "
            "parallel); expected whole ones (DDP, or ZeRO-1 and 2); leave the callback out, and audit the result"
        )
    if len({one.device for one in parameters}) > 1:
        raise BadInput(
            f"model: got {shown(source)} on several devices; expected one; load it without device_map='auto', or leave the "
            "callback out, and audit the result"
        )
