"""What is found out about a model when it is loaded: wrong formulas are told from rounding, in every dtype."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

import tiny
from stateshape.core.files import BadInput
from stateshape.policy import checks, exact, tree_attention
from stateshape.policy.decoder import Decoder, Halves, before_attention
from stateshape.policy.mixing import Mixing
from stateshape.policy.policy import Policy
from stateshape.policy.weights import SharedWeights
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIZES: dict[str, Any] = {
    "vocab_size": len(tiny.tokenizer()),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": tiny.EOS,
    "pad_token_id": None,
}


def model_of(config, dtype=torch.float32):
    """Random weights of the usual small size, biases and norms among them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = hf.AutoModelForCausalLM.from_config(copy.deepcopy(config))
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.05 * torch.randn(parameter.shape)
    return model.to(dtype).eval()


def shared_of(model, **fields):
    return SharedWeights(model, tiny.tokenizer(), source="tiny", **fields)


QWEN2, QWEN3 = hf.Qwen2Config(**SIZES), hf.Qwen3Config(**SIZES, head_dim=8)


def every_layer(decoder, change):
    return decoder._replace(layers=[change(layer) for layer in decoder.layers])


def swapped_heads(*args):
    q_NHE, k_NGE, v_NGE = before_attention(*args)
    return q_NHE.flip(1), k_NGE, v_NGE


