"""Our forward passes over prefix trees against transformers' and peft's own, row by row, in values and gradients."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers as hf

import tiny
from stateshape.core.files import BadInput
from stateshape.core.prefix_tree import prefix_tree
from stateshape.policy import decoder, tree_attention
from stateshape.policy.open import load_weights
from stateshape.policy.policy import Policy
from stateshape.policy.settings import LoraSettings, ModelSettings
from stateshape.policy.tree_attention import lay_out
from stateshape.policy.weights import SharedWeights
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings

SIZES: dict[str, Any] = {
    "vocab_size": len(tiny.tokenizer()),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.25,
    "bos_token_id": None,
    "eos_token_id": tiny.EOS,
    "pad_token_id": None,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
FULL = ["full_attention"] * 2
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
PLAIN: dict[str, Any] = {
    "qwen3": hf.Qwen3Config(**GROUPED, head_dim=16, tie_word_embeddings=True),
    "qwen2": hf.Qwen2Config(**GROUPED),  # biases
    "llama": hf.LlamaConfig(**SIZES),
    "llama-grouped": hf.LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3),
    "mistral": hf.MistralConfig(**GROUPED, sliding_window=None),
}
BRIDGED: dict[str, Any] = {
    "gemma": hf.GemmaConfig(**GROUPED, head_dim=8),  # norms by 1 + w, GELU
    "neox": hf.GPTNeoXConfig(**SIZES),  # one matrix for q, k, v; partial rotary; layer norm
    "phi": hf.PhiConfig(**SIZES),  # attention and MLP side by side
    "phi3": hf.Phi3Config(**GROUPED),
    "opt": hf.OPTConfig(  # learned positions
        **{k: v for k, v in SIZES.items() if k not in ("intermediate_size", "initializer_range")},
        ffn_dim=48, init_std=0.25, word_embed_proj_dim=32,
    ),
    "gpt2": hf.GPT2Config(
        vocab_size=SIZES["vocab_size"], n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.25,
        eos_token_id=tiny.EOS,
    ),
    "granite": hf.GraniteConfig(**GROUPED, residual_multiplier=0.5, embedding_multiplier=2.0, attention_multiplier=0.3),
    "smollm3": hf.SmolLM3Config(**GROUPED, no_rope_layers=[1, 0]),  # a layer without positions
}  # fmt: skip
# fp32: eight products deep, each a sum of up to 48 terms that are rounded by 6e-8
TOLERANCE = {torch.float64: 1e-9, torch.float32: 3e-5}


def shared_of(config, dtype=torch.float64, *, is_bridged=False):
    """Random weights, also where transformers starts with 0 or 1; every norm in the model's own dtype."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = hf.AutoModelForCausalLM.from_config(copy.deepcopy(config)).to(dtype)
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and not name.startswith("lm_head"):
                parameter.data += 0.2 * torch.randn(parameter.shape, dtype=dtype)
    shared = SharedWeights(model, tiny.tokenizer(), source="tiny")
    shared.passes = shared.passes._replace(kind="bridge") if is_bridged else shared.passes
    return shared


def body_of(model):
    plain = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    return getattr(plain, plain.base_model_prefix)


def row_by_row(model, rows):
    """[N, D]: the model's own forward pass, one row at a time."""
    return torch.cat([body_of(model)(input_ids=torch.tensor([row]), use_cache=False)[0][0] for row in rows])


def ours(policy, rows):
    return policy.hidden_at(rows, [range(len(row)) for row in rows])


def noise(*shape, seed=0, low=2):
    return torch.randint(low, SIZES["vocab_size"], shape, generator=torch.Generator().manual_seed(seed)).tolist()


def bushy_rows():
    """A primer with questions below it and answers below those; equal rows; a row that begins another; short ones."""
    primer, others = noise(21, seed=1), [noise(9, seed=k) for k in range(2, 5)]
    rows = [[*primer, *other, *noise(n, seed=n)] for other in others for n in (1, 2, 6)]
    return [*rows, primer, rows[4], noise(40, seed=6), primer[:12], [5], [6, 7], [*primer[:3], 8]]


