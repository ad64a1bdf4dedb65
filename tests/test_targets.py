"""Which layers an adapter goes on: all-linear, peft's names, and what is left alone."""

from dataclasses import replace

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, MixtralConfig

import tiny
from stateshape.core.files import BadInput
from stateshape.policy.doctor import about_memory
from stateshape.policy.settings import LoraSettings
from stateshape.policy.targets import linear_layers, resolve, shortest_endings
from stateshape.study.earlier import TARGETS, as_before

ALL = LoraSettings()


class Base:
    """As much of SharedWeights as targets need."""

    def __init__(self, config):
        torch.manual_seed(0)
        self.model = AutoModelForCausalLM.from_config(config)
        self.config, self.source = config, "a base"


def mixture(**fields):
    return Base(
        MixtralConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            num_local_experts=3,
            **fields,
        )
    )


def test_all_linear_is_what_llama_like_models_were_given_before():
    assert resolve(tiny.weights(), ALL) == sorted(TARGETS)


def test_it_is_the_same_once_adapters_lie_around_the_layers():
    shared = tiny.weights()
    before = resolve(shared, ALL)
    tiny.learner(shared)
    assert resolve(shared, ALL) == before


def test_it_adapts_the_layers_that_pefts_all_linear_adapts():
    ours, theirs = tiny.weights(), tiny.weights()
    ours.add_adapter("one", replace(ALL, rank=2), seed=0)
    model = peft.get_peft_model(theirs.model, peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert set(ours.adapter_state("one")) == set(peft.get_peft_model_state_dict(model, save_embedding_layers=False))


def test_layers_of_gpt2_are_found():
    base = Base(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2))
    assert resolve(base, ALL) == ["c_attn", "c_fc", "c_proj"]


def test_a_router_and_experts_are_left_alone_and_can_be_named():
    base = mixture()
    names = {one.last: one.is_chosen for one in linear_layers(base)}
    assert {name for name, is_chosen in names.items() if is_chosen} == {"q_proj", "k_proj", "v_proj", "o_proj"}
    base.model.model.layers[0].mlp.gate = torch.nn.Linear(16, 3)  # as mixtures of other families have it
    assert resolve(base, ALL) == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert resolve(base, replace(ALL, targets=("gate",))) == ["gate"]


def test_a_gate_that_is_no_router_is_adapted():
    base = mixture()
    for layer in base.model.model.layers:
        layer.mlp.gate = torch.nn.Linear(16, 24)
    assert "gate" in resolve(base, ALL)


def test_endings_name_the_chosen_layers_and_no_others():
    chosen = ["a.0.attention.out", "a.1.attention.out", "a.0.mlp.gate", "a.0.mlp.up"]
    others = ["a.0.router.out", "a.0.experts.0.up", "a.1.experts.0.up"]
    assert shortest_endings(chosen, others) == ["attention.out", "gate", "mlp.up"]
    assert shortest_endings(["a.0.adapters.1"], ["a", "a.0", "a.1"]) == ["adapters.1"]  # peft would take the layer a.1


def test_targets_that_name_no_layer():
    with pytest.raises(BadInput, match=r"lora\.targets: got 'query', .*; expected all-linear, or some of .*q_proj"):
        resolve(tiny.weights(), replace(ALL, targets=("q_proj", "query")))


def test_all_linear_beside_names():
    with pytest.raises(BadInput, match="got all-linear beside q_proj; expected either"):
        resolve(tiny.weights(), replace(ALL, targets=("all-linear", "q_proj")))


def test_a_model_without_linear_layers():
    base = mixture()
    for layer in base.model.model.layers:
        layer.self_attn = torch.nn.Identity()
    with pytest.raises(BadInput, match="has no linear layer in its blocks"):
        resolve(base, ALL)


def test_a_model_whose_fused_layers_peft_refuses():
    base = mixture()
    base.config.model_type = "mamba"
    base.model.model.layers[0].out_proj = torch.nn.Linear(16, 16)
    assert "out_proj" not in resolve(base, ALL)


def test_doctor_says_what_is_adapted():
    lines = list(about_memory(tiny.weights(), 2))
    assert any("LoRA       r 2 on 14 layers" in line for line in lines)


def test_settings_of_before_compare_equal():
    now = {"train": {"lora": {"rank": 2, "targets": ["all-linear"]}}, "others": [{"targets": ["q_proj"]}]}
    assert as_before(now) == {"train": {"lora": {"rank": 2, "targets": TARGETS}}, "others": [{"targets": ["q_proj"]}]}
