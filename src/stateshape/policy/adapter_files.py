"""Reads an adapter in peft's format and checks that it can be used here: LoRA that leaves the base unchanged.

Learner, teacher, reference and base share one set of weights, so whatever changes the base for one changes it for all. Such
adapters are refused, with the reason. Fields of peft's configuration that are not known to be harmless are refused as well.
Does not know the base (policy/weights.py).
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NamedTuple

import peft
import torch
from safetensors.torch import load_file
from torch import Tensor

from stateshape.core.files import BadInput, read_json
from stateshape.policy.foreign import reason_of
from stateshape.policy.settings import ALL_LINEAR, LoraSettings
from stateshape.policy.source import CONFIG
from stateshape.policy.tensor_files import check_whole

TENSORS, PICKLED = "adapter_model.safetensors", "adapter_model.bin"
# where training starts from; once trained these are plain LoRA. All others subtract from the base's weights at the start
HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
HARMLESS = {
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "r",
    "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "use_rslora",
    "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "megatron_core", "loftq_config", "eva_config",
    "corda_config", "use_dora", "lora_ga_config", "qalora_group_size", "runtime_config", "lora_bias",
}  # fmt: skip


class SavedAdapter(NamedTuple):
    config: peft.LoraConfig
    state: dict[str, Tensor]


def check_adapter(folder: Path) -> peft.LoraConfig:
    """Raises BadInput if it is not LoRA, changes the base, or its file is cut off. Reads no tensor."""
    config = read_config(folder)
    check_config(config, folder / CONFIG)
    check_file(folder)
    return config


def read_adapter(folder: Path) -> SavedAdapter:
    """Configuration and tensors, checked. Raises BadInput as check_adapter does, or if a tensor contains NaN or infinity."""
    config = check_adapter(folder)
    state = read_tensors(folder / TENSORS)
    config.init_lora_weights = True  # whatever it started from, its tensors are those of the file
    return SavedAdapter(config, state)


def read_config(folder: Path) -> peft.LoraConfig:
    path = folder / CONFIG
    kind = read_json(path, dict[str, Any]).get("peft_type")
    if kind != "LORA":
        raise BadInput(
            f"adapter: got peft_type {kind!r} in {path}; expected 'LORA'; use a LoRA adapter, or a model that this one was "
            "merged into (peft's merge_and_unload, then save_pretrained)"
        )
    try:
        config = peft.LoraConfig.from_pretrained(str(folder))
    except Exception as error:  # a damaged file makes peft raise anything
        raise BadInput(
            f"adapter: got {path}, which peft can't read ({reason_of(error)}); expected a LoRA configuration as peft saves "
            "it; save it again, or use a newer peft"
        ) from None
    assert isinstance(config, peft.LoraConfig)
    return config


def check_config(config: peft.LoraConfig, path: Path) -> None:
    """Raises BadInput for settings that change the base, or that are not known to leave it alone."""
    if config.init_lora_weights not in HARMLESS_STARTS:
        raise BadInput(
            f"adapter: got init_lora_weights {config.init_lora_weights!r} in {path}, with which peft "
            "changes the base weights; expected an adapter that leaves them alone; convert it with peft's "
            "save_pretrained(path_initial_model_for_weight_conversion=...)"
        )
    if config.bias != "none":
        raise BadInput(
            f"adapter: got bias {config.bias!r} in {path}, with which it replaces biases of the base, for every policy on "
            "it; expected 'none'; merge it into its base (peft's merge_and_unload, then save_pretrained) and use that model"
        )
    if config.alora_invocation_tokens:
        raise BadInput(
            "adapter: got an activated LoRA (alora_invocation_tokens), which is active after some tokens only; expected "
            "one that is active everywhere; use another adapter"
        )
    if config.modules_to_save:
        raise BadInput(
            f"adapter: got whole layers of its own ({', '.join(config.modules_to_save)}; e.g. lm_head); expected LoRA "
            "matrices alone, because only they are switched; use an adapter without modules_to_save"
        )
    for field in fields(config):
        known = field.name in HARMLESS or field.name in ("init_lora_weights", "bias")
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        value = getattr(config, field.name)
        if not known and value and value != default:
            raise BadInput(
                f"adapter: got {field.name} {value!r} in {path}, which does more than add B A to layers; expected plain "
                "LoRA (rank, scale, targets, DoRA or its own bias); use another adapter, or a model that it was merged into"
            )


def shape_difference(config: peft.LoraConfig, lora: LoraSettings) -> str | None:
    """How a saved adapter differs from one that `lora` would make, in words; None where it does not, as far as is known.

    Which layers a pattern or a group of layers stands for is known only on the model: there its tensors decide.
    """
    for name in ("use_rslora", "use_dora", "lora_bias", "rank_pattern", "alpha_pattern", "layers_to_transform"):
        if value := getattr(config, name):
            return f"{name} {value!r}"
    if (config.r, config.lora_alpha) != (lora.rank, lora.alpha):
        return f"rank {config.r} and alpha {config.lora_alpha} (here rank {lora.rank} and alpha {lora.alpha})"
    theirs = config.target_modules
    if isinstance(theirs, list | set) and ALL_LINEAR not in lora.targets and set(theirs) != set(lora.targets):
        return f"targets {', '.join(sorted(theirs))} (here {', '.join(lora.targets)})"
    return None


def holds_model(folder: Path) -> bool:
    """Whether a folder of trained weights holds a whole model rather than an adapter."""
    return (folder / "config.json").exists() and not (folder / CONFIG).exists()


def check_file(folder: Path) -> None:
    path = folder / TENSORS
    if not path.is_file():
        if (folder / PICKLED).is_file():
            raise BadInput(
                f"adapter: got {folder}/{PICKLED} and no {TENSORS}; expected safetensors, because a .bin file may run code; "
                "load it with peft where you trust it, and save it again with save_pretrained"
            )
        raise BadInput(f"adapter: got {folder} without {TENSORS}; expected its tensors there; save the adapter again")
    check_whole(path, field="adapter")


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        state = load_file(str(path))
    except Exception as error:  # a damaged file makes safetensors raise anything
        raise BadInput(
            f"adapter: got {path}, which can't be read ({reason_of(error)}); expected a whole file; fetch or save it again"
        ) from None
    for name, value in state.items():
        if not value.isfinite().all():
            raise BadInput(
                f"adapter: got {path}, whose tensor {name} contains a value that is not a finite number; expected finite "
                "weights; use an intact copy, or train it again"
            )
    return state


def without_base(state: dict[str, Tensor], model: Any, path: str) -> dict[str, Tensor]:
    """The adapter's own tensors, without copies of the base's, which peft saves with LoRA on an embedding.

    Raises: BadInput if such a copy differs from the base's tensor.
    """
    base = {
        name.replace(".base_layer.", "."): value for name, value in model.state_dict().items() if ".lora_" not in name
    }
    own = {}
    for key, value in state.items():
        name = key.removeprefix("base_model.model.").replace(".base_layer.", ".")
        if "lora_" in key or name not in base:
            own[key] = value
        elif not _is_same(value, base[name].cpu()):
            raise BadInput(
                f"adapter: got {path} with a tensor {key} of its own, other than the base's; expected LoRA matrices alone, "
                "because only they are switched; use an adapter that leaves the embedding as it is"
            )
    return own


def _is_same(value: Tensor, base: Tensor) -> bool:
    """Either may have been rounded to the other's dtype."""
    return value.shape == base.shape and (
        torch.equal(value.to(base.dtype), base) or torch.equal(base.to(value.dtype), value)
    )