def difference(found, expected):
    """The largest, as a share of the largest value expected; nan where anything is nan."""
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.abs().max()).item()


def gradient_difference(found, expected):
    """The largest over the parameters: the difference's norm as a share of the expected gradient's."""
    assert found.keys() == expected.keys()
    return max_of((found[key] - gradient).norm() / gradient.norm() for key, gradient in expected.items())


def max_of(values):
    """nan if one of them is, which Python's own max may pass over."""
    return torch.tensor(list(values)).max().item()


@pytest.mark.numerics
@pytest.mark.parametrize("name", [*PLAIN, *BRIDGED])
@torch.no_grad()
def test_hidden_states_are_transformers_own(name):
    shared = shared_of((PLAIN | BRIDGED)[name], torch.float32)
    assert shared.is_plain(None) == (name in PLAIN)
    rows = bushy_rows()
    assert difference(ours(Policy(shared, None), rows), row_by_row(shared.model, rows)) <= TOLERANCE[torch.float32]


@pytest.mark.numerics
@pytest.mark.parametrize("is_bridged", [False, True])
@pytest.mark.parametrize("name", PLAIN)
@torch.no_grad()
def test_in_fp64_they_are_the_same_to_nine_digits(name, is_bridged):
    shared = shared_of(PLAIN[name], is_bridged=is_bridged)
    tiny.in_own_dtype(shared.model)
    rows = bushy_rows()
    assert difference(ours(Policy(shared, None), rows), row_by_row(shared.model, rows)) <= TOLERANCE[torch.float64]


@torch.no_grad()
def test_the_bridge_in_fp64():
    shared = shared_of(BRIDGED["neox"])  # layer norms, which transformers takes in the weights' dtype
    rows = bushy_rows()
    assert difference(ours(Policy(shared, None), rows), row_by_row(shared.model, rows)) <= TOLERANCE[torch.float64]


@pytest.mark.numerics
@torch.no_grad()
def test_bf16_differs_by_rounding_alone():
    shared = shared_of(PLAIN["qwen3"], torch.bfloat16)
    rows = bushy_rows()
    found = ours(Policy(shared, None), rows)
    assert shared.is_plain(None)
    assert found.dtype == torch.bfloat16
    assert difference(found.float(), row_by_row(shared.model.float(), rows)) <= 0.1


# Adapters


def peft_twin(shared, name, folder):
    """A copy of the base with the adapter as peft itself loads it."""
    shared.save_adapter(name, folder)
    config = copy.deepcopy(shared.config)
    twin = hf.AutoModelForCausalLM.from_config(config).to(shared.dtype)
    state = {key.replace(".base_layer", ""): value for key, value in tiny.base_snapshot(shared).items()}
    twin.load_state_dict(state)
    return peft.PeftModel.from_pretrained(twin, str(folder), is_trainable=True).eval()


