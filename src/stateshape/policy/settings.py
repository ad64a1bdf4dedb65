"""Settings of a model and its adapter, with sensible defaults. Loads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from stateshape.core.files import BadInput
from stateshape.core.limits import check_most
from stateshape.core.wording import shown

ALL_LINEAR = "all-linear"  # peft's name
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """Device and precision of the weights."""

    device: str = "auto"
    """auto: cuda if there is one, else cpu; or any torch device."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 on a GPU, float32 on a CPU."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    compile: bool = False
    """Fuse a layer's small operations with torch.compile, which takes about a minute at the start. Meant for a GPU: on a CPU
    it was not faster (LOG.md). No effect on models that run through transformers' own code."""
    chat_template: str | None = None
    """File with a chat template (Jinja), for a model that has none, or in place of its own. A teacher that has one "
    "keeps its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """A LoRA adapter (arXiv:2106.09685). Dropout is always 0, since with dropout an on-policy ratio would not be 1."""

    rank: int = 32
    """Rank r of the update B A."""
    alpha: int = 64
    """Scale: the update is (alpha / r) B A."""
    targets: tuple[str, ...] = (ALL_LINEAR,)
    """Names of the linear layers to adapt, as peft takes them; all-linear: those of all blocks, but no router or expert."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not self.targets:
            raise BadInput(
                f"lora: got rank {self.rank}, alpha {self.alpha}, {len(self.targets)} targets; expected rank >= 1, "
                "alpha > 0 and at least one target"
            )
        check_most("lora.", rank=self.rank, alpha=self.alpha)


def resolve_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadInput(f"device: got {shown(name)}; expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"device: got {name!r}, but torch sees no CUDA device; use --device cpu")
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[name]
