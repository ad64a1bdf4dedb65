"""One set of base weights; every policy on it is an adapter (or none). Adapters are switched, never merged.

Loads safetensors (or a GGUF folder) through transformers and LoRA through peft, and refuses what the rest of the
package could not be right about: remote code unless asked for, a head that is more than a matrix, adapters on the head.
Does not know what the adapters are for.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stateshape.core.files import BadInput
from stateshape.core.meter import Meter
from stateshape.policy.bridge import run_transformers
from stateshape.policy.checks import check_attention, check_passes, is_plain_lora
from stateshape.policy.decoder import PLAIN, Attend, ForwardPass, Halves, compiled_halves, read_decoder
from stateshape.policy.foreign import reading_foreign, reason_of
from stateshape.policy.settings import LoraSettings, ModelSettings, resolve_device, resolve_dtype


class SharedWeights:
    """A causal LM with named LoRA adapters, at most one of them active."""

    def __init__(self, model: Any, tokenizer: Any, *, source: str, halves: Halves = PLAIN) -> None:
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
        check_attention(self)
        self.is_plain_decoder, self.cache_shapes = check_passes(self)

    @property
    def body(self) -> Any:
        return getattr(self.model, self.model.base_model_prefix)

    @property
    def head_VD(self) -> Tensor:
        return self.model.get_output_embeddings().weight

    def run(self, ids_N: Tensor, position_N: Tensor, attend: Attend, wanted_M: Tensor | None = None) -> Tensor:
        """Last hidden states of flat tokens under the active adapter, [N, D]; [M, D] where `wanted_M` says which."""
        return self.forward_pass()(ids_N, position_N, attend, wanted_M)

    def forward_pass(self) -> ForwardPass:
        """What `run` calls, under the active adapter: worth holding on to where it is called for every token."""
        adapter, trainable = self._active
        if self.is_plain(adapter):
            return read_decoder(self.body, adapter, trainable=trainable, halves=self.halves)
        return partial(run_transformers, self.body)

    def is_plain(self, adapter: str | None) -> bool:
        """Whether our own decoder runs the base with this adapter, rather than transformers' code."""
        return self.is_plain_decoder and (adapter is None or is_plain_lora(self.adapters[adapter]))

    def add_adapter(self, name: str, lora: LoraSettings, *, seed: int) -> None:
        """A new adapter, initialised so that it changes nothing; its A matrices come from `seed`."""
        config = peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=0.0,
            target_modules=list(lora.targets),
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._inject(name, config)

    def load_adapter(self, name: str, folder: Path) -> None:
        """An adapter saved in peft's format."""
        with reading_foreign(f"adapter: {folder}/adapter_config.json can't be read", "the one that peft wrote"):
            config = peft.LoraConfig.from_pretrained(str(folder))
        if config.init_lora_weights not in (True, False, "gaussian"):
            raise BadInput(
                f"adapter: got init_lora_weights {config.init_lora_weights!r} in {folder}/adapter_config.json, with which peft "
                "changes the base weights; expected an adapter that leaves them alone; convert it with peft's "
                "save_pretrained(path_initial_model_for_weight_conversion=...)"
            )
        with reading_foreign(f"adapter: {folder} does not fit the model", "an adapter that was trained on it, whole"):
            self._inject(name, config)
            self.set_adapter_state(name, load_file(str(folder / "adapter_model.safetensors")))

    def has_adapter(self, name: str) -> bool:
        return name in self.adapters

    def copy_adapter(self, name: str, copy: str) -> None:
        """Another adapter with the same tensors."""
        self._inject(copy, deepcopy(self.adapters[name]))
        self.set_adapter_state(copy, self.adapter_state(name))

    def _inject(self, name: str, config: peft.LoraConfig) -> None:
        config.base_model_name_or_path = None  # the name is ours to keep: peft would warn that a folder has moved
        if "lm_head" in (config.target_modules or ()):
            raise BadInput(
                "lora targets: got lm_head; expected layers below the head, because losses read the head as one matrix; "
                "leave lm_head out"
            )
        if config.alora_invocation_tokens:
            raise BadInput(
                "adapter: got an activated LoRA (alora_invocation_tokens), which is at work behind some tokens only; expected "
                "one that is at work everywhere; use another adapter"
            )
        if config.modules_to_save:
            raise BadInput(
                f"adapter: got whole layers of its own ({', '.join(config.modules_to_save)}; e.g. lm_head); expected LoRA "
                "matrices alone, because only they are switched; use an adapter without modules_to_save"
            )
        if self._peft is None:
            self._peft = peft.get_peft_model(self.model, config, adapter_name=name, autocast_adapter_dtype=True)
        else:
            self._peft.add_adapter(name, config)
        self.model.eval()  # a foreign adapter may bring dropout, and new modules begin in training mode
        self.adapters[name] = config
        self._active = ("", False)  # peft has activated it by itself
        self.activate(None)

    def remove_adapter(self, name: str) -> None:
        assert self._peft is not None
        self.activate(None)
        self._peft.delete_adapter(name)
        del self.adapters[name]
        self._active = ("", False)
        self.activate(None)

    def activate(self, name: str | None, *, trainable: bool = False) -> None:
        """Makes one adapter (None: the bare base) the one that forward passes use; only it may need gradients."""
        if self._active == (name, trainable):
            return
        for module in self.model.modules():
            if isinstance(module, BaseTunerLayer):
                module.set_adapter([] if name is None else [name], inference_mode=not trainable)
        self._active = (name, trainable)

    def adapter_state(self, name: str) -> dict[str, Tensor]:
        """The adapter's tensors under peft's file names."""
        assert self._peft is not None
        # save_embedding_layers: "auto" would look the base up on the hub, on every checkpoint
        return peft.get_peft_model_state_dict(self._peft, adapter_name=name, save_embedding_layers=False)

    def set_adapter_state(self, name: str, state: dict[str, Tensor]) -> None:
        assert self._peft is not None
        expected = self.adapter_state(name).keys()
        missing, unknown = sorted(expected - state.keys()), sorted(state.keys() - expected)
        if missing or unknown:  # peft would load the rest and keep a fresh start for what is missing
            raise BadInput(
                f"adapter {name!r}: got {len(missing)} tensors missing and {len(unknown)} unknown ones (for example "
                f"{(missing + unknown)[0]}); expected the tensors that its adapter_config.json describes"
            )
        peft.set_peft_model_state_dict(self._peft, state, adapter_name=name)

    def save_adapter(self, name: str, folder: Path) -> None:
        """Writes a folder that peft's own `PeftModel.from_pretrained` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {key: value.detach().cpu().contiguous() for key, value in self.adapter_state(name).items()}
        save_file(state, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
        config = self.adapters[name]
        config.base_model_name_or_path = self.source
        if not isinstance(config.target_modules, str):  # a regular expression stays as it is
            config.target_modules = sorted(
                config.target_modules or ()
            )  # peft keeps a set: its order differs between runs
        config.save_pretrained(str(folder))

    def trainable_parameters(self, name: str) -> list[nn.Parameter]:
        self.activate(name, trainable=True)
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


def load_weights(source: str, settings: ModelSettings) -> SharedWeights:
    """Loads a hub id or a local folder. Raises BadInput with the reason if it cannot be had."""
    device = resolve_device(settings.device)
    options: dict[str, Any] = {
        "dtype": resolve_dtype(settings.dtype, device),
        "trust_remote_code": settings.trust_remote_code,
    }
    gguf = next(Path(source).glob("*.gguf"), None) if Path(source).is_dir() else None
    has_safetensors = gguf is None or any(Path(source).glob("*.safetensors"))
    options |= {"use_safetensors": True} if has_safetensors else {"gguf_file": gguf.name}  # type: ignore[union-attr]
    token_options = {} if has_safetensors else {"gguf_file": gguf.name}  # type: ignore[union-attr]
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            source, trust_remote_code=settings.trust_remote_code, **token_options
        )
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(source, **options)
    except Exception as error:  # damaged files make these libraries raise anything
        raise BadInput(
            f"model: got {source!r}, which could not be loaded ({reason_of(error)}); expected a folder with config.json, "
            "safetensors and a tokenizer, a GGUF folder, a run folder, 'embedded', or a hub id that can be reached"
        ) from None
    halves = compiled_halves() if settings.compile else PLAIN
    return SharedWeights(model.to(device), tokenizer, source=source, halves=halves)
