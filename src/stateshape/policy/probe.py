"""Two short rows through a model's own code and through ours: how far apart the numbers are.

Both rows share a beginning, so ours computes them as one tree. The last token of the second is at the model's last
position, so that angles which depend on the longest row of a pass change the first row's logits. The model's own code runs
each row alone. Decides nothing (policy/checks.py).

Suffixes: T token of both rows, one after another, V vocabulary, G key-value heads, E head width, N flat token.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from stateshape.core.tensors import logits_of
from stateshape.policy.decoder import ForwardPass
from stateshape.policy.exact import ExactArithmetic, ExactConvolutions
from stateshape.policy.own_cache import caches_of
from stateshape.policy.own_code import FOREIGN, accepted, listening_to_head
from stateshape.policy.tree_attention import TreeAttention, lay_out

if TYPE_CHECKING:
    from stateshape.policy.weights import SharedWeights

TEXT = "A train leaves the town at nine and travels 120 miles in two hours. How many miles does it travel in an hour?\n"
MAX_TOKENS = 24
BRANCH_TOKENS = 2  # the part in which the second row differs
TINY = 1e-30  # avoids division by zero for a model of zeros
IMPLEMENTATIONS, EAGER = ("_attn_implementation", "_experts_implementation"), "eager"


class Probe(NamedTuple):
    """Rows and the position of each of their tokens."""

    rows: list[list[int]]
    positions: list[list[int]]


class Found(NamedTuple):
    """Outputs of a pass for the tokens of both rows. `cached`: keys and values [T, G, E] of every layer, if available."""

    logits_TV: Tensor
    cached: list[tuple[Tensor, Tensor]] | None
    hidden_TD: Tensor  # what the head is given


class Gap(NamedTuple):
    """Largest differences between two passes, relative to the largest value; NaN if anything is NaN."""

    first_row: float
    second_row: float
    cached: float

    @property
    def worst(self) -> float:
        return float(torch.tensor(self).max())


def make_probe(weights: SharedWeights) -> Probe:
    """Real text in the model's own tokens, as many as it has positions for; arbitrary tokens if the text is too short."""
    num_ids = weights.head.num_tokens
    last = getattr(weights.config, "max_position_embeddings", None)
    num_positions = last if isinstance(last, int) and last > 0 else MAX_TOKENS
    num_positions = min(num_positions, weights.row_limit or num_positions)
    size = min(MAX_TOKENS, num_positions)
    text = [token for token in weights.tokenizer(TEXT)["input_ids"] if token < num_ids]
    first = [*text, *(k % num_ids for k in range(size))][:size]
    shared = max(size - BRANCH_TOKENS, 0)
    second = [*first[:shared], *((token + 1) % num_ids for token in first[shared:])]
    places = list(range(size))
    return Probe([first, second], [places, [*places[:-1], num_positions - 1]])


@contextmanager
def plainly(config: Any) -> Iterator[None]:
    """Inside, the model's own code computes attention and experts product by product, as its paper says.

    Its fused attention leaves soft caps out (Gemma 2), and fused experts do not know double precision.
    """
    names = [name for name in IMPLEMENTATIONS if getattr(config, name, None) is not None]
    before = [getattr(config, name) for name in names]
    try:
        for name in names:
            setattr(config, name, EAGER)
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(config, name, value)


@contextmanager
def exact(weights: SharedWeights) -> Iterator[None]:
    """Double precision for everything computed inside, by the model's own code and by ours."""
    with plainly(weights.config), ExactArithmetic(), ExactConvolutions(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")  # intended
        yield


def run_own(weights: SharedWeights, probe: Probe) -> Found:
    """Runs the model's own code, one row at a time; with a cache if it has one that works."""
    try:
        return _run_own(weights, probe, with_cache=True)
    except torch.OutOfMemoryError:
        raise
    except FOREIGN:
        return _run_own(weights, probe, with_cache=False)


def _run_own(weights: SharedWeights, probe: Probe, *, with_cache: bool) -> Found:
    model, outputs = weights.model, []
    with listening_to_head(model) as given:
        for row, positions in zip(probe.rows, probe.positions):
            ids, places = (torch.tensor([values], device=weights.device) for values in (row, positions))
            inputs = accepted(model, position_ids=places, use_cache=with_cache)
            outputs.append(model(input_ids=ids, **inputs))
    if len(given) != len(outputs):
        raise LookupError("a head that its own code asks more or less than once")
    return Found(
        torch.cat([one.logits[0] for one in outputs]),
        _cached([next(iter(caches_of(model, one).values()), None) for one in outputs]),
        torch.cat([one[0] for one in given]),
    )


def _cached(caches: list[Any]) -> list[tuple[Tensor, Tensor]] | None:
    """Caches of both rows, concatenated; None if they hold something else, or not all of a row."""
    layers = [getattr(cache, "layers", None) for cache in caches]
    if not all(isinstance(row, list) and row and all(type(one) is DynamicLayer for one in row) for row in layers):
        return None

    def joined(rows: tuple[Any, ...], name: str) -> Tensor:
        return torch.cat([getattr(row, name)[0].transpose(0, 1) for row in rows])

    return [(joined(rows, "keys"), joined(rows, "values")) for rows in zip(*layers)]  # type: ignore[arg-type]


def run_ours(weights: SharedWeights, probe: Probe, forward: ForwardPass) -> Found:
    """Runs both rows as one tree. Raises IndexError if the model's attention never calls ours."""
    layout = lay_out(probe.rows, weights.device)
    path_T = torch.tensor(np.concatenate(layout.paths), device=weights.device)
    position_N = torch.empty_like(layout.position_N)
    position_N[path_T] = torch.tensor(np.concatenate(probe.positions), device=weights.device)
    attention = TreeAttention(layout, keep=True)
    hidden_TD = forward(layout.ids_N, position_N, attention, path_T)
    if not attention.kept or attention.layers != list(range(len(attention.layers))):
        raise IndexError("attention was never asked, or not once by every layer")
    cached = [(keys[path_T], values[path_T]) for keys, values in attention.kept]
    return Found(logits_of(hidden_TD, weights.head), cached, hidden_TD)


def gap(actual: Found, expected: Found) -> Gap:
    """Differences of logits per row, and of cached keys and values if both passes give them."""
    difference_TV = (actual.logits_TV - expected.logits_TV).abs()
    size = expected.logits_TV.abs().max().clamp_min(TINY)
    first, second = (float(row.max() / size) for row in difference_TV.chunk(2))
    if actual.cached is None or expected.cached is None:
        return Gap(first, second, 0.0)
    if len(actual.cached) != len(expected.cached):
        return Gap(first, second, torch.inf)
    pairs = [pair for layers in zip(actual.cached, expected.cached) for pair in zip(*layers)]
    return Gap(first, second, float(torch.tensor([_part_gap(mine, theirs) for mine, theirs in pairs]).max()))


def _part_gap(actual: Tensor, expected: Tensor) -> float:
    if actual.shape != expected.shape:
        return torch.inf
    return float((actual - expected).abs().max() / expected.abs().max().clamp_min(TINY))


def rounding(actual: Found, expected: Found) -> float:
    """Root mean square error of the logits in the weights' own precision, relative to that of the logits."""
    difference_TV = actual.logits_TV.double() - expected.logits_TV
    return float(difference_TV.pow(2).mean().sqrt() / expected.logits_TV.pow(2).mean().sqrt().clamp_min(TINY))
