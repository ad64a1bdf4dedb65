"""What the device could do at best, measured, and what a piece of work needs: bytes a decode reads, operations a step takes.

    decoding   seconds >= sum over steps of (weights + KV of the rows still alive) / copy bandwidth
    training   FLOPs = 2 N T forward + 2 N T backward (the base is frozen: no weight gradients) + 6 N_lora T
                       + attention + the head at the supervised positions only

Both count every row by itself. An engine that reads or computes a shared prompt once needs less; the package's own count
of a step (policy/flops.py) is of what is computed. Sizes come from the model's config and parameters. Knows no benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.common import DEVICE, DTYPE, timed
from stateshape.policy.policy import Policy

REPEATS = 10


def copy_bandwidth(num_bytes: int) -> float:
    """Bytes a second, read and write together, of a device copy. The best of a few."""
    source = torch.empty(num_bytes, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * num_bytes / min(timed(lambda: target.copy_(source))[0] for _ in range(REPEATS))


def matmul_peak(width: int) -> float:
    """FLOP/s of a square product in the dtype in use. The best of a few."""
    a, b = (torch.randn(width, width, device=DEVICE, dtype=getattr(torch, DTYPE)) for _ in range(2))
    return 2 * width**3 / min(timed(lambda: a @ b)[0] for _ in range(REPEATS))


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Counts of a model: parameters that multiply every token (`body`), the head's, and what attention needs."""

    body: int
    head: int
    lora: int
    num_layers: int
    attention_width: int  # heads x head size
    kv_width: int  # key and value numbers a token and layer
    bytes_each: int


def shape_of(policy: Policy) -> Shape:
    config = policy.weights.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    body = sum(
        parameter.numel()
        for name, parameter in policy.weights.body.named_parameters()
        if "embed_tokens" not in name and "lora_" not in name
    )
    lora = sum(parameter.numel() for parameter in policy.parameters()) if policy.is_trainable else 0
    return Shape(
        body=body,
        head=policy.head.weight_VD.numel(),
        lora=lora,
        num_layers=config.num_hidden_layers,
        attention_width=config.num_attention_heads * head_dim,
        kv_width=2 * config.num_key_value_heads * head_dim,
        bytes_each=policy.head.weight_VD.element_size(),
    )


def decode_bytes(shape: Shape, prompt_lengths: Sequence[int], new_lengths: Sequence[int]) -> float:
    """What all decoding steps must read: the weights once a step, and each living row's own keys and values."""
    weights = (shape.body + shape.head) * shape.bytes_each
    num_steps = max(new_lengths) - 1  # the first token comes from the prefill
    num_read = sum(
        (new - 1) * prompt + new * (new - 1) // 2 for prompt, new in zip(prompt_lengths, new_lengths, strict=True)
    )
    return num_steps * weights + num_read * shape.num_layers * shape.kv_width * shape.bytes_each


def forward_flops(shape: Shape, lengths: Sequence[int], num_supervised: int) -> float:
    tokens = sum(lengths)
    attention = shape.num_layers * 2 * sum(length**2 for length in lengths) * shape.attention_width  # causal: half
    return 2 * (shape.body + shape.lora) * tokens + attention + 2 * shape.head * num_supervised


def training_flops(shape: Shape, lengths: Sequence[int], num_supervised: int) -> float:
    """Forward and backward: gradients of activations everywhere, of weights in the adapter alone."""
    forward = forward_flops(shape, lengths, num_supervised)
    attention = shape.num_layers * 2 * sum(length**2 for length in lengths) * shape.attention_width
    return 2 * forward + attention + 2 * shape.lora * sum(lengths)
