"""One set of base weights; every policy on it is an adapter, or none, or a copy of all parameters. Switched, never merged.

Loads safetensors (or a GGUF folder) through transformers and LoRA through peft, and refuses what would make the
rest of the package wrong: remote code unless asked for, a head that is more than a matrix, adapters on the head.
Does not know what the adapters are for.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from stateshape.core.files import BadInput
from stateshape.core.head import Head
from stateshape.core.meter import Meter
from stateshape.core.ranks import current
from stateshape.policy.adapter_files import TENSORS, holds_model, read_adapter, without_base
from stateshape.policy.bridge import run_transformers
from stateshape.policy.checks import (
    CacheShapes,
    check_numbers,
    check_passes,
    check_sharded,
    check_tokens,
    is_plain_lora,
)
from stateshape.policy.decoder import PLAIN, Attend, ForwardPass, Halves, read_decoder
from stateshape.policy.fingerprint import weights_sha256
from stateshape.policy.foreign import reason_of
from stateshape.policy.full import FullCopies, read_parameters, save_model
from stateshape.policy.general import hidden_by_rows
from stateshape.policy.rotary import hold_angles
from stateshape.policy.settings import LoraSettings
from stateshape.policy.sharding import shard_layers
from stateshape.policy.source import base_written
from stateshape.policy.targets import resolve as resolve_targets
from stateshape.policy.tree_attention import TreeAttention, lay_out

NO_HEAD = (
    "lora targets: got lm_head; expected layers below the head, because losses read the head as one matrix; leave lm_head "
    "out"
)


def matrix_of_head(model: Any, source: str) -> Tensor:
    head = model.get_output_embeddings()
    if head is None:
        raise BadInput(f"model: got {source!r}, which has no head over a vocabulary; expected a causal language model")
    return head.weight


class Passed(NamedTuple):
    """The outcome of a pass, and the work: tokens computed, and pairs of a token and one it may see."""

    hidden_ND: Tensor
    tokens: int
    pairs: int


class SharedWeights:
    """A causal LM with named adapters, at most one of them active: LoRA, or a copy of all parameters (policy/full.py)."""

    def __init__(
        self, model: Any, tokenizer: Any, *, source: str, halves: Halves = PLAIN, shard_on: torch.device | None = None
    ) -> None:
        """shard_on: splits the layers over the ranks, on this device of each (policy/sharding.py)."""
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        tokenizer.clean_up_tokenization_spaces = False  # text is shown as it was written
        self.source = source
        self.config = model.config
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.adapters: dict[str, peft.LoraConfig] = {}
        self._active: tuple[str | None, bool] = (None, False)
        self._peft: peft.PeftModel | None = None
        self.meter = Meter(self.device)
        self.halves = halves
        self.is_sharded = shard_on is not None
        self.head = Head(matrix_of_head(self.model, source))  # check_passes finds what else belongs to it
        self.row_limit = hold_angles(self.body)  # rows beyond it are refused (policy/policy.py)
        self.full = FullCopies(self.model)
        check_tokens(self)
        check_numbers(self)
        self.passes = check_passes(self)
        if shard_on is not None:
            self._shard(shard_on)

    def _shard(self, device: torch.device) -> None:
        """Lets go of what is others' to keep, once the checks are over. Raises BadInput where layers can't be split."""
        with check_sharded(self):
            shard_layers(self.model, source=self.source, device=device, ranks=current())
            self.device, self.meter, self.full = device, Meter(device), FullCopies(self.model)
            module = self.model.get_output_embeddings()
            moved = Head(module.weight, getattr(module, "bias", None), self.head.scale, self.head.cap)
            self.head = moved.first(self.head.num_tokens)

    @property
    def body(self) -> Any:
        return getattr(self.model, self.model.base_model_prefix, None) or self.model.get_decoder()

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Token to id."""
        return dict(self.tokenizer.get_vocab())

    @cached_property
    def sha256(self) -> str | None:
        """The hash of the base's files; None if there are none (policy/fingerprint.py)."""
        return weights_sha256(self.source)

    @property
    def cache_shapes(self) -> CacheShapes:
        """Of a pass over prefix trees."""
        assert self.passes.cache_shapes is not None
        return self.passes.cache_shapes

    def hidden_at(self, rows: Sequence[Sequence[int]], places: Sequence[np.ndarray]) -> Passed:
        """Each row's last hidden states at its places, under the active adapter. The one way in for whole rows."""
        if (habits := self.passes.habits) is not None:
            hidden_ND, lengths = hidden_by_rows(
                self.model, rows, places, may_pad=habits.pads_right, may_batch=habits.batches
            )
            return Passed(hidden_ND, sum(lengths), sum(n * (n + 1) // 2 for n in lengths))
        layout = lay_out(rows, self.device)
        wanted = np.concatenate([path[at] for path, at in zip(layout.paths, places, strict=True)])
        wanted_M = torch.tensor(wanted, device=self.device)
        hidden_ND = self.run(layout.ids_N, layout.position_N, TreeAttention(layout), wanted_M)
        return Passed(hidden_ND, len(layout.ids_N), layout.num_pairs)

    def run(self, ids_N: Tensor, position_N: Tensor, attend: Attend, wanted_M: Tensor | None = None) -> Tensor:
        """Last hidden states of flat tokens under the active adapter, [N, D]; [M, D] of those that `wanted_M` chooses."""
        return self.forward_pass()(ids_N, position_N, attend, wanted_M)

    def forward_pass(self) -> ForwardPass:
        """The forward pass that `run` calls under the active adapter; keep it if it is called for every token."""
        adapter, trainable = self._active
        if self.is_plain(adapter):
            return read_decoder(self.body, adapter, trainable=trainable, halves=self.halves)
        return partial(run_transformers, self.model)

    def is_plain(self, adapter: str | None) -> bool:
        """Whether our own decoder runs the base with this adapter, rather than transformers' code."""
        if self.passes.kind != "decoder" or adapter in self.full:
            return False
        return adapter is None or is_plain_lora(self.adapters[adapter])

    def head_of(self, adapter: str | None, *, trainable: bool = False) -> Head:
        """The head under this adapter. Its matrix needs gradients if it is trained with the rest."""
        if adapter is None or adapter not in self.full:
            return self.head
        return self.full.head(adapter, self.head, self.model.get_output_embeddings(), trainable=trainable)

    def is_full(self, name: str | None) -> bool:
        """Whether the adapter is a copy of all parameters."""
        return name in self.full

    def add_full(self, name: str) -> None:
        """A copy of all parameters, to be trained; it says what the base says until then."""
        self.full.add(name, dtype=self.dtype)

    def add_adapter(self, name: str, lora: LoraSettings, *, seed: int) -> None:
        """A new adapter, initialised so that it changes nothing; its A matrices come from `seed`."""
        config = peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=0.0,
            target_modules=resolve_targets(self, lora),
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._inject(name, config)

    def load_adapter(self, name: str, folder: Path) -> None:
        """An adapter saved in peft's format, or a model folder. Raises BadInput, and leaves no trace, if it does not fit."""
        if holds_model(folder):
            self.full.load(name, folder, dtype=self.dtype)
            return
        config, state = read_adapter(folder)
        try:
            self._inject(name, config)
            self.set_adapter_state(name, without_base(state, self.model, f"{folder}/{TENSORS}"))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # tensors that do not belong here make peft raise anything
            if self.has_adapter(name):
                self.remove_adapter(name)
            if isinstance(error, BadInput):
                raise
            raise BadInput(
                f"adapter: got {folder}, which does not fit {self.source!r} ({reason_of(error)}); expected an adapter of "
                "this base; check base_model_name_or_path in its adapter_config.json"
            ) from None

    def fill_adapter(self, name: str, folder: Path) -> None:
        """Gives an adapter the tensors of a saved one of the same shape. Raises BadInput where the shapes differ."""
        if self.is_full(name):
            self.full.set_state(name, read_parameters(self.model, folder, self.dtype, self.full.base))
            return
        self.set_adapter_state(name, without_base(read_adapter(folder).state, self.model, f"{folder}/{TENSORS}"))

    def has_adapter(self, name: str) -> bool:
        return name in self.adapters or name in self.full

    def copy_adapter(self, name: str, copy: str) -> None:
        """Another adapter with the same tensors."""
        if self.is_full(name):
            self.full.copy(name, copy)
            return
        self._inject(copy, deepcopy(self.adapters[name]))
        self.set_adapter_state(copy, self.adapter_state(name))

    def _inject(self, name: str, config: peft.LoraConfig) -> None:
        config.base_model_name_or_path = None  # the name is ours to keep: peft would warn that a folder has moved
        if "lm_head" in (config.target_modules or ()):
            raise BadInput(NO_HEAD)
        self.activate(None)  # peft freezes what the modules hold: the base's own
        if self._peft is None:
            self._peft = peft.get_peft_model(self.model, config, adapter_name=name, autocast_adapter_dtype=True)
        else:
            self._peft.add_adapter(name, config)
            self._peft.active_adapter = name  # peft looks its configuration up, also where the one before is gone
        self.model.eval()  # a foreign adapter may bring dropout, and new modules begin in training mode
        self.adapters[name] = config
        self._active = ("", False)  # peft has activated it by itself
        self.activate(None)
        if isinstance(self.model.get_output_embeddings(), BaseTunerLayer):  # a pattern may reach it under any name
            self.remove_adapter(name)
            raise BadInput(NO_HEAD)

    def remove_adapter(self, name: str) -> None:
        self.activate(None)
        if self.is_full(name):
            del self.full.copies[name]
            return
        assert self._peft is not None
        self._peft.delete_adapter(name)
        del self.adapters[name]
        self._active = ("", False)
        self.activate(None)

    def activate(self, name: str | None, *, trainable: bool = False) -> None:
        """Makes forward passes use this adapter (None: the bare base); only it may need gradients."""
        is_full = self.is_full(name)
        self.full.place(name if is_full else None, trainable=trainable)  # a trained copy may have changed since
        if self._active == (name, trainable):
            return
        for module in self.model.modules():
            if isinstance(module, BaseTunerLayer):
                module.set_adapter([] if name is None or is_full else [name], inference_mode=not trainable)
        self._active = (name, trainable)

    def adapter_state(self, name: str) -> dict[str, Tensor]:
        """The adapter's tensors under peft's file names, or all parameters under the model's names."""
        if self.is_full(name):
            return self.full.state(name)
        assert self._peft is not None
        # save_embedding_layers: "auto" would look the base up on the hub, on every checkpoint
        return peft.get_peft_model_state_dict(self._peft, adapter_name=name, save_embedding_layers=False)

    def set_adapter_state(self, name: str, state: dict[str, Tensor]) -> None:
        expected = self.adapter_state(name)
        missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
        if missing or unknown:  # peft would load the rest and keep a fresh start for what is missing
            raise BadInput(
                f"adapter {name!r}: got {len(missing)} tensors missing and {len(unknown)} unknown ones (for example "
                f"{(missing + unknown)[0]}); expected those that its adapter_config.json describes on {self.source!r}; check "
                "that this is its base"
            )
        for key, value in state.items():
            if value.shape != expected[key].shape:
                raise BadInput(
                    f"adapter {name!r}: got tensor {key} of shape {tuple(value.shape)}; expected "
                    f"{tuple(expected[key].shape)}, by its adapter_config.json on {self.source!r}; check that this is its base"
                )
        if self.is_full(name):
            self.full.set_state(name, state)
            return
        assert self._peft is not None
        peft.set_peft_model_state_dict(self._peft, state, adapter_name=name)

    def save_adapter(self, name: str, folder: Path) -> None:
        """Writes a folder that peft's own `PeftModel.from_pretrained` reads, or of a full copy one that transformers reads.

        A full copy is written in the model's own dtype, as forward passes read it.
        """
        if self.is_full(name):
            self.activate(name)
            save_model(self.model, self.tokenizer, folder)
            return
        folder.mkdir(parents=True, exist_ok=True)
        state = {key: value.detach().cpu().contiguous() for key, value in self.adapter_state(name).items()}
        save_file(state, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
        config = self.adapters[name]
        config.base_model_name_or_path = base_written(self.source)
        if not isinstance(config.target_modules, str):  # a regular expression stays as it is
            config.target_modules = sorted(
                config.target_modules or ()
            )  # peft keeps a set: its order differs between runs
        config.save_pretrained(str(folder))

    def trainable_parameters(self, name: str) -> list[nn.Parameter]:
        self.activate(name, trainable=True)
        if self.is_full(name):
            return [value for value in self.full.copies[name].values.values() if isinstance(value, nn.Parameter)]
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]
