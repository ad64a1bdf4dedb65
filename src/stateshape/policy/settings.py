"""Settings of a model and its adapter, with sensible defaults. Loads nothing. Torch-free."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Literal

from stateshape.core.files import LATER, BadInput
from stateshape.core.limits import check_most

ALL_LINEAR = "all-linear"  # peft's name


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
    """Fuse a layer's small operations with torch.compile, which takes seconds to a minute at the start. Meant for a GPU: on a
    CPU it was not faster (LOG.md). No effect on models that run through transformers' own code."""
    quantize: Literal["4bit"] | None = field(default=None, metadata=LATER)
    """Base weights in four bits (NF4, bitsandbytes), on a GPU, for LoRA. Default: none."""
    shard_base: bool = field(default=False, metadata=LATER)
    """Split the base's layers over the processes, for a base that is larger than one GPU: each keeps 1/N of every layer and is
    sent the rest while it runs it. For LoRA in several processes (docs/guides/data_parallel.md)."""
    chat_template: str | None = None
    """File with a chat template (Jinja), for a model that has none, or in place of its own. A teacher that has one
    keeps its own."""


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


def check_quantize(settings: ModelSettings, *, is_full: bool = False) -> None:
    """Whether a base in four bits can be had here, and be trained in this way. Raises BadInput."""
    if settings.quantize is None:
        return
    if is_full:
        raise BadInput(
            f"quantize: got {settings.quantize} with parameters full; expected LoRA, since weights in four bits have no "
            "gradients; leave one of them out"
        )
    from stateshape.policy.device import resolve_device

    if resolve_device(settings.device).type != "cuda":
        raise BadInput(
            f"quantize: got {settings.quantize}, but no CUDA device is used; expected a GPU, where bitsandbytes runs; leave "
            "quantize out"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BadInput(
            f"quantize: got {settings.quantize}, but the library bitsandbytes is not installed; expected it; pip install "
            "bitsandbytes, or leave quantize out"
        )


def check_shard(settings: ModelSettings, *, is_full: bool = False) -> None:
    """Whether the base's layers can be split over the processes there are, and be trained on in this way. Raises BadInput."""
    if not settings.shard_base:
        return
    from stateshape.core.ranks import current

    if current().count == 1:
        raise BadInput(
            "shard_base: got true in one process; expected several, to split the base between them; add --processes N, or "
            "leave shard_base out"
        )
    if is_full:
        raise BadInput(
            "shard_base: got true with parameters full; expected lora, since the base's layers are split as they are and not "
            "trained; leave one of them out"
        )
    if settings.quantize is not None:
        raise BadInput(
            f"shard_base: got true with quantize {settings.quantize}; expected weights in their own dtype, which can be split; "
            "leave one of them out"
        )
    if settings.compile:
        raise BadInput(
            "shard_base: got true with compile; expected one of the two, since what is compiled reads whole layers; leave "
            "one of them out"
        )
