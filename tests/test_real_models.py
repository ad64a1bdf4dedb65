"""Real models, where they are at hand: which pass they take, and that greedy samples are those of transformers' `generate`.

Needs STATESHAPE_MODELS, a folder with some of smollm2/ (SmolLM2-135M), qwen0.5b/ (Qwen2.5-Coder-0.5B) and gemma270m/
(Gemma 3 270M) in transformers' format. About a minute per model.
"""

import os
from functools import cache
from pathlib import Path

import pytest
import torch

from stateshape.core.tensors import token_logp
from stateshape.policy.open import load_weights
from stateshape.policy.policy import Policy
from stateshape.policy.probe import plainly
from stateshape.policy.settings import ModelSettings
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings

FOLDER = Path(os.environ.get("STATESHAPE_MODELS", "/nonexistent"))
KINDS = {"smollm2": "decoder", "qwen0.5b": "decoder", "gemma270m": "bridge"}
NEW = 12
# the last is longer than Gemma's windows of 512
PROMPTS = (
    "The capital of France is",
    "def add(a, b):\n    return",
    "one two three four five six seven eight nine ten " * 60,
)


def here(name):
    reason = f"set STATESHAPE_MODELS to a folder with {name}/"
    return pytest.param(name, marks=pytest.mark.skipif(not (FOLDER / name / "config.json").exists(), reason=reason))


each_model = pytest.mark.parametrize("name", [here(name) for name in KINDS])


@cache
def policy_of(name):
    policy = Policy(load_weights(str(FOLDER / name), ModelSettings(device="cpu", dtype="float32")), None)
    policy.eos_ids = ()
    return policy


@each_model
def test_it_takes_the_pass_it_should(name):
    assert policy_of(name).weights.passes.kind == KINDS[name]


@each_model
@torch.no_grad()
def test_greedy_samples_are_those_of_generate(name):
    policy = policy_of(name)
    prompts = [policy.encode_prompt(text) for text in PROMPTS]
    made = LocalSampler().sample(policy, prompts, SamplingSettings(max_new_tokens=NEW, temperature=0.0), seed=0)
    for prompt, one in zip(prompts, made, strict=True):
        assert one.ids == generated(policy, prompt)


@each_model
@torch.no_grad()
def test_log_probs_of_samples_are_those_of_whole_rows(name):
    policy = policy_of(name)
    prompts = [policy.encode_prompt(text) for text in PROMPTS]
    made = LocalSampler().sample(policy, prompts, SamplingSettings(max_new_tokens=NEW), seed=1)
    for prompt, one in zip(prompts, made, strict=True):
        row = [*prompt, *one.ids]
        hidden_ND = policy.hidden_at([row], [range(len(prompt) - 1, len(row) - 1)])
        expected = token_logp(hidden_ND, policy.head, torch.tensor(one.ids))
        torch.testing.assert_close(torch.tensor(one.logps), expected, rtol=1e-3, atol=1e-3)


def generated(policy, prompt):
    model = policy.weights.model
    model.generation_config.eos_token_id = None
    with plainly(policy.weights.config):
        ids_1T = torch.tensor([prompt])
        made = model.generate(
            ids_1T, attention_mask=torch.ones_like(ids_1T), max_new_tokens=NEW, do_sample=False, pad_token_id=0
        )
    return made[0, len(prompt) :].tolist()