FAULTS: dict[str, Any] = {
    "attention scale": lambda d: d._replace(mixing=Mixing(1.05 * d.mixing.scale)),
    "a bias is missing": lambda d: every_layer(d, lambda one: one._replace(qkv=one.qkv._replace(bias_O=None))),
    "heads are swapped": lambda d: d._replace(halves=Halves(before=swapped_heads)),
    "a norm's weight is missing": lambda d: d._replace(
        last_norm=d.last_norm._replace(weight=torch.ones_like(d.last_norm.weight))
    ),
    "a norm's epsilon": lambda d: d._replace(last_norm=d.last_norm._replace(epsilon=2e-6)),
    "layers in another order": lambda d: d._replace(layers=d.layers[::-1]),
    "embedding scale": lambda d: d._replace(embedding_VD=1.1 * d.embedding_VD),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_our_decoder_is_seen_in_every_dtype(fault, dtype, monkeypatch):
    """The model then runs through transformers' own code."""
    read = checks.read_decoder
    monkeypatch.setattr(checks, "read_decoder", lambda *args, **kwargs: FAULTS[fault](read(*args, **kwargs)))
    assert not shared_of(model_of(QWEN2, dtype)).is_plain(None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", [QWEN2, QWEN3], ids=["qwen2", "qwen3"])
def test_a_healthy_model_is_accepted_in_every_dtype(config, dtype):
    assert shared_of(model_of(config, dtype)).is_plain(None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_missing_norms_of_queries_and_keys_are_seen(dtype, monkeypatch):
    read = checks.read_decoder
    without = partial(every_layer, change=lambda layer: layer._replace(q_norm=None, k_norm=None))
    monkeypatch.setattr(checks, "read_decoder", lambda *args, **kwargs: without(read(*args, **kwargs)))
    assert not shared_of(model_of(QWEN3, dtype)).is_plain(None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_positions_that_are_off_by_one_are_seen(dtype, monkeypatch):
    """Rotary logits are the same for all positions moved alike: what lies in the cache is not."""
    angles = Decoder.angles
    monkeypatch.setattr(Decoder, "angles", lambda self, position_N: angles(self, position_N + 1))
    assert not shared_of(model_of(QWEN2, dtype)).is_plain(None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("config", [QWEN2, hf.GPTNeoXConfig(**{**SIZES, "num_key_value_heads": None})])
def test_a_fault_in_our_attention_is_seen_in_both_passes_that_share_it(config, dtype, monkeypatch):
    """The model is then left to its own forward pass."""

    def capped(block, query_NHE, key_NGE, value_NGE, mixing):
        return plain(block, 5 * torch.tanh(query_NHE / 5), key_NGE, value_NGE, mixing)

    plain = tree_attention._attend
    monkeypatch.setattr(tree_attention, "_attend", capped)
    assert shared_of(model_of(config, dtype)).passes.kind == "general"


class Head(nn.Linear):
    """A head that is more than its matrix."""

    def __init__(self, plain, *, cap=None, scale=1.0, bias=0.0):
        super().__init__(plain.in_features, plain.out_features, bias=False)
        self.weight, self.cap, self.scale, self.more = plain.weight, cap, scale, bias

    def forward(self, hidden):
        logits = super().forward(hidden) * self.scale + self.more
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("more", [{"cap": 30.0}, {"bias": torch.linspace(-0.01, 0.01, 50)}])
def test_a_head_that_does_more_than_is_known_is_refused_in_every_dtype(more, dtype):
    model = model_of(QWEN2, dtype)
    model.lm_head = Head(model.lm_head, **more)
    with pytest.raises(BadInput, match="with a bias, scale or soft cap at most"):
        shared_of(model)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"cap": 30.0}, {"final_logit_softcapping": 30.0}),
        ({"scale": 1.01}, {}),
        ({"scale": 0.5}, {"logits_scaling": 2.0}),
    ],
)
def test_a_scale_and_a_named_soft_cap_become_the_heads_in_every_dtype(more, named, dtype):
    model = model_of(QWEN2, dtype)
    model.lm_head = Head(model.lm_head, **more)
    for name, value in named.items():
        setattr(model.config, name, value)
    found = shared_of(model).head
    assert (found.cap, found.bias_V) == (more.get("cap"), None)
    assert found.scale == pytest.approx(more.get("scale", 1.0), rel=1e-9)


@pytest.mark.parametrize(
    ("config", "fields", "kind"),
    [
        (hf.MistralConfig(**SIZES, sliding_window=100), {}, "bridge"),  # its code hands its window over
        (hf.LlamaConfig(**SIZES), {"attention_window_size": 64}, "general"),
    ],
)
def test_a_window_wider_than_what_is_tried_is_ours_only_where_the_code_hands_it_over(config, fields, kind):
    model = model_of(config)
    for name, value in fields.items():
        setattr(model.config, name, value)
    windows = [getattr(model.config, name, None) for name in ("sliding_window", "attention_window_size")]
    assert shared_of(model).passes.kind == kind
    assert [getattr(model.config, name, None) for name in ("sliding_window", "attention_window_size")] == windows


def test_a_mixture_of_experts_is_compared_too():
    config = hf.Qwen3MoeConfig(
        **SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, decoder_sparse_step=1
    )
    model = model_of(config)
    experts = model.config._experts_implementation
    assert not shared_of(model).is_plain(None)
    assert model.config._experts_implementation == experts


@pytest.mark.parametrize("num_tokens", [3, 12])
def test_a_vocabulary_smaller_than_the_text_that_is_tried_is_no_reason(num_tokens):
    config = hf.Qwen2Config(**{**SIZES, "vocab_size": num_tokens, "eos_token_id": 1})
    tokens = tiny.tokenizer()
    kept = dict(sorted(tokens.get_vocab().items(), key=lambda pair: pair[1])[:num_tokens])
    small = hf.PreTrainedTokenizerFast(tokenizer_object=_words(kept), eos_token="<eos>", unk_token="<pad>")
    assert SharedWeights(model_of(config), small, source="small").is_plain(None)


def _words(vocabulary):
    made = tiny.Tokenizer(tiny.models.WordLevel(vocabulary, unk_token="<pad>"))
    made.pre_tokenizer = tiny.pre_tokenizers.Split(tiny.Regex(r"[\s\S]"), "isolated")
    return made


@pytest.mark.parametrize("num_positions", [1, 2, 9])
def test_a_model_of_few_positions_is_no_reason(num_positions):
    config = hf.GPT2Config(
        vocab_size=SIZES["vocab_size"], n_embd=32, n_layer=2, n_head=4, n_positions=num_positions, eos_token_id=1
    )
    assert not shared_of(model_of(config)).is_plain(None)


def test_a_head_taken_a_few_columns_at_a_time_is_the_same(monkeypatch):
    left, right = torch.randn(3, 8), torch.randn(50, 8).to(torch.bfloat16)
    monkeypatch.setattr(exact, "MAX_NUMBERS", 60)
    with exact.ExactArithmetic():
        found = left @ right.T
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, left.double() @ right.double().T, rtol=1e-12, atol=1e-12)


# Numbers


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_with_a_weight_that_is_no_number_is_refused(value):
    model = model_of(QWEN2)
    model.model.layers[1].mlp.down_proj.weight.data[0, 0] = value
    with pytest.raises(
        BadInput, match=r"'tiny', whose tensor model\.layers\.1\.mlp\.down_proj\.weight .* not a finite number"
    ):
        shared_of(model)


