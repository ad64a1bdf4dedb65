"""Checks once, when a model is loaded, that our forward passes are correct for it, by comparing numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import peft
import torch

from stateshape.core.files import BadInput
from stateshape.policy.bridge import run_transformers
from stateshape.policy.decoder import PLAIN, ForwardPass, join_weights, read_decoder
from stateshape.policy.foreign import reason_of
from stateshape.policy.probe import Found, Gap, Probe, exact, gap, make_probe, rounding, run_ours, run_own

if TYPE_CHECKING:
    from stateshape.policy.weights import SharedWeights

PLAIN_TARGETS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
MAX_GAP = 1e-7  # in double precision, two ways to compute the same value differ by 1e-14 (SmolLM2, 30 layers)
# a pass may round this much worse than the model's own code, which differs as much from one processor to the next
MAX_ROUNDING = 8.0
FOREIGN = (AttributeError, TypeError, RuntimeError, LookupError)  # raised by a model that is built differently
WINDOWS = ("sliding_window", "attention_window_size", "attention_window", "window_size", "attention_chunk_size")
ORDINARY = (
    "attention through transformers' interface, and logits that are hidden states times the head matrix (no bias, scale or "
    "soft cap)"
)


class CacheShapes(NamedTuple):
    """[layers, heads, width] of a token's keys and of its values in a cache."""

    keys: tuple[int, int, int]
    values: tuple[int, int, int]


def check_attention(weights: SharedWeights) -> None:
    """Every layer must attend to all earlier tokens: attention windows are not supported. Raises BadInput."""
    kinds = getattr(weights.config, "layer_types", None) or ()
    others = sorted(set(kinds) - {"full_attention"})
    if not kinds and any(getattr(weights.config, name, None) for name in WINDOWS):
        others = ["sliding_attention"]
    if others:
        raise BadInput(
            f"model: got {weights.source!r}, which has layers of {', '.join(others)}; expected full attention in every "
            "layer; use another model"
        )


def check_tokens(weights: SharedWeights) -> None:
    """Every token must have a row in the embedding and in the head. Raises BadInput with those that have none."""
    if not weights.tokenizer("a 1", add_special_tokens=False)["input_ids"]:
        raise BadInput(
            f"model: got {weights.source!r}, whose tokenizer returns no tokens for a text; expected its tokenizer.json (or "
            "tokenizer.model) next to the weights; copy it there"
        )
    num_rows = min(len(weights.model.get_input_embeddings().weight), len(weights.head_VD))
    beyond = sorted((token, text) for text, token in weights.tokenizer.get_vocab().items() if token >= num_rows)
    if beyond:
        token, text = beyond[0]
        raise BadInput(
            f"model: got {weights.source!r}, whose tokenizer has tokens without a row in the embedding ({len(beyond)} of "
            f"them, first {text!r} with id {token}); expected ids below {num_rows:,}; resize the embedding (transformers' "
            "resize_token_embeddings) and train it, or take the tokens out"
        )


def check_numbers(weights: SharedWeights) -> None:
    """Every weight must be finite in its own dtype. Raises BadInput, naming the first that is not."""
    for name, parameter in weights.model.named_parameters():
        # one pass over memory, no copy; a sum of finite numbers may overflow, so an infinite sum is checked again
        if (
            parameter.is_floating_point()
            and not parameter.sum(dtype=torch.float32).isfinite()
            and not parameter.isfinite().all()
        ):
            raise BadInput(
                f"model: got {weights.source!r}, whose tensor {name} contains a value that is not a finite number in "
                f"{name_of(weights.dtype)}; expected finite weights; use an unbroken copy, or another --dtype"
            )


def is_plain_lora(config: peft.LoraConfig) -> bool:
    """Whether an adapter is B A added to linear layers of attention and MLP, and nothing else."""
    targets = {str(name).split(".")[-1] for name in config.target_modules or ()}
    extras = (config.use_dora, config.lora_bias, config.fan_in_fan_out, config.layers_to_transform)
    return targets <= PLAIN_TARGETS and not any(extras)


