"""The tiny model of the tests: a random Qwen3 with a character tokenizer, and a task its samples can get right.

And the smallest study of the embedded base, as its file says it.
"""

from __future__ import annotations

import string
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from stateshape.core.head import Head
from stateshape.core.method import PolicyView
from stateshape.core.seeds import generator_for
from stateshape.core.states import Origin, Trajectory
from stateshape.policy import weights as opened
from stateshape.policy.checks import Passes, check_passes
from stateshape.policy.decoder import join_weights
from stateshape.policy.policy import Policy
from stateshape.policy.settings import LoraSettings
from stateshape.policy.weights import SharedWeights
from stateshape.recipes.recipe import Parts
from stateshape.sampling.local import LocalSampler
from stateshape.tasks.items import GenerationItem, Grade
from stateshape.tasks.task import GenerationTask, Grades

PAD, EOS = 0, 1
CHARACTERS = string.ascii_lowercase + string.digits + " \n.+=#?:"
# Never encoded, but sampled: tokens of several characters, so that a stop text can begin inside one.
PIECES = ("q\n", "\nq", "ab", "#a")
LORA = LoraSettings(rank=4, alpha=8.0)


def tokenizer(*, pad_is_eos: bool = False) -> PreTrainedTokenizerFast:
    vocabulary = {token: i for i, token in enumerate(("<pad>", "<eos>", *CHARACTERS, *PIECES))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<eos>", pad_token="<eos>" if pad_is_eos else "<pad>", unk_token="?"
    )


@contextmanager
def drawn_in(dtype: torch.dtype) -> Iterator[None]:
    """Random numbers for an fp64 model are drawn in fp64: in fp32 their last bit depends on the processor."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype if dtype == torch.float64 else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def in_own_dtype(model: torch.nn.Module) -> torch.nn.Module:
    """transformers takes RMS norms and rotary angles in fp32, whatever the weights: so its fp64 is no better than fp32.

    Here both are taken in fp64, and all processors agree on an fp64 model to about 1e-13.
    """
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.forward = lambda x, m=module: F.rms_norm(x, m.weight.shape, m.weight, m.variance_epsilon)
        if hasattr(module, "inv_freq"):
            if module.rope_type == "default":
                parameters, width = module.config.rope_parameters, 2 * len(module.inv_freq)
                share = torch.arange(0, width, 2, dtype=torch.float64) / width
                module.inv_freq = parameters["rope_theta"] ** -share
            module.forward = partial(rotary_angles, module)
    return model


def rotary_angles(module: Any, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    half = position_ids[..., None].double() * module.inv_freq.double()
    angles = torch.cat((half, half), dim=-1)
    return tuple((part * module.attention_scaling).to(x.dtype) for part in (angles.cos(), angles.sin()))


def random_model(seed: int, *, dtype: torch.dtype = torch.float32, **choices: Any) -> Qwen3ForCausalLM:
    """A Qwen3 of two layers. Give it wide initial weights, and its next-token distributions are far from uniform."""
    config = Qwen3Config(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=True,
        **choices,
    )
    with torch.random.fork_rng(devices=[]), drawn_in(dtype):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config).to(dtype)
    return in_own_dtype(model) if dtype == torch.float64 else model


def weights(
    seed: int = 0, *, pad_is_eos: bool = False, dtype: torch.dtype = torch.float32, is_sharded: bool = False
) -> SharedWeights:
    tokens = tokenizer(pad_is_eos=pad_is_eos)
    model = random_model(
        seed,
        dtype=dtype,
        vocab_size=len(tokens),
        max_position_embeddings=256,
        initializer_range=0.25,
        eos_token_id=EOS,
        pad_token_id=None,
    )
    if is_sharded:
        return SharedWeights(model, tokens, source="tiny", shard_on=torch.device("cpu"))
    with checked_once(dtype):
        return SharedWeights(model, tokens, source="tiny")


CHECKED: dict[torch.dtype, tuple[Passes, Head]] = {}


@contextmanager
def checked_once(dtype: torch.dtype) -> Iterator[None]:
    """The second tiny model of a dtype is not checked again, unless a test has put something in the check's place."""
    if opened.check_passes is not check_passes:
        yield
        return

    def known(shared: SharedWeights) -> Passes:
        if dtype not in CHECKED:
            CHECKED[dtype] = check_passes(shared), shared.head
        else:
            join_weights(shared.body)  # as the check does
        passes, head = CHECKED[dtype]
        shared.head = head._replace(weight_VD=shared.head.weight_VD)
        return passes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opened, "check_passes", known)
        yield


