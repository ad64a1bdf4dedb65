"""The forward pass of a Llama-like decoder on flat tokens, with the attention passed in.

One pass per layer over its weights: RMS norm, rotary positions, grouped heads, gated SiLU; LoRA is added to the output of each
linear layer, never merged. Other models run through transformers' own code (policy/bridge.py). Whether a
model is of this kind is decided by comparing numbers, not names.

Floor, per token: 2 FLOPs per weight forward, 2 more backward (the base is frozen, so only the inputs' gradient), + LoRA.

Suffixes: N token, D width, H query heads, G key-value heads, E head width, R rank, I and O inputs and outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from stateshape.policy.mixing import Mixing
from stateshape.policy.tree_attention import take


class Attend(Protocol):
    """Mixes tokens in one layer: [N, H, E], [N, G, E], [N, G, E] -> [N, H, E]."""

    def __call__(
        self, layer: int, query_NHE: Tensor, key_NGE: Tensor, value_NGE: Tensor, mixing: Mixing, /
    ) -> Tensor: ...


class ForwardPass(Protocol):
    """Flat tokens and their positions -> last hidden states [N, D], or [M, D] of the wanted tokens."""

    def __call__(self, ids_N: Tensor, position_N: Tensor, attend: Attend, wanted_M: Tensor | None = None) -> Tensor: ...


class Linears(NamedTuple):
    """Layers that read the same input, x W^T + b + scale (x A^T) B^T each, with all W stacked and all A stacked.

    Stacked, they need one product for all W and one for all A: fewer, larger calls.
    """

    weight_OI: Tensor
    bias_O: Tensor | None
    sizes: tuple[int, ...]  # outputs of each
    a_RI: Tensor | None  # None: no adapter
    b_ROs: tuple[Tensor, ...]  # [R, O] of each
    scales: tuple[float, ...]

    def __call__(self, x_NI: Tensor) -> Sequence[Tensor]:
        """[N, O] of each."""
        parts = F.linear(x_NI, self.weight_OI, self.bias_O).split(self.sizes, dim=-1)
        if self.a_RI is None:
            return parts
        inner = F.linear(x_NI, self.a_RI).split([b_RO.shape[0] for b_RO in self.b_ROs], dim=-1)
        return [
            torch.addmm(part_NO, inner_NR, b_RO, alpha=scale)
            for part_NO, inner_NR, b_RO, scale in zip(parts, inner, self.b_ROs, self.scales)
        ]

    def kind(self) -> object:
        """What two adapters of one base must have in common for one to replace the other."""
        return None if self.a_RI is None else ([b_RO.shape for b_RO in self.b_ROs], self.scales)

    def adapter(self) -> list[Tensor]:
        return [] if self.a_RI is None else [self.a_RI, *self.b_ROs]

    def with_own_adapter(self) -> Linears:
        if self.a_RI is None:
            return self
        return self._replace(a_RI=self.a_RI.clone(), b_ROs=tuple(b_RO.clone() for b_RO in self.b_ROs))


class Norm(NamedTuple):
    """RMS norm over the last dimension."""

    weight: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


class Layer(NamedTuple):
    before_attention: Norm
    qkv: Linears
    q_norm: Norm | None
    k_norm: Norm | None
    o: Linears
    before_mlp: Norm
    gate_up: Linears
    down: Linears


def before_attention(
    layer: Layer, x_ND: Tensor, cos_N1E: Tensor, turned_N1E: Tensor, head_width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [N, H, E], keys and values [N, G, E] of the tokens' states."""
    h_ND = layer.before_attention(x_ND)
    q_NHE, k_NGE, v_NGE = (part.unflatten(-1, (-1, head_width)) for part in layer.qkv(h_ND))
    if layer.q_norm is not None and layer.k_norm is not None:
        q_NHE, k_NGE = layer.q_norm(q_NHE), layer.k_norm(k_NGE)
    return rotate(q_NHE, cos_N1E, turned_N1E), rotate(k_NGE, cos_N1E, turned_N1E), v_NGE


def after_attention(layer: Layer, x_ND: Tensor, attended_ND: Tensor) -> Tensor:
    """The states [N, D] after the layer."""
    x_ND = x_ND + layer.o(attended_ND)[0]
    gate_NO, up_NO = layer.gate_up(layer.before_mlp(x_ND))
    return x_ND + layer.down(F.silu(gate_NO) * up_NO)[0]


