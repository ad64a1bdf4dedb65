"""Checks once, when a model is loaded, that our forward passes are correct for it, by comparing numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import peft
import torch

from stateshape.core.files import BadInput
from stateshape.core.head import Head
from stateshape.core.ranks import RankLost
from stateshape.policy.bridge import run_transformers
from stateshape.policy.decoder import PLAIN, ForwardPass, join_weights, read_decoder
from stateshape.policy.foreign import reason_of
from stateshape.policy.habits import Habits, find_habits
from stateshape.policy.mixing import Window
from stateshape.policy.own_code import FOREIGN
from stateshape.policy.own_head import find_head
from stateshape.policy.probe import (
    EAGER,
    TINY,
    Found,
    Probe,
    exact,
    gap,
    make_probe,
    plainly,
    rounding,
    run_ours,
    run_own,
)
from stateshape.policy.windows import has_windows, narrow_windows

if TYPE_CHECKING:
    from stateshape.policy.weights import SharedWeights

PLAIN_TARGETS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
MAX_GAP = 1e-7  # in double precision, two ways to compute the same value differ by 1e-14 (SmolLM2, 30 layers)
MAX_CACHED_GAP = 1e-5  # some caches keep their states in the weights' dtype
FINE = (torch.float32, torch.float64)
MAX_ROUNDED_GAP = 1e-4  # in fp32, by which a formula is told from rounding less surely
# a pass may round this much worse than the model's own code, which differs as much from one processor to the next
MAX_ROUNDING = 8.0


class CacheShapes(NamedTuple):
    """[layers, heads, width] of a token's keys and of its values in a cache."""

    keys: tuple[int, int, int]
    values: tuple[int, int, int]


PassKind = Literal["decoder", "bridge", "general"]


class Passes(NamedTuple):
    """How a model is run: by policy/decoder.py, by policy/bridge.py, or by policy/general.py, and what that needs to know."""

    kind: PassKind
    cache_shapes: CacheShapes | None = None  # of a pass over prefix trees
    habits: Habits | None = None  # of a general one


def check_tokens(weights: SharedWeights) -> None:
    """Every token must have a row in the embedding and in the head. Raises BadInput with those that have none."""
    if not weights.tokenizer("a 1", add_special_tokens=False)["input_ids"]:
        raise BadInput(
            f"model: got {weights.source!r}, whose tokenizer returns no tokens for a text; expected its tokenizer.json (or "
            "tokenizer.model) next to the weights; copy it there"
        )
    num_rows = min(len(weights.model.get_input_embeddings().weight), weights.head.num_tokens)
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
def check_passes(weights: SharedWeights) -> Passes:
    """The fastest pass that gives the model's own logits; finds out `weights.head` on the way.

    Formulas are compared in double precision (policy/exact.py), where rounding plays no part whatever the weights'
    dtype; then each pass runs in that dtype, where its rounding must be of the same order as the model's own code's.
    Windows are made so short meanwhile that the rows compared are longer.

    Raises: BadInput if the model's own code can't be run here, or its logits can't be made from its hidden states.
    """
    probe = make_probe(weights)
    if getattr(weights.model, "is_quantized", False):
        with narrow_windows(weights):
            return quantised_pass(weights, probe)
    with narrow_windows(weights):
        try:
            with exact(weights):
                truth = run_own(weights, probe)
        except torch.OutOfMemoryError:
            raise
        except (*FOREIGN, ImportError):
            return rounded_pass(weights, probe)
        allowed = allowed_rounding(weights, probe, truth)
        with exact(weights):
            weights.head = read_head(weights, truth, MAX_GAP)
        return (
            plain_pass(weights, probe, truth, allowed)
            or bridged_pass(weights, probe, truth, allowed)
            or general_pass(weights, probe, truth)
        )


def read_head(weights: SharedWeights, truth: Found, limit: float) -> Head:
    head = find_head(weights.model, truth.hidden_TD, truth.logits_TV, limit=limit)
    if head is None:
        raise BadInput(
            f"model: got {weights.source!r}, whose logits are not its hidden states times a matrix, with a bias, scale or soft "
            "cap at most; expected such a head, as losses make logits from hidden states; use another model"
        )
    return head


def plain_pass(weights: SharedWeights, probe: Probe, truth: Found, allowed: float) -> Passes | None:
    """Our decoder, if it agrees. It can't read weights that lie on several ranks."""
    if weights.is_sharded:
        return None
    try:
        join_weights(weights.body)
        plain = read_decoder(weights.body, None, trainable=False)
        ours, off = run_both(weights, probe, truth, plain)
    except torch.OutOfMemoryError:
        raise
    except FOREIGN:
        return None
    if has_windows(weights) or not (gap(ours, truth).worst <= MAX_GAP and off <= allowed):
        return None
    if weights.halves is not PLAIN:
        check_compiled(weights, probe, truth, allowed)
    return Passes("decoder", cache_shapes(ours))