def hidden(policy: PolicyView, ids_BT: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """Last hidden states of every token, [B, T, D]; 0 beyond a row's length."""
    at_BT = torch.arange(ids_BT.shape[1]) < lengths_B[:, None]
    hidden_ND = policy.hidden(ids_BT, lengths_B, at_BT)
    made_BTD = hidden_ND.new_zeros(*ids_BT.shape, hidden_ND.shape[1])
    return made_BTD.index_put((at_BT,), hidden_ND)


def adapter(shared: SharedWeights, name: str, *, seed: int, size: float = 0.0, lora: LoraSettings = LORA) -> Policy:
    """A policy of its own; `size` > 0 fills the B matrices, so that it says something else than the base."""
    with drawn_in(shared.dtype):
        shared.add_adapter(name, lora, seed=seed)
    if size:
        fill(shared, name, seed=seed, size=size)
    return Policy(shared, name)


def fill(shared: SharedWeights, name: str, *, seed: int, size: float) -> None:
    generator = generator_for(seed, "fill")
    with drawn_in(shared.dtype):
        state = {
            key: size * torch.randn(value.shape, generator=generator).to(value) if "lora_B" in key else value
            for key, value in shared.adapter_state(name).items()
        }
    shared.set_adapter_state(name, state)


def learner(shared: SharedWeights, *, seed: int = 1, size: float = 0.0, lora: LoraSettings = LORA) -> Policy:
    policy = adapter(shared, "learner", seed=seed, size=size, lora=lora)
    return Policy(shared, policy.adapter, is_trainable=True)


def teacher(shared: SharedWeights, *, seed: int = 7) -> Policy:
    return adapter(shared, "teacher", seed=seed, size=0.2)


def snapshot(shared: SharedWeights, name: str) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in shared.adapter_state(name).items()}


def base_snapshot(shared: SharedWeights) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in shared.model.state_dict().items() if "lora_" not in key}


def is_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def grade(text: str, item: GenerationItem) -> Grades:
    """Right if the answer has the gold character anywhere: a random model gets it right now and then."""
    mark = Grade(prediction=text or None, is_correct=item.gold in text)
    return Grades(strict=mark, flexible=mark, text=text)


def task(num_items: int = 6) -> GenerationTask:
    items = tuple(
        GenerationItem(
            item_id=f"item{i}",
            prompt=f"{'a' * i}{i}+1=",
            gold=gold,
            completion=f" {i + 1} so {gold}.",
            rejected=f" {i + 2} so x.",
            tag="odd" if i % 2 else "even",
        )
        for i, gold in zip(range(num_items), "aeitor579"[:num_items], strict=True)
    )
    return GenerationTask(
        name="tiny",
        label="Tiny",
        train=items,
        test=items[:2],
        grade=grade,
        data_sha256="0" * 64,
        stops=("\n",),
        max_new_tokens=12,
    )


def study_text(*runs: str) -> str:
    """A study's YAML file: seconds on a CPU. `runs`: a line each, the name and its recipe."""
    head = """\
study: tiny
model: embedded
target: {task: arithmetic, limit: 4}
retention: [{task: facts, limit: 8}]
drift: {prompts: 4, cuts: 1, max_new_tokens: 8}
model_settings: {device: cpu}
train: {lr: 1e-3, steps: 2, batch_prompts: 2, train_items: 8, lora: {rank: 2}}
runs:
"""
    return head + "".join(f"  {run}\n" for run in runs)


def parts(teacher_policy: Policy, num_items: int = 6, *, folder: Path | None = None) -> Parts:
    made = task(num_items)
    return Parts(
        task=made,
        sampler=LocalSampler(),
        teacher=lambda _: teacher_policy,
        item_ids=tuple(item.item_id for item in made.train),
        folder=folder or Path("nowhere"),
    )


def row(
    prompt: list[int], response: list[int], origin: Origin, *, group: int = 0, logps=None, item_id="x"
) -> Trajectory:
    """A trajectory from its prompt and response ids."""
    return Trajectory(
        item_id=item_id,
        ids=[*prompt, *response],
        origins=[*([Origin.PROMPT] * len(prompt)), *([origin] * len(response))],
        logps=[*([None] * len(prompt)), *(logps or [None] * len(response))],
        finish="dataset" if origin == Origin.DATASET else "length",
        group=group,
    )


def stop_at(place: str, call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C does, at one call of a function, before it does anything. place: module and name; call: counted from 1."""
    module, _, name = place.rpartition(".")
    original = getattr(sys.modules[module], name)
    calls = 0

    def stopping(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(place, stopping)