def test_logits_that_float16_cannot_hold_are_refused():
    model = model_of(QWEN2)
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.data *= 1e5
        layer.mlp.up_proj.weight.data *= 1e5
    assert shared_of(copy.deepcopy(model)).is_plain(None)
    with pytest.raises(BadInput, match="dtype: got float16, in which logits of 'tiny' are not finite"):
        shared_of(model.to(torch.float16))


# Rotary angles

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 1.5, 3.0, 6.0],
    "original_max_position_embeddings": 32,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
PHI3 = {**SIZES, "original_max_position_embeddings": 32, "rope_parameters": LONGROPE}
BY_LENGTH: dict[str, Any] = {
    "llama longrope": hf.LlamaConfig(**SIZES, rope_parameters=LONGROPE, initializer_range=0.2),
    "llama dynamic": hf.LlamaConfig(
        **{**SIZES, "max_position_embeddings": 32}, rope_parameters=DYNAMIC, initializer_range=0.2
    ),
    "phi3 longrope": hf.Phi3Config(**PHI3, initializer_range=0.2),
}


def logits_alone(config, row):
    """By transformers, in a model that has seen nothing else."""
    with torch.no_grad():
        return model_of(config)(input_ids=torch.tensor([row])).logits[0]


def logits(policy, row):
    with torch.no_grad():
        return policy.hidden_at([row], [range(len(row))]) @ policy.head.weight_VD.T


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BY_LENGTH)
def test_angles_that_depend_on_the_longest_row_are_right_up_to_the_boundary_and_refused_beyond(name):
    policy = Policy(shared_of(model_of(BY_LENGTH[name])), None)
    assert (policy.weights.row_limit, policy.longest_row) == (32, 32)
    row = [2 + k % 40 for k in range(33)]
    expected = logits_alone(BY_LENGTH[name], row[:32])
    for _ in range(2):  # also when longer rows have been asked for
        assert (logits(policy, row[:32]) - expected).abs().max() <= 1e-5 * expected.abs().max()
        with pytest.raises(BadInput, match=r"row of 33 tokens .* beyond 32 positions depend on the longest row"):
            policy.hidden_at([row[:5], row], [[0], [0]])
    settings = SamplingSettings(max_new_tokens=6, temperature=0.0)
    with pytest.raises(BadInput, match="row of 33 tokens"):
        LocalSampler().sample(policy, [row[:4], row[:27]], settings, seed=0)
    policy.eos_ids = ()
    (completion,) = LocalSampler().sample(policy, [row[:26]], settings, seed=0)
    whole = logits_alone(BY_LENGTH[name], [*row[:26], *completion.ids]).log_softmax(-1)[25:-1]
    scored = whole.gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(completion.logps), scored, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BY_LENGTH)
def test_a_model_that_has_seen_a_long_row_is_held_at_its_short_angles(name):
    model = model_of(BY_LENGTH[name])
    row = [2 + k % 40 for k in range(60)]
    with torch.no_grad():
        model.get_decoder()(input_ids=torch.tensor([row]), use_cache=False)
    expected = logits_alone(BY_LENGTH[name], row[:20])
    found = logits(Policy(shared_of(model), None), row[:20])
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("rope", [YARN, LINEAR])
def test_angles_that_are_fixed_have_no_boundary(rope):
    config = hf.LlamaConfig(**SIZES, rope_parameters=rope, initializer_range=0.2)
    policy = Policy(shared_of(model_of(config)), None)
    row = [2 + k % 40 for k in range(120)]
    expected = logits_alone(config, row)
    assert policy.weights.row_limit is None and policy.longest_row == 128
    assert (logits(policy, row) - expected).abs().max() <= 1e-5 * expected.abs().max()


class OwnAngles(nn.Module):
    """Rotary angles of another's code: stretched by the longest row beyond 32 positions."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, position_ids):
        stretch = max(1.0, float(position_ids.max() + 1) / 32)
        return self.inner(x, position_ids.double() / stretch)


def test_angles_of_anothers_code_that_depend_on_the_longest_row_are_refused():
    model = model_of(hf.LlamaConfig(**SIZES, initializer_range=0.2))
    model.model.rotary_emb = OwnAngles(model.model.rotary_emb)
    with pytest.raises(BadInput, match="a row's logits depend on the longest row of its pass"):
        shared_of(model)


# Tokens without a row


def test_a_tokenizer_with_more_ids_than_the_embedding_has_rows_is_refused():
    tokens = tiny.tokenizer()
    tokens.add_tokens(["<think>", "</think>"])
    with pytest.raises(BadInput, match=r"\(2 of them, first '<think>' with id 50\); expected ids below 50"):
        SharedWeights(model_of(QWEN2), tokens, source="tiny")
