"""Tiny random models of many families, made from their configurations: two to four layers, windows of a few tokens."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import transformers as hf

from stateshape.embedded import base_folder
from stateshape.policy.weights import SharedWeights

WINDOW = 5
DEVICE = torch.device(os.environ.get("STATESHAPE_TEST_DEVICE", "cpu"))


class Family(NamedTuple):
    make: Callable[[], Any]  # its configuration
    kind: str  # of the pass that it takes
    special: str


@cache
def tokenizer() -> Any:
    return hf.AutoTokenizer.from_pretrained(str(base_folder()))


def sizes(**more: Any) -> dict[str, Any]:
    plain = {
        "vocab_size": len(tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    return {key: value for key, value in (plain | more).items() if value is not ...}


SMALL_EXPERTS = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
LATENT = {
    "q_lora_rank": 12,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
MAMBA = {
    "mamba_d_state": 8,
    "mamba_d_head": 16,
    "mamba_n_heads": 4,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
    "mamba_expand": 2,
}
ALTERNATING = ["sliding_attention", "full_attention"]
LINEAR = ["linear_attention", "full_attention"]
DELTA = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": LINEAR,
}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}


def family(kind: str, config: str, special: str = "", **fields: Any) -> Family:
    return Family(lambda: getattr(hf, config)(**sizes(**fields)), kind, special)


FAMILIES: dict[str, Family] = {
    # our decoder
    "llama": family("decoder", "LlamaConfig"),
    "qwen2": family("decoder", "Qwen2Config", "biases of queries, keys and values"),
    "qwen3": family(
        "decoder", "Qwen3Config", "norms of queries and keys; tied head", head_dim=8, tie_word_embeddings=True
    ),
    "seed_oss": family("decoder", "SeedOssConfig", head_dim=8),
    # transformers' modules with our attention
    "mistral": family("bridge", "MistralConfig", "a window in every layer", sliding_window=WINDOW),
    "ministral": family(
        "bridge",
        "MinistralConfig",
        "a window in some layers",
        sliding_window=WINDOW,
        layer_types=ALTERNATING,
        head_dim=8,
    ),
    "mixtral": family(
        "bridge", "MixtralConfig", "mixture of experts; a window", sliding_window=WINDOW, num_local_experts=4
    ),
    "qwen2-window": family(
        "bridge",
        "Qwen2Config",
        "a window in the upper layers",
        use_sliding_window=True,
        sliding_window=WINDOW,
        max_window_layers=1,
    ),
    "qwen3_moe": family("bridge", "Qwen3MoeConfig", "mixture of experts", num_experts=4, head_dim=8, **SMALL_EXPERTS),
    "gemma": family("bridge", "GemmaConfig", "embeddings scaled, norms by 1 + w", head_dim=8),
    "gemma2": family(
        "bridge",
        "Gemma2Config",
        "soft caps of attention and logits; windows",
        head_dim=8,
        sliding_window=WINDOW,
        layer_types=ALTERNATING,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    ),
    "gemma3_text": family(
        "bridge",
        "Gemma3TextConfig",
        "windows, two rotary bases",
        head_dim=8,
        sliding_window=WINDOW,
        layer_types=ALTERNATING,
    ),
    "gpt_oss": family(
        "bridge",
        "GptOssConfig",
        "attention sinks, windows, experts",
        head_dim=8,
        sliding_window=WINDOW,
        layer_types=ALTERNATING,
        num_local_experts=4,
        num_experts_per_tok=2,
    ),
    "olmo2": family("bridge", "Olmo2Config", "norms behind the layers"),
    "olmo3": family("bridge", "Olmo3Config", "windows", sliding_window=WINDOW, layer_types=ALTERNATING),
    "phi": family("bridge", "PhiConfig", "bias of the head; attention and MLP side by side"),
    "phi3": family("bridge", "Phi3Config", "one matrix for q, k, v; a window", sliding_window=WINDOW),
    "cohere": family("bridge", "CohereConfig", "scale of the logits", logit_scale=0.25),
    "cohere2": family(
        "bridge",
        "Cohere2Config",
        "scale of the logits; windows; no positions in full layers",
        logit_scale=0.25,
        sliding_window=WINDOW,
        layer_types=ALTERNATING,
        head_dim=8,
    ),
    "granite": family(
        "bridge",
        "GraniteConfig",
        "scales of embeddings, residuals, attention and logits",
        embedding_multiplier=2.0,
        residual_multiplier=0.5,
        attention_multiplier=0.3,
        logits_scaling=4.0,
    ),
    "granitemoe": family(
        "bridge",
        "GraniteMoeConfig",
        "experts; scale of the logits",
        num_local_experts=4,
        num_experts_per_tok=2,
        logits_scaling=4.0,
    ),
    "starcoder2": family("bridge", "Starcoder2Config", "a window", sliding_window=WINDOW),
    "stablelm": family("bridge", "StableLmConfig", "part of each head rotated"),
    "gpt2": family("bridge", "GPT2Config", "learned positions; Conv1D", **GPT),
    "gpt_bigcode": family("bridge", "GPTBigCodeConfig", "one key-value head; learned positions", **GPT),
    "gpt_neox": family("bridge", "GPTNeoXConfig", "one matrix for q, k, v", num_key_value_heads=...),
    "opt": family(
        "bridge",
        "OPTConfig",
        "learned positions",
        ffn_dim=48,
        word_embed_proj_dim=32,
        init_std=0.2,
        intermediate_size=...,
        initializer_range=...,
    ),
    "biogpt": family("bridge", "BioGptConfig", "learned positions"),
    "deepseek_v3": family(
        "bridge",
        "DeepseekV3Config",
        "latent attention, experts",
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        **SMALL_EXPERTS,
        **LATENT,
    ),
    "glm4": family("bridge", "Glm4Config", "norms on both sides", head_dim=8),
    "smollm3": family("bridge", "SmolLM3Config", "a layer without positions", no_rope_layers=[1, 0]),
    "nemotron": family("bridge", "NemotronConfig", "squared ReLU", head_dim=8),
    "exaone4": family(
        "bridge",
        "Exaone4Config",
        "windows; no positions in full layers",
        sliding_window=WINDOW,
        layer_types=ALTERNATING,
    ),
    "ernie4_5": family("bridge", "Ernie4_5Config", "", head_dim=8),
    "arcee": family("bridge", "ArceeConfig", "squared ReLU"),
    "apertus": family("bridge", "ApertusConfig", "xIELU; norms of queries and keys"),
    "bitnet": family("bridge", "BitNetConfig", "norms inside attention and MLP"),
    "helium": family("bridge", "HeliumConfig", "rotary of neighbours", head_dim=8),
    "hunyuan_v1_dense": family("bridge", "HunYuanDenseV1Config", "norms behind the rotation", head_dim=8),
    "llama4_text": family(
        "bridge",
        "Llama4TextConfig",
        "attention in chunks; experts",
        head_dim=8,
        attention_chunk_size=WINDOW,
        num_local_experts=2,
        intermediate_size_mlp=48,
        no_rope_layers=[1, 0],
        layer_types=["chunked_attention", "full_attention"],
    ),
    # the model's own forward pass
    "bloom": family("general", "BloomConfig", "biases by distance (ALiBi)", n_layer=2, n_head=4),
    "falcon": family("general", "FalconConfig", "attention of its own"),
    "gpt_neo": family(
        "general",
        "GPTNeoConfig",
        "local attention of its own",
        attention_types=[[["local", "global"], 1]],
        num_layers=2,
        num_heads=4,
        window_size=WINDOW,
    ),
    "mpt": family(
        "general", "MptConfig", "biases by distance (ALiBi)", d_model=32, n_heads=4, n_layers=2, max_seq_len=128
    ),
    "diffllama": family("general", "DiffLlamaConfig", "differences of two attentions"),
    "mamba": family("general", "MambaConfig", "state space", state_size=8),
    "mamba2": family(
        "general", "Mamba2Config", "state space", num_heads=4, head_dim=16, state_size=8, n_groups=1, chunk_size=8
    ),
    "falcon_h1": family(
        "general",
        "FalconH1Config",
        "state space and attention side by side; scale of the logits",
        mamba_d_ssm=64,
        lm_head_multiplier=0.5,
        **MAMBA,
    ),
    "bamba": family("general", "BambaConfig", "state space and attention", attn_layer_indices=[1], **MAMBA),
    "jamba": family(
        "general",
        "JambaConfig",
        "state space, attention, experts",
        attn_layer_offset=1,
        attn_layer_period=2,
        num_experts=4,
        use_mamba_kernels=False,
        mamba_d_state=8,
    ),
    "zamba2": family(
        "general",
        "Zamba2Config",
        "state space, shared attention",
        layers_block_type=["mamba", "hybrid"],
        attention_head_dim=16,
        mamba_headdim=16,
        n_mamba_heads=4,
        mamba_d_state=8,
        mamba_expand=2,
        mamba_ngroups=1,
        chunk_size=8,
        num_mem_blocks=1,
        adapter_rank=4,
    ),
    "qwen3_next": family(
        "general",
        "Qwen3NextConfig",
        "gated delta rule, experts",
        num_experts=4,
        head_dim=8,
        shared_expert_intermediate_size=16,
        **SMALL_EXPERTS,
        **DELTA,
    ),
    "qwen3_5_text": family("general", "Qwen3_5TextConfig", "gated delta rule", head_dim=8, **DELTA),
    "lfm2": family(
        "general", "Lfm2Config", "short convolutions", layer_types=["conv", "full_attention"], conv_L_cache=3
    ),
    "recurrent_gemma": family(
        "general",
        "RecurrentGemmaConfig",
        "recurrence and a window; soft cap of the logits",
        num_hidden_layers=3,
        attention_window_size=8,
        lru_width=32,
    ),
    "rwkv": family(
        "general", "RwkvConfig", "a recurrence without attention", context_length=128, attention_hidden_size=32
    ),
    "xlstm": family("general", "xLSTMConfig", "matrix memory; soft cap of the logits"),
    "openai-gpt": family("general", "OpenAIGPTConfig", "no cache", **GPT),
}


def model_of(name: str) -> Any:
    """Random weights, also where transformers starts with 0 or 1."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = hf.AutoModelForCausalLM.from_config(FAMILIES[name].make())
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter += 0.1 * torch.randn(parameter.shape)
    model.generation_config.eos_token_id = None
    return model.eval().to(DEVICE)


@cache
def weights_of(name: str) -> SharedWeights:
    """One for all tests; adapters that a test adds, it removes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SharedWeights(model_of(name), tokenizer(), source=name)


PASSES = {"decoder": "our decoder", "bridge": "transformers with our attention", "general": "transformers' own"}


def table() -> str:
    """The table of docs/models.md."""
    lines = ["| family | forward pass | what is special |", "|---|---|---|"]
    for name, one in FAMILIES.items():
        lines.append(f"| {name} | {PASSES[one.kind]} | {one.special or '-'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
