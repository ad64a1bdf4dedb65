"""Adapters as peft users have them: LoRA that leaves the base alone is peft's own, all else is refused in one line."""

import json
from typing import Any

import peft
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

import tiny
from stateshape.core.files import BadInput, write_json
from stateshape.policy.open import load_weights, open_beside, open_policy, policy_on
from stateshape.policy.policy import Policy
from stateshape.policy.settings import ModelSettings
from stateshape.policy.source import resolve, resolve_base
from stateshape.policy.weights import SharedWeights

IDS = [5, 9, 13, 2, 30, 41, 7, 7]
SETTINGS = ModelSettings(device="cpu")
SIZES: dict[str, Any] = {
    "vocab_size": len(tiny.tokenizer()),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": tiny.EOS,
}


@pytest.fixture
def base(tmp_path):
    """A Qwen2, which has biases, with a head of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hf.Qwen2ForCausalLM(hf.Qwen2Config(**SIZES)).save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def saved(base, folder, kind=peft.LoraConfig, embeddings: Any = "auto", **fields):
    """Trained as far as random numbers go; returns peft's own logits."""
    if kind is peft.LoraConfig:
        fields = {"r": 4, "target_modules": ["q_proj", "v_proj"]} | fields
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = hf.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        made = peft.get_peft_model(model, kind(task_type="CAUSAL_LM", **fields)).eval()
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
    made.save_pretrained(str(folder), save_embedding_layers=embeddings)
    with torch.no_grad():
        return made(input_ids=torch.tensor([IDS])).logits[0]


@torch.no_grad()
def logits(policy):
    return policy.hidden_at([IDS], [range(len(IDS))]) @ policy.head.weight_VD.T


def base_logits(base):
    with torch.no_grad():
        return hf.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)(input_ids=torch.tensor([IDS])).logits[
            0
        ]


ACCEPTED: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "lora bias": {"lora_bias": True},
    "dora": {"use_dora": True},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 64}},
    "one layer": {"layers_to_transform": [1]},
    "excluded": {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "embedding beside": {"embeddings": True},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ACCEPTED)
def test_lora_that_leaves_the_base_alone_is_pefts_own_and_the_base_beside_it_the_base(name, base, tmp_path):
    expected = saved(base, tmp_path / "adapter", **ACCEPTED[name])
    policy = open_policy(str(tmp_path / "adapter"), SETTINGS)
    size = expected.abs().max()
    assert (logits(policy) - expected).abs().max() <= 1e-4 * size
    assert (logits(Policy(policy.weights, None)) - base_logits(base)).abs().max() <= 1e-4 * size
    assert (expected - base_logits(base)).abs().max() >= 1e-2 * size


