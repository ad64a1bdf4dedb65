"""Policies as adapters on one set of weights: nobody changes anybody else; what can't be right is refused."""

from types import SimpleNamespace

import peft
import pytest
import torch
from torch import nn

import tiny
from stateshape.core.files import BadInput, write_json
from stateshape.policy.device import resolve_device
from stateshape.policy.open import check_same_vocabulary, open_beside, policy_on
from stateshape.policy.policy import Policy
from stateshape.policy.settings import LoraSettings
from stateshape.policy.source import resolve
from stateshape.policy.weights import SharedWeights
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.states.dataset import written

IDS = torch.tensor([[5, 9, 13, 2, 30, 41]])
LENGTHS = torch.tensor([6])


@torch.no_grad()
def logits(policy):
    return tiny.hidden(policy, IDS, LENGTHS) @ policy.head.weight_VD.T


def train_a_little(policy, num_steps=3):
    optimiser = torch.optim.AdamW(policy.parameters(), lr=0.05)
    for _ in range(num_steps):
        optimiser.zero_grad()
        (tiny.hidden(policy, IDS, LENGTHS) @ policy.head.weight_VD.T).log_softmax(-1)[0, :, 7].sum().neg().backward()
        optimiser.step()


def test_the_base_is_the_same_before_during_and_after_adapters_and_training():
    shared = tiny.weights()
    with torch.no_grad():
        plain = shared.model(input_ids=IDS).logits
    base = Policy(shared, None)
    torch.testing.assert_close(logits(base), plain, rtol=1e-5, atol=1e-5)
    before, tensors = logits(base), {k: v.clone() for k, v in shared.model.state_dict().items()}
    learner, teacher = tiny.learner(shared), tiny.teacher(shared)
    assert torch.equal(logits(base), before)
    assert torch.equal(logits(learner), before)  # a new adapter says what the base says
    assert (logits(teacher) - before).abs().max() > 0.1
    train_a_little(learner)
    assert (logits(learner) - before).abs().max() > 0.1
    assert torch.equal(logits(base), before)
    shared.remove_adapter("learner")
    shared.remove_adapter("teacher")
    assert torch.equal(logits(base), before)
    after = {key.replace(".base_layer", ""): value for key, value in tiny.base_snapshot(shared).items()}
    assert tiny.is_same(after, tensors)


def test_training_the_learner_leaves_the_teacher_alone():
    shared = tiny.weights()
    teacher, learner = tiny.teacher(shared), tiny.learner(shared)
    before, tensors, mine = logits(teacher), tiny.snapshot(shared, "teacher"), tiny.snapshot(shared, "learner")
    train_a_little(learner)
    assert tiny.is_same(tiny.snapshot(shared, "teacher"), tensors)
    assert torch.equal(logits(teacher), before)
    assert not tiny.is_same(tiny.snapshot(shared, "learner"), mine)


def needing_gradients(shared):
    """Names of the adapters that have parameters which need gradients; "base" for any other parameter."""
    found = set()
    for name, parameter in shared.model.named_parameters():
        if parameter.requires_grad:
            found.add(name.split(".")[-2] if "lora_" in name else "base")
    return found


def test_trap_new_adapter_left_trainable_and_shared_modes_flipped():
    """trl#5862, #5990: only the active learner needs gradients; nobody's use of the weights leaves another trainable."""
    shared = tiny.weights()
    learner = tiny.learner(shared)
    learner.parameters()
    assert needing_gradients(shared) == {"learner"}
    teacher = tiny.teacher(shared)
    assert needing_gradients(shared) == set()
    hidden_BTD = tiny.hidden(teacher, IDS, LENGTHS)
    assert not hidden_BTD.requires_grad
    assert needing_gradients(shared) == set()
    assert tiny.hidden(learner, IDS, LENGTHS).requires_grad
    assert needing_gradients(shared) == {"learner"}
    logits(learner)
    assert needing_gradients(shared) == set()
    assert (
        len(learner.parameters()) == len(tiny.snapshot(shared, "learner")) == 2 * 7 * 2
    )  # A and B, 7 layers, 2 blocks
    shared.remove_adapter("teacher")
    assert needing_gradients(shared) == set()
    assert not shared.model.training


def test_switching_between_policies_any_number_of_times_changes_nothing():
    shared = tiny.weights()
    policies = [Policy(shared, None), tiny.teacher(shared), tiny.learner(shared, size=0.1)]
    first = [logits(policy) for policy in policies]
    for k in (2, 0, 1, 0, 2, 1, 1, 2):
        assert torch.equal(logits(policies[k]), first[k])
    assert (first[0] - first[1]).abs().max() > 0.1
    assert (first[1] - first[2]).abs().max() > 0.1