@torch.no_grad()
def check_passes(weights: SharedWeights) -> tuple[bool, CacheShapes]:
    """Whether the plain decoder gives the model's own logits (otherwise transformers' code must), and the shapes of its cache.

    Formulas are compared in double precision (policy/exact.py), where rounding plays no part whatever the weights'
    dtype; then each pass runs in that dtype, where its rounding must be of the same order as the model's own code's.

    Raises: BadInput if neither agrees, for instance if logits are more than hidden states times one matrix.
    """
    probe = make_probe(weights)
    with _refusing(weights), exact(weights):
        truth = run_own(weights, probe)
    allowed = allowed_rounding(weights, probe, truth)
    try:
        join_weights(weights.body)
        plain = read_decoder(weights.body, None, trainable=False)
        ours, off = run_both(weights, probe, truth, plain)
        is_plain = gap(ours, truth).worst <= MAX_GAP and off <= allowed
    except torch.OutOfMemoryError:
        raise
    except FOREIGN:
        is_plain = False
    if is_plain:
        if weights.halves is not PLAIN:
            check_compiled(weights, probe, truth, allowed)
        return True, cache_shapes(ours)
    with _refusing(weights):
        ours, off = run_both(weights, probe, truth, partial(run_transformers, weights.body))
    refuse_gap(weights, gap(ours._replace(cached=None), truth))
    if not off <= allowed:
        raise BadInput(
            f"model: got {weights.source!r}, whose logits in {name_of(weights.dtype)} are off by {off:.2g} of their size in "
            f"our pass; expected at most {allowed:.2g}, by its own code's rounding; use --dtype float32"
        )
    return False, cache_shapes(ours)


def run_both(weights: SharedWeights, probe: Probe, truth: Found, forward: ForwardPass) -> tuple[Found, float]:
    """The pass's outputs in double precision, and its rounding error in the weights' own precision."""
    with exact(weights):
        ours = run_ours(weights, probe, forward)
    return ours, rounding(run_ours(weights, probe, forward), truth)


def allowed_rounding(weights: SharedWeights, probe: Probe, truth: Found) -> float:
    """The rounding error allowed in the weights' own dtype. Raises BadInput if the model itself gives NaN."""
    if not truth.logits_TV.isfinite().all():
        raise BadInput(
            f"model: got {weights.source!r}, whose logits are not finite; expected numbers; use an unbroken copy of it"
        )
    dtype = name_of(weights.dtype)
    try:
        own = run_own(weights, probe)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise BadInput(
            f"dtype: got {dtype}, in which {weights.source!r} can't be run here ({reason_of(error)}); expected one that "
            "this machine computes in; use --dtype float32"
        ) from None
    if not own.logits_TV.isfinite().all():
        raise BadInput(
            f"dtype: got {dtype}, in which logits of {weights.source!r} are not finite; expected numbers within its range; "
            "use --dtype bfloat16 or float32"
        )
    return MAX_ROUNDING * (rounding(own, truth) + torch.finfo(weights.dtype).eps)


def refuse_gap(weights: SharedWeights, difference: Gap) -> None:
    """Raises BadInput if a pass through transformers' code gives logits that differ from the model's."""
    if difference.worst <= MAX_GAP:
        return
    if difference.second_row <= MAX_GAP:
        raise BadInput(
            f"model: got {weights.source!r}, in which a row's logits depend on the longest row of its pass (relative "
            f"difference {difference.first_row:.2g}); expected positions that do not depend on other rows; use another model"
        )
    raise BadInput(
        f"model: got {weights.source!r}, which has other logits than ours (relative difference "
        f"{difference.worst:.2g}); expected {ORDINARY}; use another model"
    )


@contextmanager
def _refusing(weights: SharedWeights) -> Iterator[None]:
    """Turns the errors of a model that is built differently into BadInput."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except ValueError as error:
        raise BadInput(
            f"model: got {weights.source!r}, which has {error}; expected plain attention; use another model"
        ) from None
    except FOREIGN:
        raise BadInput(
            f"model: got {weights.source!r}, which has attention of its own; expected {ORDINARY}; use another model"
        ) from None


def cache_shapes(outputs: Found) -> CacheShapes:
    assert outputs.cached is not None
    keys, values = ((len(outputs.cached), *part.shape[1:]) for part in outputs.cached[0])
    return CacheShapes(keys, values)


def check_compiled(weights: SharedWeights, probe: Probe, truth: Found, allowed: float) -> None:
    """Compiled layers must compile here, and give the same logits. Raises BadInput."""
    try:
        compiled = read_decoder(weights.body, None, trainable=False, halves=weights.halves)
        off = rounding(run_ours(weights, probe, compiled), truth)
    except RuntimeError as error:
        raise BadInput(
            f"compile: got true, but torch.compile fails here ({reason_of(error)}); expected a compiler that works; leave "
            "compile out"
        ) from None
    if not off <= allowed:
        raise BadInput(
            f"compile: got true, but compiled layers give other logits (relative difference {off:.2g}); expected the "
            "model's own; leave compile out"
        )


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