def test_an_adapter_that_started_from_data_is_plain_lora_once_trained(base, tmp_path):
    """EVA starts A from the data's directions; what is saved is A and B."""
    expected = saved(base, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    write_json(tmp_path / "adapter_config.json", config | {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}})
    assert (logits(open_policy(str(tmp_path), SETTINGS)) - expected).abs().max() <= 1e-4 * expected.abs().max()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bias of adapted layers": ({"bias": "lora_only"}, "bias 'lora_only' .* for every policy on it; expected 'none'"),
    "all biases": ({"bias": "all"}, "bias 'all'"),
    "trained tokens": ({"trainable_token_indices": [3, 4]}, r"trainable_token_indices \[3, 4\] .* expected plain LoRA"),
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights 'pissa' .* changes the base weights"),
    "head by a pattern": ({"target_modules": r".*(q_proj|head)"}, "leave lm_head out"),
    "ia3": (
        {"kind": peft.IA3Config, "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
        "got peft_type 'IA3' .*; expected 'LORA'",
    ),
    "loha": ({"kind": peft.LoHaConfig, "r": 4, "target_modules": ["q_proj"]}, "got peft_type 'LOHA'"),
    "vera": ({"kind": peft.VeraConfig, "r": 4, "target_modules": ["q_proj"]}, "got peft_type 'VERA'"),
    "prompt": ({"kind": peft.PromptTuningConfig, "num_virtual_tokens": 2}, "got peft_type 'PROMPT_TUNING'"),
    "adalora": (
        {"kind": peft.AdaLoraConfig, "init_r": 6, "target_r": 4, "total_step": 100, "target_modules": ["q_proj"]},
        "got peft_type 'ADALORA'",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_changes_the_base_or_is_no_lora_is_refused(name, base, tmp_path):
    fields, message = REFUSED[name]
    saved(base, tmp_path / "adapter", **fields)
    with pytest.raises(BadInput, match=message):
        open_policy(str(tmp_path / "adapter"), SETTINGS)
    if name != "head by a pattern":  # told from the files alone
        with pytest.raises(BadInput, match=message):
            resolve(str(tmp_path / "adapter"))


def test_an_adapter_that_lays_layers_twice_is_refused(base, tmp_path):
    saved(base, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    write_json(tmp_path / "adapter_config.json", config | {"layer_replication": [[0, 2], [0, 2]]})
    with pytest.raises(BadInput, match=r"layer_replication .* expected plain LoRA"):
        resolve(str(tmp_path))


def change(folder, alter):
    path = folder / "adapter_model.safetensors"
    state = load_file(path)
    alter(state)
    save_file(state, path, metadata={"format": "pt"})


def cut(folder, size):
    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(size)


def only_pickled(folder):
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


def no_number(state):
    state[min(state)][0, 0] = float("nan")


def narrower(state):
    name = min(name for name in state if "lora_A" in name)
    state[name] = state[name][:3].contiguous()


FILES: dict[str, tuple[Any, str]] = {
    "pickled": (only_pickled, r"adapter_model.bin and no adapter_model.safetensors; .*save it again with save_pretrained"),
    "none": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "without adapter_model.safetensors"),
    "cut off": (lambda folder: cut(folder, 2500), r"of 2,500 bytes, while its header describes"),
    "cut in its header": (lambda folder: cut(folder, 300), r"not a safetensors file or a broken one \(300 bytes\)"),
    "empty": (lambda folder: cut(folder, 0), r"broken one \(0 bytes\)"),
    "pointer": (
        lambda folder: (folder / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "a Git LFS pointer; .*git lfs pull",
    ),
    "no number": (lambda folder: change(folder, no_number), r"lora_A.weight contains a value that is not a finite number"),
    "another rank": (
        lambda folder: change(folder, narrower),
        r"q_proj.lora_A.weight of shape \(3, 32\); expected \(4, 32\), .* on '.*base'",
    ),
    "unknown": (lambda folder: change(folder, lambda state: state.update(other=torch.ones(1))), "1 unknown"),
    "an embedding of its own": (
        lambda folder: change(
            folder, lambda state: state.update({"base_model.model.model.embed_tokens.weight": torch.ones(50, 32)})
        ),
        "a tensor base_model.model.model.embed_tokens.weight of its own, other than the base's",
    ),
    "no configuration": (
        lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json: not valid JSON"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_not_whole_or_do_not_fit_are_told_in_a_line_and_leave_nothing_behind(name, base, tmp_path):
    alter, message = FILES[name]
    saved(base, tmp_path / "adapter")
    alter(tmp_path / "adapter")
    weights = load_weights(base, SETTINGS)
    before = logits(Policy(weights, None))
    with pytest.raises(BadInput, match=message) as caught:
        open_beside(weights, str(tmp_path / "adapter"), SETTINGS, adapter_name="loaded")
    assert len(str(caught.value).splitlines()) == 1
    assert not weights.has_adapter("loaded") and torch.equal(logits(Policy(weights, None)), before)


def test_an_adapter_of_another_base_names_this_one(base, tmp_path):
    saved(base, tmp_path / "adapter", target_modules=["q_proj", "gate_proj"])
    config = hf.GPTNeoXConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4
    )
    with torch.random.fork_rng(devices=[]):
        other = SharedWeights(hf.GPTNeoXForCausalLM(config), tiny.tokenizer(), source="other")
    with pytest.raises(BadInput, match=r"which does not fit 'other' .*; check base_model_name_or_path"):
        policy_on(other, resolve(str(tmp_path / "adapter")), "loaded")
    assert not other.adapters


# What training starts from


def test_training_starts_from_a_base_and_says_what_to_do_with_an_adapter(base, tmp_path):
    saved(base, tmp_path / "run" / "adapter")
    write_json(tmp_path / "run" / "run.json", {"method": {}, "model": base, "num_steps": 3})
    for folder, kind in (("run", "a run, which holds an adapter"), ("run/adapter", "an adapter")):
        with pytest.raises(
            BadInput, match=rf"{folder}', {kind} on '.*base'; expected a base model; .* --start .* as teacher"
        ):
            resolve_base(str(tmp_path / folder))
    (tmp_path / "of_base").mkdir()
    write_json(tmp_path / "of_base" / "run.json", {"method": None, "model": "embedded"})
    with pytest.raises(BadInput, match=r"the run of a base without an adapter; .* name 'embedded'"):
        resolve_base(str(tmp_path / "of_base"))
    assert resolve_base(base) == base


def test_an_adapter_on_an_adapter_is_refused(base, tmp_path):
    saved(base, tmp_path / "first")
    saved(base, tmp_path / "second")
    config = json.loads((tmp_path / "second" / "adapter_config.json").read_text())
    write_json(
        tmp_path / "second" / "adapter_config.json", config | {"base_model_name_or_path": str(tmp_path / "first")}
    )
    with pytest.raises(BadInput, match=r"an adapter on '.*first', which is a run or an adapter itself"):
        resolve(str(tmp_path / "second"))


@pytest.mark.parametrize("spelling", ["{}/", "{}/.", "{}/../base"])
def test_two_spellings_of_a_folder_are_one_base(spelling, base):
    weights = load_weights(base, SETTINGS)
    assert open_beside(weights, spelling.format(base), SETTINGS, adapter_name="other").weights is weights