def values_and_gradients(hidden_ND, model):
    """hidden states, and the gradient of a random sum of them by the adapter's parameters, by name."""
    weight_ND = torch.randn(hidden_ND.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    named = {key: value for key, value in model.named_parameters() if value.requires_grad}
    gradients = torch.autograd.grad((hidden_ND * weight_ND.to(hidden_ND.dtype)).sum(), list(named.values()))
    plain = [key.removeprefix("base_model.model.").replace(".default", "").replace(".learner", "") for key in named]
    return hidden_ND.detach(), dict(zip(plain, gradients, strict=True))


def difference_from_peft(shared, tmp_path):
    """The largest in the learner's hidden states, with gradients and without, and in the gradients themselves."""
    rows = bushy_rows()
    learner = Policy(shared, "learner", is_trainable=True)
    twin = tiny.in_own_dtype(peft_twin(shared, "learner", tmp_path))
    if not shared.is_plain(None) or shared.dtype == torch.float64:
        tiny.in_own_dtype(shared.model)
    learner.activate()
    found, found_gradients = values_and_gradients(ours(learner, rows), shared.model)
    expected, expected_gradients = values_and_gradients(row_by_row(twin, rows), twin)
    assert min(gradient.norm() for gradient in expected_gradients.values()) > 1e-3
    with torch.no_grad():
        assert (found - ours(Policy(shared, None), rows)).abs().max() > 1e-2
        frozen = ours(Policy(shared, "learner"), rows)  # as a teacher
    values = [difference(found, expected), difference(frozen, expected)]
    return max_of([*values, gradient_difference(found_gradients, expected_gradients)])


@pytest.mark.parametrize("is_bridged", [False, True])
@pytest.mark.parametrize("name", ["qwen3", "qwen2", "llama-grouped"])
def test_an_adapter_and_its_gradients_are_pefts_own(name, is_bridged, tmp_path):
    shared = shared_of(PLAIN[name], is_bridged=is_bridged)
    tiny.adapter(shared, "teacher", seed=5, size=0.2)  # another one beside it has no say
    tiny.learner(shared, size=0.1)
    assert difference_from_peft(shared, tmp_path) <= TOLERANCE[torch.float64]


@pytest.mark.numerics
def test_an_adapter_in_fp32(tmp_path):
    shared = shared_of(PLAIN["qwen3"], torch.float32)
    tiny.learner(shared, size=0.1)
    assert difference_from_peft(shared, tmp_path) <= TOLERANCE[torch.float32]


def test_an_adapter_on_a_model_of_another_kind(tmp_path):
    shared = shared_of(BRIDGED["neox"])
    tiny.learner(shared, size=0.1, lora=LoraSettings(rank=4, targets=("query_key_value", "dense_4h_to_h")))
    assert difference_from_peft(shared, tmp_path) <= TOLERANCE[torch.float64]


VARIANTS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "lora bias": {"lora_bias": True},
    "some layers": {"layers_to_transform": [1]},
    "rank by layer": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 32}},
    "rslora": {"use_rslora": True},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "all linear": {"target_modules": "all-linear"},
    "regex": {"target_modules": r".*\.(q|up)_proj"},
}


