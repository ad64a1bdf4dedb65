"""Floating-point operations that a pass of a model has to do, from the shapes of its layers. A product-sum is two.

Per token, P weights in linear layers of the body:   2 P forward, 2 P backward (a frozen base: the inputs' gradient only)
    LoRA of rank r on a layer I -> O, per token:     2 r (I + O) forward, 4 r (I + O) backward
    all of them trained:                             2 P forward, 4 P backward
Per query-key pair, L layers, H heads of width E:    4 L H E forward, 8 L H E backward; a pair is a token and one it sees, as if
    no layer had a window
Per position that is read, head of V x D:            2 V D forward, 2 V D for the gradient of the hidden state,
    and 2 V D for that of a head that is trained

Backward stops where no adapter comes before: the first layer's q, k, v read the frozen embedding, so their input needs no
gradient. In our decoder the last layer's output and MLP run only at the positions that are read.

Not counted: norms, rotations, softmax, sampling, the optimiser (all of the order of D per token), padding, and repeated
work (the head, for each sample of one prompt). A mixture's experts are all counted, or none if they are not linear
layers. Does not know what a pass is for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from stateshape.policy.targets import bare, linear_modules, sizes

if TYPE_CHECKING:
    from stateshape.policy.weights import SharedWeights

FIRST_READS = ("q_proj", "k_proj", "v_proj")  # of the first layer: they read the embedding
LAST_WRITES = (
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
)  # of the last layer: they run only at positions that are read


class Work(NamedTuple):
    """Operations per unit: a token, a query-key pair, or a position."""

    forward: int
    backward: int

    def plus(self, other: Work) -> Work:
        return Work(self.forward + other.forward, self.backward + other.backward)


class Flops(NamedTuple):
    """The cost of a pass under one adapter."""

    token: Work
    pair: Work
    position: Work

    def of(self, *, tokens: int, pairs: int, positions: int, is_backward: bool) -> int:
        counts = ((tokens, self.token), (pairs, self.pair), (positions, self.position))
        return sum(count * (work.forward + is_backward * work.backward) for count, work in counts)


def flops_of(weights: SharedWeights, adapter: str | None) -> Flops | None:
    """Counts of the body's linear layers, attention and head; None for a model whose layers do more than that."""
    if weights.passes.kind == "general":
        return None
    num_layers, num_groups, width = weights.cache_shapes.keys
    heads = getattr(weights.config, "num_attention_heads", None) or num_groups
    per_pair = 2 * num_layers * heads * (width + weights.cache_shapes.values[2])
    rows, columns = weights.head.weight_VD.shape
    is_full, is_plain = weights.is_full(adapter), weights.is_plain(adapter)
    token, position = Work(0, 0), Work(2 * rows * columns, (4 if is_full else 2) * rows * columns)
    for name, layer in linear_modules(weights.body):
        if is_full:
            work = Work(2 * math.prod(sizes(bare(layer))), 4 * math.prod(sizes(bare(layer))))
        else:
            work = _work(layer, adapter, reads_frozen=_is_in(name, 0, FIRST_READS))
        if is_plain and _is_in(name, num_layers - 1, LAST_WRITES):
            position = position.plus(work)
        else:
            token = token.plus(work)
    return Flops(token, Work(per_pair, 2 * per_pair), position)


def activation_bytes(weights: SharedWeights) -> int:
    """Roughly what a training pass keeps per token until backward: inputs and outputs of the body's linear layers."""
    return weights.dtype.itemsize * sum(sum(sizes(bare(layer))) for _, layer in linear_modules(weights.body))


def _work(layer: Any, adapter: str | None, *, reads_frozen: bool) -> Work:
    products = math.prod(sizes(bare(layer)))
    forward, backward = 2 * products, 0 if reads_frozen else 2 * products
    lora = getattr(layer, "lora_A", {})
    if adapter is not None and adapter in lora:
        a, b = lora[adapter].weight, layer.lora_B[adapter].weight
        forward += 2 * (a.numel() + b.numel())
        backward += 4 * (a.numel() + b.numel()) - (2 * a.numel() if reads_frozen else 0)
    return Work(forward, backward)


def _is_in(name: str, layer: int, projections: tuple[str, ...]) -> bool:
    """Whether a module such as layers.0.self_attn.q_proj is one of the projections of a layer."""
    parts = name.split(".")
    return parts[:2] == ["layers", str(layer)] and parts[-1] in projections