def bridged_pass(weights: SharedWeights, probe: Probe, truth: Found, allowed: float) -> Passes | None:
    """transformers' modules with our attention, if they agree, and if our attention was told of the windows they have."""
    asked: list[Window] = []
    try:
        ours, off = run_both(weights, probe, truth, partial(run_transformers, weights.model, asked=asked))
    except torch.OutOfMemoryError:
        raise
    except FOREIGN:
        return None
    difference = gap(ours._replace(cached=None), truth)
    if difference.second_row <= MAX_GAP < difference.first_row:
        raise BadInput(
            f"model: got {weights.source!r}, in which a row's logits depend on the longest row of its pass (relative "
            f"difference {difference.first_row:.2g}); expected positions that do not depend on other rows; use another model"
        )
    is_told = bool(asked) or not has_windows(weights)
    has_one_shape = len({(keys.shape[1:], values.shape[1:]) for keys, values in ours.cached or ()}) == 1
    agrees = difference.worst <= MAX_GAP and off <= allowed
    return Passes("bridge", cache_shapes(ours)) if is_told and has_one_shape and agrees else None


def general_pass(weights: SharedWeights, probe: Probe, truth: Found) -> Passes:
    """The model's own forward pass; what it allows is tried out. Its fused attention must know all that its plain one does."""
    config, fused = weights.config, weights.config._attn_implementation
    with exact(weights):
        config._attn_implementation = fused
        is_same = gap(run_own(weights, probe)._replace(cached=None), truth).worst <= MAX_GAP
    if not is_same:
        config._attn_implementation = EAGER
    return Passes("general", habits=habits_of(weights, probe))


def habits_of(weights: SharedWeights, probe: Probe) -> Habits:
    """Tried out in the weights' own dtype if that is fine enough, for recurrences are slow in double precision."""
    model = weights.model
    with refusing(weights):
        if weights.dtype in FINE:
            return find_habits(model, probe.rows, limit=MAX_ROUNDED_GAP, cached_limit=MAX_ROUNDED_GAP)
        with exact(weights):
            return find_habits(model, probe.rows, limit=MAX_GAP, cached_limit=MAX_CACHED_GAP)


def rounded_pass(weights: SharedWeights, probe: Probe) -> Passes:
    """The general pass of a model whose own code does not run in double precision: its head and habits as fp32 shows them."""
    if weights.dtype not in FINE:
        raise BadInput(
            f"dtype: got {name_of(weights.dtype)} for {weights.source!r}, whose code can't be checked in double precision; "
            "expected float32, in which its passes are compared instead; use --dtype float32"
        )
    with refusing(weights), plainly(weights.config):
        own = run_own(weights, probe)
        weights.head = read_head(weights, own, MAX_ROUNDED_GAP)
    return Passes("general", habits=habits_of(weights, probe))


def quantised_pass(weights: SharedWeights, probe: Probe) -> Passes:
    """transformers' modules with our attention, if they agree with its own code in the weights' dtype, or its own forward pass.

    Layers in four bits don't run in double precision, and our decoder can't read them.
    """
    limit = max(MAX_ROUNDED_GAP, MAX_ROUNDING * torch.finfo(weights.dtype).eps)
    asked: list[Window] = []
    with refusing(weights), plainly(weights.config):
        own = run_own(weights, probe)
        weights.head = read_head(weights, own, limit)
    with contextlib.suppress(*FOREIGN):
        ours = run_ours(weights, probe, partial(run_transformers, weights.model, asked=asked))
        has_one_shape = len({(keys.shape[1:], values.shape[1:]) for keys, values in ours.cached or ()}) == 1
        is_told = bool(asked) or not has_windows(weights)
        if is_told and has_one_shape and gap(ours._replace(cached=None), own).worst <= limit:
            return Passes("bridge", cache_shapes(ours))
    with refusing(weights):
        return Passes("general", habits=find_habits(weights.model, probe.rows, limit=limit, cached_limit=limit))


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
        with plainly(weights.config):
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


@contextmanager
def refusing(weights: SharedWeights) -> Iterator[None]:
    """Turns the errors of a model that transformers itself can't run here, for want of a library say, into BadInput."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (*FOREIGN, ImportError) as error:
        raise BadInput(
            f"model: got {weights.source!r}, which transformers can't run here ({reason_of(error)}); expected a causal "
            "language model of plain tokens; use another model, or install what it asks for"
        ) from None


@contextmanager
def check_sharded(weights: SharedWeights) -> Iterator[None]:
    """Inside, the layers are split; the probe's hidden states must be the same before and after. Raises BadInput."""
    rows = make_probe(weights).rows
    places = [np.arange(len(row)) for row in rows]
    with torch.no_grad():
        before_ND = weights.hidden_at(rows, places).hidden_ND
        try:
            yield
            after_ND = weights.hidden_at(rows, places).hidden_ND.to(before_ND.device)
        except (torch.OutOfMemoryError, RankLost, BadInput):
            raise
        except FOREIGN as error:
            raise BadInput(refused_sharding(weights, reason_of(error))) from None
    off = float((after_ND - before_ND).abs().max() / before_ND.abs().max().clamp_min(TINY))
    if not off <= max(MAX_ROUNDED_GAP, MAX_ROUNDING * torch.finfo(weights.dtype).eps):
        raise BadInput(refused_sharding(weights, f"relative difference {off:.2g}"))


def refused_sharding(weights: SharedWeights, reason: str) -> str:
    return (
        f"shard_base: got true for {weights.source!r}, whose layers give other hidden states when they are split ({reason}); "
        "expected layers that read their weights when they are called; leave shard_base out"
    )


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
