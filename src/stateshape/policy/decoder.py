"""The forward pass of a Llama-like decoder on flat tokens, with the attention handed in.

One pass per layer over its weights: RMS norm, rotary positions, grouped heads, gated SiLU; LoRA added beside each linear
layer, never merged. Models that are not of this kind run through transformers' own code (policy/bridge.py). Whether a
model is of this kind is decided by comparing numbers, not names.

Floor, per token: 2 FLOPs a weight forward, 2 more backward (the base is frozen, so only the inputs' gradient), + LoRA.

Suffixes: N token, D width, H query heads, G key-value heads, E head width, R rank, I and O inputs and outputs of a layer.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from stateshape.policy.tree_attention import take


class Attend(Protocol):
    """Mixes tokens in one layer: [N, H, E], [N, G, E], [N, G, E] -> [N, H, E]."""

    def __call__(
        self, layer: int, query_NHE: Tensor, key_NGE: Tensor, value_NGE: Tensor, scale: float, /
    ) -> Tensor: ...


class ForwardPass(Protocol):
    """Flat tokens and their positions -> last hidden states [N, D], or [M, D] of the wanted tokens."""

    def __call__(self, ids_N: Tensor, position_N: Tensor, attend: Attend, wanted_M: Tensor | None = None) -> Tensor: ...


class Linear(NamedTuple):
    """x W^T + b + scale (x A^T) B^T"""

    weight_OI: Tensor
    bias_O: Tensor | None
    a_RI: Tensor | None  # as wide as the base's numbers are
    b_RO: Tensor | None
    scale: float

    def __call__(self, x_NI: Tensor) -> Tensor:
        out_NO = F.linear(x_NI, self.weight_OI, self.bias_O)
        if self.a_RI is None or self.b_RO is None:
            return out_NO
        return torch.addmm(out_NO, F.linear(x_NI, self.a_RI), self.b_RO, alpha=self.scale)

    def kind(self) -> tuple[object, ...]:
        """What two adapters of one base must share to take each other's place."""
        return (None, 0.0) if self.a_RI is None else (self.a_RI.shape, self.scale)

    def with_own_adapter(self) -> Linear:
        if self.a_RI is None or self.b_RO is None:
            return self
        return self._replace(a_RI=self.a_RI.clone(), b_RO=self.b_RO.clone())


class Norm(NamedTuple):
    """RMS norm over the last dimension."""

    weight: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


class Layer(NamedTuple):
    before_attention: Norm
    q: Linear
    k: Linear
    v: Linear
    q_norm: Norm | None
    k_norm: Norm | None
    o: Linear
    before_mlp: Norm
    gate: Linear
    up: Linear
    down: Linear


LINEAR_LAYERS = ("q", "k", "v", "o", "gate", "up", "down")