def test_an_adapters_start_depends_on_its_seed_alone():
    def start(seed):
        shared = tiny.weights()
        torch.rand(seed + 1)  # whatever the global generator has been used for
        tiny.adapter(shared, "first", seed=seed)
        return tiny.snapshot(shared, "first")

    state = torch.get_rng_state()
    tiny.adapter(tiny.weights(), "first", seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert tiny.is_same(start(3), start(3))
    assert not tiny.is_same(start(3), start(4))


def test_a_saved_adapter_loads_in_plain_peft_with_equal_logits(tmp_path):
    shared = tiny.weights()
    teacher = tiny.teacher(shared)
    shared.save_adapter("teacher", tmp_path / "adapter")
    plain = peft.PeftModel.from_pretrained(tiny.weights().model, str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        theirs = plain(input_ids=IDS).logits
    torch.testing.assert_close(logits(teacher), theirs, rtol=1e-5, atol=1e-5)
    assert (theirs - logits(Policy(shared, None))).abs().max() > 0.1


def test_saving_an_adapter_asks_nobody_about_the_base(tmp_path, monkeypatch):
    """peft's default looks the base's name up on the hub each time an adapter's tensors are collected."""

    def refuse(*args, **kwargs):
        raise AssertionError("looked up")

    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", refuse)
    shared = tiny.weights()
    tiny.teacher(shared)
    shared.save_adapter("teacher", tmp_path)
    assert len(shared.adapter_state("teacher")) == 28


def test_a_saved_adapter_comes_back_to_the_same_bits_beside_others(tmp_path):
    shared = tiny.weights()
    teacher, learner = tiny.teacher(shared), tiny.learner(shared, size=0.1)
    shared.save_adapter("teacher", tmp_path / "adapter")
    resolved = resolve(str(tmp_path / "adapter"))
    assert resolved.model == "tiny"
    again = policy_on(shared, resolved, "again")
    assert torch.equal(logits(again), logits(teacher))
    assert (logits(again) - logits(learner)).abs().max() > 0.1
    beside = open_beside(shared, str(tmp_path / "adapter"), None, adapter_name="beside")
    assert beside.weights is shared  # one set of weights, never a second copy
    assert torch.equal(logits(beside), logits(teacher))


def test_lora_settings_change_the_adapter():
    shared = tiny.weights()
    tiny.adapter(shared, "first", seed=1, size=0.1, lora=LoraSettings(rank=2, alpha=4.0, targets=("q_proj", "v_proj")))
    state = tiny.snapshot(shared, "first")
    assert {min(value.shape) for value in state.values()} == {2}
    assert {key.split(".")[-3] for key in state} == {"q_proj", "v_proj"}
    weak = logits(Policy(shared, "first"))
    tiny.adapter(shared, "second", seed=1, size=0.1, lora=LoraSettings(rank=2, alpha=8.0, targets=("q_proj", "v_proj")))
    shared.set_adapter_state("second", state)
    assert (logits(Policy(shared, "second")) - weak).abs().max() > 1e-3  # alpha alone


@pytest.mark.parametrize("extra", [1, 7])
def test_trap_padding_shifts_positions(extra):
    """lm-eval's and trl#6819's left-padding errors: right padding, with any ids in it, moves no hidden state."""
    policy = tiny.teacher(tiny.weights())
    rows = [[3, 4, 5], [6, 7, 8, 9, 10, 11], [12]]
    width = 6 + extra
    batch = torch.tensor([[*row, *([17] * (width - len(row)))] for row in rows])
    with torch.no_grad():
        together = tiny.hidden(policy, batch, torch.tensor([3, 6, 1]))
        for b, row in enumerate(rows):
            alone = tiny.hidden(policy, torch.tensor([row]), torch.tensor([len(row)]))[0]
            torch.testing.assert_close(together[b, : len(row)], alone, rtol=1e-5, atol=1e-5)


# What is refused


class Head(nn.Linear):
    """A head that is more than its matrix."""

    def __init__(self, plain, *, cap=None, scale=1.0, bias=0.0):
        super().__init__(plain.in_features, plain.out_features, bias=False)
        self.weight, self.cap, self.scale, self.more = plain.weight, cap, scale, bias

    def forward(self, hidden):
        logits = super().forward(hidden) * self.scale + self.more
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


def test_a_head_that_does_more_than_its_module_says_is_refused():
    shared = tiny.weights()
    shared.model.lm_head = Head(shared.model.lm_head, bias=torch.linspace(-1, 1, 50))
    with pytest.raises(BadInput, match=r"logits are not its hidden states times a matrix"):
        SharedWeights(shared.model, shared.tokenizer, source="odd")


def test_a_head_that_is_a_matrix_is_accepted():
    shared = tiny.weights()
    shared.model.lm_head = Head(shared.model.lm_head)
    accepted = SharedWeights(shared.model, shared.tokenizer, source="plain")
    with torch.no_grad():
        own = shared.model(input_ids=IDS).logits
    assert (logits(Policy(accepted, None)) - own).abs().max() <= 1e-5 * own.abs().max()


def test_trap_fused_head_ignores_an_adapter_on_lm_head():
    with pytest.raises(BadInput, match="leave lm_head out"):
        tiny.weights().add_adapter("first", LoraSettings(targets=("q_proj", "lm_head")), seed=0)


def test_a_saved_adapter_that_replaces_the_head_is_refused(tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    peft.get_peft_model(tiny.weights().model, config).save_pretrained(str(tmp_path))
    with pytest.raises(BadInput, match="lm_head"):
        tiny.weights().load_adapter("first", tmp_path)


def test_a_saved_adapter_whose_tensors_are_not_all_there_is_refused(tmp_path):
    """peft fills in what is missing with a fresh start, silently: a teacher that says what the base says."""
    shared = tiny.weights()
    tiny.teacher(shared)
    shared.save_adapter("teacher", tmp_path)
    state = tiny.snapshot(shared, "teacher")
    state.pop(next(key for key in state if "lora_B" in key))
    with pytest.raises(BadInput, match="missing"):
        shared.set_adapter_state("teacher", state)
    with pytest.raises(BadInput, match="unknown"):
        shared.set_adapter_state("teacher", {**tiny.snapshot(shared, "teacher"), "what.lora_A.weight": torch.ones(1)})


def test_the_base_cannot_be_made_trainable():
    with pytest.raises(AssertionError, match="never trained"):
        Policy(tiny.weights(), None, is_trainable=True)


def test_trap_same_family_different_vocabulary():
    """trl#3028: token -> id maps are compared, not sizes."""
    ours, same = tiny.weights(), tiny.weights(1)
    check_same_vocabulary(ours, same)
    swapped = {**ours.tokenizer.get_vocab(), "a": 3, "b": 2}
    other = SimpleNamespace(tokenizer=SimpleNamespace(get_vocab=lambda: swapped), source="other")
    with pytest.raises(BadInput, match="2 tokens differ, for example 'a' is 2 here and 3 there"):
        check_same_vocabulary(ours, other)


def test_an_unfinished_run_is_not_a_model(tmp_path):
    write_json(tmp_path / "run.json", {"method": {}, "model": "tiny"})
    with pytest.raises(BadInput, match="has not finished"):
        resolve(str(tmp_path))


def test_the_base_runs_folder_is_its_model(tmp_path):
    write_json(tmp_path / "run.json", {"method": None, "model": "tiny"})
    assert resolve(str(tmp_path)) == ("tiny", None)


def test_an_unknown_device_is_named():
    with pytest.raises(BadInput, match="device: got 'gpu9'"):
        resolve_device("gpu9")


# Tokens


def test_trap_several_eos_ids_are_all_known_the_tokenizers_first():
    shared = tiny.weights()
    shared.model.generation_config.eos_token_id = [7, tiny.EOS, 9]
    assert Policy(shared, None).eos_ids == (tiny.EOS, 7, 9)
    shared.model.generation_config.eos_token_id = None
    assert Policy(shared, None).eos_ids == (tiny.EOS,)


def test_a_model_without_any_end_token_writes_to_its_length_and_learns_none():
    shared = tiny.weights()
    shared.model.generation_config.eos_token_id = None
    shared.tokenizer.eos_token = shared.tokenizer.pad_token = None
    policy = Policy(shared, None)
    assert (policy.eos_ids, policy.pad_id) == ((), 0)
    (made,) = LocalSampler().sample(policy, [[5, 6]], SamplingSettings(max_new_tokens=40), seed=0)
    assert (len(made.ids), made.finish) == (40, "length")
    (row,) = written(policy, tiny.task().train[0], [" 2"], 0)
    assert row.ids == [*policy.encode_prompt(tiny.task().train[0].prompt), *policy.encode(" 2")]


def test_prompts_get_no_end_token_and_continuations_no_special_tokens():
    shared = tiny.weights()
    policy = Policy(shared, None)
    plain = policy.encode("abc 1")

    def with_specials(text, add_special_tokens=True, **_):
        return {"input_ids": [44, *plain, tiny.EOS] if add_special_tokens else plain}

    with_specials.pad_token_id = None
    policy.tokenizer = with_specials
    assert policy.encode_prompt("abc 1") == [44, *plain]
    assert policy.encode("abc 1") == plain


def test_decoding_leaves_special_tokens_out_and_changes_no_spaces():
    policy = Policy(tiny.weights(), None)
    ids = policy.encode("a . b +\n")
    assert policy.decode([*ids, tiny.EOS, tiny.PAD]) == "a . b +\n"


def test_a_model_that_transformers_cannot_run_is_refused_in_one_line():
    made = tiny.weights()
    made.model.config.layer_types = ["full_attention", "attention that nobody wrote"]
    with pytest.raises(BadInput, match=r"'tiny', which transformers can't run here \(.*nobody wrote.*\)"):
        SharedWeights(made.model, made.tokenizer, source="tiny")