def saved_variant(folder: Path, dtype=torch.float64, **choices):
    """An adapter of peft's own making, with random weights everywhere."""
    fields: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}
    config = peft.LoraConfig(**fields | {"task_type": "CAUSAL_LM"} | choices)
    made = peft.get_peft_model(shared_of(PLAIN["llama"], dtype).model, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    made.save_pretrained(str(folder), save_embedding_layers=False)


@pytest.mark.filterwarnings("ignore")  # peft's, on merging and sharding
@pytest.mark.parametrize("name", VARIANTS)
def test_adapters_of_other_kinds_are_pefts_own_too(name, tmp_path):
    saved_variant(tmp_path / "saved", **VARIANTS[name])
    shared = shared_of(PLAIN["llama"])
    shared.load_adapter("learner", tmp_path / "saved")
    assert difference_from_peft(shared, tmp_path / "again") <= TOLERANCE[torch.float64]


def test_dora_takes_the_bridge_and_leaves_the_others_on_the_decoder(tmp_path):
    saved_variant(tmp_path, use_dora=True)
    shared = shared_of(PLAIN["llama"])
    shared.load_adapter("dora", tmp_path)
    tiny.adapter(shared, "plain", seed=1, size=0.1)
    kinds = []
    for name in ("dora", "plain", None):
        shared.activate(name)
        kinds.append(type(shared.forward_pass()).__name__)
    assert kinds == ["partial", "Decoder", "Decoder"]


# Rows and their tokens


def test_each_distinct_token_is_computed_once_and_none_behind_the_last_wanted(monkeypatch):
    policy = Policy(tiny.weights(), None)
    sizes, plain = [], SharedWeights.run
    monkeypatch.setattr(
        SharedWeights, "run", lambda self, ids_N, *rest: sizes.append(len(ids_N)) or plain(self, ids_N, *rest)
    )
    prompt = list(range(2, 22))
    rows = torch.tensor([[*prompt, 30, 31, 32], [*prompt, 33, 34, 35], [*prompt, 30, 31, 32], [*prompt[::-1], 1, 1, 1]])
    at_BT = torch.zeros_like(rows, dtype=torch.bool)
    at_BT[:3, 21] = True
    found = policy.hidden(rows, torch.tensor([23] * 4), at_BT)
    assert sizes == [20 + 2 + 2]  # the prompt, two answers of two tokens; nothing of the last row
    assert torch.equal(found[0], found[2])


def test_hidden_states_come_row_by_row_at_the_chosen_places():
    policy = tiny.teacher(tiny.weights(dtype=torch.float64))
    rows = bushy_rows()
    with torch.no_grad():
        whole = ours(policy, rows).split([len(row) for row in rows])
        places = [[len(row) - 1, 0, 0] for row in rows]  # in any order, more than once
        found = policy.hidden_at(rows, places)
        assert difference(found, torch.cat([whole[b][at] for b, at in enumerate(places)])) <= 1e-12
        width = max(map(len, rows))
        ids_BT = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        at_BT = torch.rand(ids_BT.shape, generator=torch.Generator().manual_seed(0)) < 0.3
        at_BT[2] = False
        lengths_B = torch.tensor([len(row) for row in rows])
        found = policy.hidden(ids_BT, lengths_B, at_BT)
        wanted = [whole[b][at_BT[b, : len(row)]] for b, row in enumerate(rows)]
        assert difference(found, torch.cat(wanted)) <= 1e-12
        nothing = policy.hidden(ids_BT, lengths_B, torch.zeros_like(at_BT))
        assert nothing.shape == (0, whole[0].shape[1])


@torch.no_grad()
def test_padding_may_hold_anything():
    policy = tiny.teacher(tiny.weights())
    ids_BT = torch.tensor([noise(9, seed=1), noise(9, seed=2)])
    lengths_B, at_BT = torch.tensor([9, 4]), torch.ones(2, 9, dtype=torch.bool)
    plain = policy.hidden(ids_BT, lengths_B, at_BT)
    assert len(plain) == 13  # a place beyond a row's end is nobody's
    for value in (0, tiny.EOS, -100, 10**9):
        ids_BT[1, 4:] = value
        assert torch.equal(policy.hidden(ids_BT, lengths_B, at_BT), plain)


@torch.no_grad()
def test_no_row_sees_another_and_no_token_what_follows():
    policy = tiny.teacher(tiny.weights(dtype=torch.float64))
    rows = bushy_rows()
    lengths = [len(row) for row in rows]
    before = ours(policy, rows).split(lengths)
    for b, place in ((0, 26), (10, 31), (11, 20), (15, 0), (4, 29)):
        changed = [*rows[:b], [*rows[b][:place], 2 + rows[b][place] % 40, *rows[b][place + 1 :]], *rows[b + 1 :]]
        after = ours(policy, changed).split(lengths)
        for other, (x, y) in enumerate(zip(before, after)):
            same = place if other == b else len(x)
            torch.testing.assert_close(x[:same], y[:same], rtol=1e-10, atol=1e-10)
        assert (before[b][place:] - after[b][place:]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "limits",
    [
        {"SMALL_BLOCK": 0, "MAX_PADDING": 1.0},
        {"MAX_BLOCK_PAIRS": 1},
        {"MAX_BLOCK_KEYS": 100},
        {"SMALL_BLOCK": 10**9},
    ],
)
def test_blocks_of_any_size_give_the_same_values_and_gradients(monkeypatch, limits):
    shared = tiny.weights(dtype=torch.float64)
    tiny.learner(shared, size=0.1)
    learner, rows = Policy(shared, "learner", is_trainable=True), bushy_rows()
    learner.activate()
    expected, expected_gradients = values_and_gradients(ours(learner, rows), shared.model)
    num_blocks = len(lay_out(rows, "cpu").blocks)
    for name, value in limits.items():
        monkeypatch.setattr(tree_attention, name, value)
    assert len(lay_out(rows, "cpu").blocks) != num_blocks or "SMALL_BLOCK" in limits
    found, gradients = values_and_gradients(ours(learner, rows), shared.model)
    assert difference(found, expected) <= 1e-12
    assert gradient_difference(gradients, expected_gradients) <= 1e-10


def test_a_layout_holds_every_row_and_every_token_once():
    rows = bushy_rows()
    layout = lay_out(rows, "cpu")
    assert [layout.ids_N[path].tolist() for path in layout.paths] == rows
    assert all(layout.position_N[path].tolist() == list(range(len(path))) for path in layout.paths)
    assert (
        len(layout.ids_N) == sum(len(segment.ids) for segment in prefix_tree(rows).segments) < sum(map(len, rows)) / 2
    )
    with pytest.raises(ValueError, match="empty row"):
        lay_out([[1], []], "cpu")


# Models of other kinds


@pytest.mark.numerics
@pytest.mark.parametrize("name", BRIDGED)
def test_the_sampler_writes_what_transformers_itself_would(name):
    shared = shared_of(BRIDGED[name])
    tiny.in_own_dtype(shared.model)
    policy = Policy(shared, None)
    policy.eos_ids = ()
    prompts = [noise(14, seed=1), noise(3, seed=2), noise(8, seed=3)]
    settings = SamplingSettings(max_new_tokens=7, temperature=0.0, batch_rows=2)
    found = LocalSampler().sample(policy, prompts, settings, seed=0)
    for prompt, completion in zip(prompts, found):
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(7):
                ids.append(int(shared.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        assert completion.ids == ids[len(prompt) :]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"init_lora_weights": "olora"}, "changes the base weights"),
        ({"alora_invocation_tokens": [3, 4]}, "activated LoRA"),
    ],
)
def test_an_adapter_that_is_more_than_an_addition_is_refused(choices, message, tmp_path):
    saved_variant(tmp_path, torch.float32, **choices)
    shared = shared_of(PLAIN["llama"], torch.float32)
    before = tiny.base_snapshot(shared)
    with pytest.raises(BadInput, match=message):
        shared.load_adapter("odd", tmp_path)
    assert tiny.is_same(tiny.base_snapshot(shared), before)