class Halves(NamedTuple):
    """What a layer does on both sides of attention."""

    before: Callable[..., tuple[Tensor, Tensor, Tensor]] = before_attention
    after: Callable[..., Tensor] = after_attention


PLAIN = Halves()


@cache
def compiled_halves() -> Halves:
    """The same with its small operations fused, for any number of tokens and all layers; compiled when first called.

    Each kind of call is compiled separately: with gradients or without, each rank, no adapter, a single token. There are a
    dozen; torch runs those beyond its limit uncompiled.
    """
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    return Halves(torch.compile(before_attention, dynamic=True), torch.compile(after_attention, dynamic=True))


LINEARS = ("qkv", "o", "gate_up", "down")
FIXED_ROTARY = ("default", "linear", "llama3", "yarn")  # kinds whose angles do not depend on the row's length


class Decoder(NamedTuple):
    """The base weights and one adapter (or none), as views on the modules that hold them."""

    embedding_VD: Tensor
    layers: list[Layer]
    last_norm: Norm
    rotary: nn.Module
    table: tuple[Tensor, Tensor] | None  # angles of positions 0, 1, ..., if they are looked up
    head_width: int
    mixing: Mixing
    halves: Halves = PLAIN

    def __call__(self, ids_N: Tensor, position_N: Tensor, attend: Attend, wanted_M: Tensor | None = None) -> Tensor:
        """Last hidden states [N, D], after the last norm; [M, D] of the wanted tokens if given."""
        x_ND = F.embedding(ids_N, self.embedding_VD)
        cos_N1E, turned_N1E = self.angles(position_N)
        for number, layer in enumerate(self.layers):
            q_NHE, k_NGE, v_NGE = self.halves.before(layer, x_ND, cos_N1E, turned_N1E, self.head_width)
            attended_ND = attend(number, q_NHE, k_NGE, v_NGE, self.mixing).flatten(1)
            if number + 1 == len(self.layers) and wanted_M is not None:  # nobody reads the others from here on
                x_ND, attended_ND = take(x_ND, wanted_M), take(attended_ND, wanted_M)
            x_ND = self.halves.after(layer, x_ND, attended_ND)
        return self.last_norm(x_ND)

    def angles(self, position_N: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and turned sine [N, 1, E]; see rotate."""
        if self.table is not None:
            return self.table[0][position_N], self.table[1][position_N]
        cos_N1E, sin_N1E = (part[0][:, None] for part in self.rotary(self.embedding_VD, position_N[None]))
        first, second = sin_N1E.chunk(2, dim=-1)
        return cos_N1E, torch.cat((-first, second), dim=-1)

    def with_table(self, num_positions: int) -> Decoder:
        """The same, with angles looked up: for a few rows, computing them takes as long as a layer."""
        if getattr(self.rotary, "rope_type", None) not in FIXED_ROTARY:
            return self
        return self._replace(table=self.angles(torch.arange(num_positions, device=self.embedding_VD.device)))

    def linears(self) -> list[Linears]:
        return [getattr(layer, name) for layer in self.layers for name in LINEARS]

    def with_own_adapter(self) -> Decoder:
        """The same, with copies of the adapter's tensors."""
        layers = [
            layer._replace(**{name: getattr(layer, name).with_own_adapter() for name in LINEARS})
            for layer in self.layers
        ]
        return self._replace(layers=layers)

    def take_adapter(self, other: Decoder) -> bool:
        """Copies the other's adapter over this one's. Returns False, and does nothing, if base or shapes differ."""
        pairs = list(zip(self.linears(), other.linears()))
        if self.embedding_VD is not other.embedding_VD or any(mine.kind() != theirs.kind() for mine, theirs in pairs):
            return False
        for mine, theirs in pairs:
            for target, source in zip(mine.adapter(), theirs.adapter(), strict=True):
                target.copy_(source)
        return True


def rotate(x_NHE: Tensor, cos_N1E: Tensor, turned_N1E: Tensor) -> Tensor:
    """Rotary position embedding, halves convention (arXiv:2104.09864). `turned`: the sine, its first half negated."""
    first, second = x_NHE.chunk(2, dim=-1)
    return torch.addcmul(x_NHE * cos_N1E, torch.cat((second, first), dim=-1), turned_N1E)


def join_weights(body: Any) -> None:
    """Stacks the weights of layers that read the same input in memory; no second copy stays.

    Raises: AttributeError if the body is not built like this.
    """
    for layer in body.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for modules in ((attention.q_proj, attention.k_proj, attention.v_proj), (mlp.gate_proj, mlp.up_proj)):
            joined = torch.cat([module.weight.detach() for module in modules])
            sizes = [module.weight.shape[0] for module in modules]
            for module, part in zip(modules, joined.split(sizes), strict=True):
                module.weight.data = part


def read_decoder(body: Any, adapter: str | None, *, trainable: bool, halves: Halves = PLAIN) -> Decoder:
    """Views on a transformers model body after join_weights. Raises AttributeError if it is not built like this."""

    def linears(*modules: Any) -> Linears:
        bases: list[Any] = [
            module.get_base_layer() if isinstance(module, BaseTunerLayer) else module for module in modules
        ]
        sizes = tuple(base.weight.shape[0] for base in bases)
        biases = [base.bias for base in bases]
        bias_O = None
        if any(bias is not None for bias in biases):
            zeros = [base.weight.new_zeros(size) for base, size in zip(bases, sizes)]
            bias_O = torch.cat([zero if bias is None else bias for bias, zero in zip(biases, zeros)])
        plain = Linears(together([base.weight for base in bases]), bias_O, sizes, None, (), ())
        if adapter is None or not any(adapter in getattr(module, "lora_A", ()) for module in modules):
            return plain
        adapters = [_lora(module, base.weight, adapter, trainable=trainable) for module, base in zip(modules, bases)]
        a_RIs, b_ROs, scales = zip(*adapters, strict=True)
        return plain._replace(a_RI=torch.cat(a_RIs) if len(a_RIs) > 1 else a_RIs[0], b_ROs=b_ROs, scales=scales)

    def norm(module: Any) -> Norm:
        return Norm(module.weight, module.variance_epsilon)

    layers = [
        Layer(
            before_attention=norm(layer.input_layernorm),
            qkv=linears(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
            q_norm=norm(layer.self_attn.q_norm) if hasattr(layer.self_attn, "q_norm") else None,
            k_norm=norm(layer.self_attn.k_norm) if hasattr(layer.self_attn, "k_norm") else None,
            o=linears(layer.self_attn.o_proj),
            before_mlp=norm(layer.post_attention_layernorm),
            gate_up=linears(layer.mlp.gate_proj, layer.mlp.up_proj),
            down=linears(layer.mlp.down_proj),
        )
        for layer in body.layers
    ]
    return Decoder(
        embedding_VD=body.embed_tokens.weight,
        layers=layers,
        last_norm=norm(body.norm),
        rotary=body.rotary_emb,
        table=None,
        head_width=body.layers[0].self_attn.head_dim,
        mixing=Mixing(body.layers[0].self_attn.scaling),
        halves=halves,
    )


def _lora(module: Any, weight_OI: Tensor, adapter: str, *, trainable: bool) -> tuple[Tensor, Tensor, float]:
    """A [R, I], B^T [R, O] in the base's dtype, and the scale; rank 0 if the adapter does not change the layer."""
    if adapter not in getattr(module, "lora_A", ()):
        return weight_OI.new_zeros(0, weight_OI.shape[1]), weight_OI.new_zeros(0, weight_OI.shape[0]), 0.0
    a_RI, b_OR = module.lora_A[adapter].weight, module.lora_B[adapter].weight
    if not trainable:
        a_RI, b_OR = a_RI.detach(), b_OR.detach()
    return a_RI.to(weight_OI.dtype), b_OR.to(weight_OI.dtype).T, float(module.scaling[adapter])


def together(weights: Sequence[Tensor]) -> Tensor:
    """The matrix formed by weights that are stacked in memory; see join_weights."""
    first, rows = weights[0].detach(), 0
    for weight in weights:
        if (
            weight.data_ptr() != first.data_ptr() + rows * first.stride(0) * first.itemsize
            or not weight.is_contiguous()
        ):
            raise RuntimeError("the weights of layers that read the same input do not lie together; see join_weights")
        rows += weight.shape[0]
    return first.as_strided((rows, first.shape[1]), first.stride(), first.storage_offset())
