"""What a model must be for our forward passes to be right, found out by comparing numbers once, when it is loaded."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import peft
import torch

from stateshape.core.files import BadInput
from stateshape.policy.bridge import run_transformers
from stateshape.policy.decoder import PLAIN, ForwardPass, join_weights, read_decoder
from stateshape.policy.settings import LoraSettings
from stateshape.policy.tree_attention import TreeAttention, lay_out

if TYPE_CHECKING:
    from stateshape.policy.weights import SharedWeights

PLAIN_TARGETS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
PROBE_TOKENS = 24
# logits of our pass against the model's own, relative to their largest: rounding differs, the arithmetic must not
PROBE_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
FOREIGN = (AttributeError, TypeError, RuntimeError, LookupError)  # what a model built in another way ends in


class CacheShapes(NamedTuple):
    """[layers, heads, width] of what a token leaves in a cache."""

    keys: tuple[int, int, int]
    values: tuple[int, int, int]


def check_attention(weights: SharedWeights) -> None:
    """Every layer must attend to all that came before: nothing here knows of windows. Raises BadInput."""
    kinds = getattr(weights.config, "layer_types", None) or ()
    others = sorted(set(kinds) - {"full_attention"})
    if getattr(weights.config, "sliding_window", None) and not kinds:
        others = ["sliding_attention"]
    if others:
        raise BadInput(
            f"model: got {weights.source!r}, which has layers of {', '.join(others)}; expected full attention in every "
            "layer; use another model"
        )


def check_targets(weights: SharedWeights, lora: LoraSettings) -> None:
    """Each of an adapter's targets must name layers of the model; peft passes over those that do not. Raises BadInput."""
    linear = [name for name, module in weights.model.named_modules() if isinstance(module, torch.nn.Linear)]
    layers = {name.removesuffix(".base_layer") for name in linear if ".lora_" not in name}  # peft wraps what it adapts
    last = sorted({name.rpartition(".")[2] for name in layers} - {"lm_head"})
    if odd := [one for one in lora.targets if not any(f".{name}".endswith(f".{one}") for name in layers)]:
        raise BadInput(
            f"lora.targets: got {odd[0]!r}, which names no linear layer of {weights.source}; expected some of {', '.join(last)}"
        )


def is_plain_lora(config: peft.LoraConfig) -> bool:
    """Whether an adapter is B A beside linear layers of attention and MLP, and nothing else."""
    targets = {str(name).split(".")[-1] for name in config.target_modules or ()}
    extras = (config.use_dora, config.lora_bias, config.fan_in_fan_out, config.layers_to_transform)
    return targets <= PLAIN_TARGETS and not any(extras)


@torch.no_grad()
def check_passes(weights: SharedWeights) -> tuple[bool, CacheShapes]:
    """Whether the plain decoder gives the model's own logits (else transformers' code must), and its cache's shapes.

    Raises: BadInput if neither does, so also where logits are more than hidden states times one matrix.
    """
    foreign = False
    try:
        join_weights(weights.body)
        plain, shapes = compare(weights, read_decoder(weights.body, None, trainable=False))
        is_plain = plain <= PROBE_TOLERANCE[weights.dtype]
    except FOREIGN:
        is_plain = False
    if is_plain:
        if weights.halves is not PLAIN:
            check_compiled(weights)
        return True, shapes
    try:
        worst, shapes = compare(weights, partial(run_transformers, weights.body))
    except ValueError as error:
        raise BadInput(
            f"model: got {weights.source!r}, which has {error}; expected plain attention; use another model"
        ) from None
    except FOREIGN:
        foreign = True
    if foreign or worst > PROBE_TOLERANCE[weights.dtype]:
        found = "attention of its own" if foreign else f"other logits than ours (relative difference {worst:.2g})"
        raise BadInput(
            f"model: got {weights.source!r}, which has {found}; expected attention through transformers' interface, and "
            "logits that are hidden states times the head matrix (no bias, scale or soft cap); use another model"
        )
    return False, shapes


def check_compiled(weights: SharedWeights) -> None:
    """Compiled layers must compile here, and give the same logits. Raises BadInput."""
    try:
        worst, _ = compare(weights, read_decoder(weights.body, None, trainable=False, halves=weights.halves))
    except RuntimeError as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise BadInput(
            f"compile: got true, but torch.compile fails here ({reason}); expected a compiler that works; leave compile out"
        ) from None
    if not worst <= PROBE_TOLERANCE[weights.dtype]:
        raise BadInput(
            f"compile: got true, but compiled layers give other logits (relative difference {worst:.2g}); expected the "
            "model's own; leave compile out"
        )


def compare(weights: SharedWeights, forward: ForwardPass) -> tuple[float, CacheShapes]:
    """Largest difference of our logits from the model's own on two rows that begin alike, relative to the largest logit."""
    rows = [list(range(PROBE_TOKENS)), [*range(PROBE_TOKENS - 2), 1, 0]]
    own_BTV = weights.model(input_ids=torch.tensor(rows, device=weights.device), use_cache=False).logits
    layout = lay_out(rows, weights.device)
    attention = TreeAttention(layout, keep=True)
    path_M = torch.tensor(np.concatenate(layout.paths), device=weights.device)
    hidden_MD = forward(layout.ids_N, layout.position_N, attention, path_M)
    difference = ((hidden_MD @ weights.head_VD.T).view(own_BTV.shape) - own_BTV).float().abs().max()
    assert attention.kept is not None
    keys, values = ((len(attention.kept), *part.shape[1:]) for part in attention.kept[0])
    return float(difference / own_BTV.float().abs().max().clamp_min(1e-6)), CacheShapes(keys, values)