@pytest.mark.slow
def test_compiled_layers_give_the_same_values_and_gradients(monkeypatch, tmp_path):
    """Traced and differentiated as for a GPU; what is left out, for its minute, is writing machine code."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain = tiny.weights(dtype=torch.float64)
    plain.model.save_pretrained(tmp_path)
    plain.tokenizer.save_pretrained(tmp_path)
    decoder.compiled_halves.cache_clear()
    torch._dynamo.utils.counters.clear()
    found = []
    for is_compiled in (False, True):
        shared = load_weights(str(tmp_path), ModelSettings(dtype="float32", compile=is_compiled))
        tiny.learner(shared, size=0.1)
        learner = Policy(shared, "learner", is_trainable=True)
        values, gradients = values_and_gradients(ours(learner, bushy_rows()), shared.model)
        with torch.no_grad():
            frozen = ours(Policy(shared, None), bushy_rows())
        found.append((values, gradients, frozen))
    num_graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    ours(learner, bushy_rows()[:5])  # fewer tokens need no graph of their own
    decoder.compiled_halves.cache_clear()
    (values, gradients, frozen), (c_values, c_gradients, c_frozen) = found
    assert 0 < num_graphs == torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert not torch._dynamo.utils.counters["graph_break"]
    assert max(difference(c_values, values), difference(c_frozen, frozen)) <= TOLERANCE[torch.float32]
    assert gradient_difference(c_gradients, gradients) <= TOLERANCE[torch.float32]


def test_compile_without_a_compiler_is_refused_and_no_other_pass_taken(monkeypatch, tmp_path):
    def fail(graph, inputs):
        raise RuntimeError("no compiler")

    plain = tiny.weights()
    plain.model.save_pretrained(tmp_path)
    plain.tokenizer.save_pretrained(tmp_path)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=fail))
    decoder.compiled_halves.cache_clear()
    with pytest.raises(BadInput, match=r"compile: got true, but torch\.compile fails here .*; leave compile out"):
        load_weights(str(tmp_path), ModelSettings(dtype="float32", compile=True))
    decoder.compiled_halves.cache_clear()