class Decoder(NamedTuple):
    """The base weights and one adapter (or none), as views on the modules that hold them."""

    embedding_VD: Tensor
    layers: list[Layer]
    last_norm: Norm
    rotary: nn.Module
    head_width: int
    scale: float  # of query-key products

    def __call__(self, ids_N: Tensor, position_N: Tensor, attend: Attend, wanted_M: Tensor | None = None) -> Tensor:
        """Last hidden states [N, D], after the last norm; [M, D] of the wanted tokens where those are given."""
        x_ND = F.embedding(ids_N, self.embedding_VD)
        cos_N1E, sin_N1E = (part[0][:, None] for part in self.rotary(x_ND, position_N[None]))
        for number, layer in enumerate(self.layers):
            h_ND = layer.before_attention(x_ND)
            q_NHE, k_NGE, v_NGE = (
                linear(h_ND).unflatten(-1, (-1, self.head_width)) for linear in (layer.q, layer.k, layer.v)
            )
            if layer.q_norm is not None and layer.k_norm is not None:
                q_NHE, k_NGE = layer.q_norm(q_NHE), layer.k_norm(k_NGE)
            q_NHE, k_NGE = rotate(q_NHE, cos_N1E, sin_N1E), rotate(k_NGE, cos_N1E, sin_N1E)
            attended_ND = attend(number, q_NHE, k_NGE, v_NGE, self.scale).flatten(1)
            if number + 1 == len(self.layers) and wanted_M is not None:  # nobody reads the others from here on
                x_ND, attended_ND = take(x_ND, wanted_M), take(attended_ND, wanted_M)
            x_ND = x_ND + layer.o(attended_ND)
            h_ND = layer.before_mlp(x_ND)
            x_ND = x_ND + layer.down(F.silu(layer.gate(h_ND)) * layer.up(h_ND))
        return self.last_norm(x_ND)

    def linears(self) -> list[Linear]:
        return [getattr(layer, name) for layer in self.layers for name in LINEAR_LAYERS]

    def with_own_adapter(self) -> Decoder:
        """The same, with copies of the adapter's tensors."""
        layers = [
            layer._replace(**{name: getattr(layer, name).with_own_adapter() for name in LINEAR_LAYERS})
            for layer in self.layers
        ]
        return self._replace(layers=layers)

    def take_adapter(self, other: Decoder) -> bool:
        """Copies the other's adapter over this one's, if base and shapes are the same; False, and nothing done, if not."""
        pairs = list(zip(self.linears(), other.linears()))
        if self.embedding_VD is not other.embedding_VD or any(mine.kind() != theirs.kind() for mine, theirs in pairs):
            return False
        for mine, theirs in pairs:
            if mine.a_RI is not None and mine.b_RO is not None and theirs.a_RI is not None and theirs.b_RO is not None:
                mine.a_RI.copy_(theirs.a_RI)
                mine.b_RO.copy_(theirs.b_RO)
        return True


def rotate(x_NHE: Tensor, cos_N1E: Tensor, sin_N1E: Tensor) -> Tensor:
    """Rotary position embedding, halves convention (arXiv:2104.09864)."""
    first, second = x_NHE.chunk(2, dim=-1)
    return torch.addcmul(x_NHE * cos_N1E, torch.cat((-second, first), dim=-1), sin_N1E)


def read_decoder(body: Any, adapter: str | None, *, trainable: bool) -> Decoder:
    """Views on a transformers model body. Raises AttributeError where it is not built like this."""

    def linear(module: Any) -> Linear:
        base: Any = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if base is module or adapter is None or adapter not in module.lora_A:
            return Linear(base.weight, base.bias, None, None, 0.0)
        a_RI, b_OR = module.lora_A[adapter].weight, module.lora_B[adapter].weight
        if not trainable:
            a_RI, b_OR = a_RI.detach(), b_OR.detach()
        dtype = base.weight.dtype
        return Linear(base.weight, base.bias, a_RI.to(dtype), b_OR.to(dtype).T, float(module.scaling[adapter]))

    def norm(module: Any) -> Norm:
        return Norm(module.weight, module.variance_epsilon)

    layers = [
        Layer(
            before_attention=norm(layer.input_layernorm),
            q=linear(layer.self_attn.q_proj),
            k=linear(layer.self_attn.k_proj),
            v=linear(layer.self_attn.v_proj),
            q_norm=norm(layer.self_attn.q_norm) if hasattr(layer.self_attn, "q_norm") else None,
            k_norm=norm(layer.self_attn.k_norm) if hasattr(layer.self_attn, "k_norm") else None,
            o=linear(layer.self_attn.o_proj),
            before_mlp=norm(layer.post_attention_layernorm),
            gate=linear(layer.mlp.gate_proj),
            up=linear(layer.mlp.up_proj),
            down=linear(layer.mlp.down_proj),
        )
        for layer in body.layers
    ]
    return Decoder(
        embedding_VD=body.embed_tokens.weight,
        layers=layers,
        last_norm=norm(body.norm),
        rotary=body.rotary_emb,
        head_width=body.layers[0].self_attn.head_dim,
        scale=body.layers[0].self_attn.scaling,
    )
