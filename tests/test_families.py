"""Every family of tests/families.py through the pass that it takes, against transformers' own forward pass and `generate`.

Each model is built once. Passes are compared in double precision, rows are longer than the windows, and prompts are shared.
"""

from pathlib import Path

import pytest
import torch
import transformers as hf

import tiny
from families import DEVICE, FAMILIES, WINDOW, model_of, sizes, table, tokenizer, weights_of
from stateshape.core.files import BadInput
from stateshape.core.method import Draw
from stateshape.core.states import Origin, pack
from stateshape.core.tensors import logits_of, token_logp
from stateshape.locality.divergence import kl
from stateshape.losses.divergence import Divergence
from stateshape.policy import bridge
from stateshape.policy.mixing import Window
from stateshape.policy.policy import Policy
from stateshape.policy.probe import exact, plainly
from stateshape.policy.settings import LoraSettings
from stateshape.policy.weights import SharedWeights
from stateshape.recipes.recipe import recipe_class
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.signals.distribution import TeacherDistribution
from stateshape.train.loop import train
from stateshape.train.settings import TrainSettings

pytestmark = pytest.mark.filterwarnings("ignore")
NEW = 2 * WINDOW
each_family = pytest.mark.parametrize("name", FAMILIES)


def noise(length, seed):
    return torch.randint(2, 300, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def rows_of_a_tree():
    """Questions behind a primer, answers behind those; equal rows, a row that begins another, a short one."""
    primer = noise(2 * WINDOW + 2, seed=1)
    rows = [[*primer, *noise(WINDOW + k, seed=k), *noise(n, seed=n)] for k in (2, 3) for n in (1, 4)]
    return [*rows, rows[0], primer, noise(3, seed=7)]


def own_logits(shared, rows):
    """Of all tokens, row by row, by the model's own code on rows that are padded on the right."""
    width = max(map(len, rows))
    ids_BT = torch.tensor([[*row, *[3] * (width - len(row))] for row in rows], device=DEVICE)
    mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=DEVICE)
    with plainly(shared.config):
        logits_BTV = shared.model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
    return torch.cat([logits_BTV[b, : len(row)] for b, row in enumerate(rows)])


def our_logits(policy, rows):
    return logits_of(policy.hidden_at(rows, [range(len(row)) for row in rows]), policy.head)


def difference(found, expected):
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def adapter(shared, name, size):
    """All linear layers of the blocks."""
    tiny.adapter(shared, name, seed=3, size=size, lora=LoraSettings(rank=2))


@each_family
@torch.no_grad()
def test_logits_are_transformers_own_on_rows_that_share_beginnings(name):
    shared = weights_of(name)
    assert shared.passes.kind == FAMILIES[name].kind
    rows = rows_of_a_tree()
    with exact(shared):
        assert difference(our_logits(Policy(shared, None), rows), own_logits(shared, rows)) <= 1e-7


@each_family
@torch.no_grad()
def test_samples_are_those_of_generate_and_their_log_probs_those_of_whole_rows(name):
    """Prompts of different lengths, two samples of each, in batches that rows leave."""
    shared = weights_of(name)
    policy = Policy(shared, None)
    policy.eos_ids = ()
    prompts = [noise(length, seed=length) for length in (2 * WINDOW, 3, WINDOW + 1, WINDOW + 1)]
    settings = SamplingSettings(max_new_tokens=NEW, num_samples=2, batch_rows=5)
    written = LocalSampler().sample(policy, prompts, settings, seed=1)
    rows = [[*prompts[r // 2], *made.ids] for r, made in enumerate(written)]
    own = own_logits(shared, rows).log_softmax(-1).split([len(row) for row in rows])
    for row, logp_TV, made in zip(rows, own, written, strict=True):
        expected = logp_TV[:-1].gather(1, torch.tensor(row[1:], device=DEVICE)[:, None])[-NEW:, 0].cpu()
        torch.testing.assert_close(torch.tensor(made.logps), expected, rtol=1e-3, atol=1e-3)
    greedy = LocalSampler().sample(policy, prompts, SamplingSettings(max_new_tokens=NEW, temperature=0.0), seed=0)
    for prompt, made in zip(prompts, greedy, strict=True):
        assert made.ids == generated(shared, prompt)


def generated(shared, prompt):
    with plainly(shared.config):
        ids_1T = torch.tensor([prompt], device=DEVICE)
        choices = {
            "max_new_tokens": NEW,
            "do_sample": False,
            "attention_mask": torch.ones_like(ids_1T),
            "pad_token_id": 0,
        }
        return shared.model.generate(ids_1T, use_cache=shared.passes.kind != "general", **choices)[
            0, len(prompt) :
        ].tolist()


@each_family
def test_a_steps_gradient_is_autograds_through_transformers_own_code_and_a_fresh_adapter_changes_nothing(name):
    shared = weights_of(name)
    rows = rows_of_a_tree()
    targets = torch.cat([torch.tensor(row[1:]) for row in rows]).to(DEVICE)
    places = [range(len(row) - 1) for row in rows]
    adapter(shared, "fresh", 0.0)
    with torch.no_grad():
        hidden_ND, base_ND = (Policy(shared, one).hidden_at(rows, places) for one in ("fresh", None))
        assert kl(hidden_ND, shared.head, base_ND, shared.head).abs().max() <= 1e-9
    shared.remove_adapter("fresh")
    adapter(shared, "learner", 0.1)
    learner = Policy(shared, "learner", is_trainable=True)
    try:
        weight_N = torch.linspace(-1, 1, len(targets), device=DEVICE)
        found = gradients(shared, (token_logp(learner.hidden_at(rows, places), learner.head, targets) * weight_N).sum())
        last = torch.cat([torch.arange(len(row)) < len(row) - 1 for row in rows]).to(DEVICE)
        logp_N = own_logits(shared, rows)[last].log_softmax(-1).gather(1, targets[:, None])[:, 0]
        expected = gradients(shared, (logp_N * weight_N).sum())
    finally:
        shared.remove_adapter("learner")
    assert found.keys() == expected.keys() != set()
    whole = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    for key, gradient in expected.items():
        assert (found[key] - gradient).norm() <= 1e-4 * whole, key


@each_family
def test_a_teacher_that_is_the_learner_has_kl_0(name):
    shared = weights_of(name)
    adapter(shared, "learner", 0.1)
    try:
        learner = Policy(shared, "learner", is_trainable=True)
        states = pack(
            [tiny.row(noise(5, seed=k), noise(9, seed=9 + k), Origin.LEARNER) for k in range(3)], device=DEVICE
        )
        draw = Draw(item_ids=("0",), step=0, seed=0)
        signal = TeacherDistribution(teacher=Policy(shared, "learner"), positions="all").read(learner, states, draw)
        total = float(Divergence(direction="forward").total(learner, signal).total.detach())
    finally:
        shared.remove_adapter("learner")
    assert abs(total) / int(signal.supervise_BT.sum()) <= 1e-6


def gradients(shared, total):
    named = {key: value for key, value in shared.model.named_parameters() if value.requires_grad}
    made = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {key: gradient for key, gradient in zip(named, made, strict=True) if gradient is not None}


@each_family
def test_a_killed_run_resumes_to_the_same_bits(name, tmp_path):
    def run(folder, shared, on_step=None):
        folder.mkdir(exist_ok=True)
        adapter(shared, "teacher", 0.2)
        adapter(shared, "learner", 0.0)
        parts = tiny.parts(Policy(shared, "teacher"))
        method = recipe_class("opd")(teacher="t", rollout_tokens=4).build(parts)
        settings = TrainSettings(steps=2, batch_prompts=2, lr=1e-2, lora=LoraSettings(rank=2))
        ids = tuple(item.item_id for item in parts.task.train)
        try:
            train(
                method,
                Policy(shared, "learner", is_trainable=True),
                ids,
                settings,
                seed=3,
                folder=folder,
                on_step=on_step,
            )
            return tiny.snapshot(shared, "learner")
        finally:
            shared.remove_adapter("teacher")
            shared.remove_adapter("learner")

    def killed(done, *_):
        if done == 1:
            raise KeyboardInterrupt

    whole = run(tmp_path / "whole", weights_of(name))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", weights_of(name), killed)
    elsewhere = SharedWeights(model_of(name), tokenizer(), source=name)  # as in the process that resumes
    assert tiny.is_same(run(tmp_path / "cut", elsewhere), whole)
    assert any(value.any() for key, value in whole.items() if "lora_B" in key)


@each_family
def test_work_is_counted_where_it_is_known(name):
    """A model whose layers do more than attend and multiply has no known number of operations."""
    policy = Policy(weights_of(name), None)
    assert (policy.flops is None) == (FAMILIES[name].kind == "general")


def test_a_model_that_sees_what_follows_is_refused():
    fields = sizes(is_decoder=False, type_vocab_size=2)
    with pytest.raises(BadInput, match=r"which transformers can't run here \(tokens that see later ones\)"):
        SharedWeights(hf.BertLMHeadModel(hf.BertConfig(**fields)).eval(), tokenizer(), source="bert")


def test_a_model_whose_kernel_is_missing_is_refused_in_one_line():
    model = model_of("mamba")

    def needs_a_kernel(*args, **kwargs):
        raise ImportError("mamba needs the kernel `selective_scan`")

    model.backbone.layers[0].mixer.forward = needs_a_kernel
    with pytest.raises(
        BadInput, match=r"transformers can't run here \(mamba needs the kernel `selective_scan`\); .* install"
    ):
        SharedWeights(model, tokenizer(), source="mamba")


@pytest.mark.parametrize("name", ["mistral", "gpt_oss", "llama4_text"])
@torch.no_grad()
def test_rows_within_a_window_and_rows_beyond_it(name):
    """Where all rows are shorter than the window its mask is left out; both ways give transformers' own."""
    shared = weights_of(name)
    with exact(shared):
        for length in (WINDOW - 1, WINDOW, WINDOW + 1, 4 * WINDOW):
            rows = [noise(length, seed=length), noise(length, seed=2 * length)]
            assert difference(our_logits(Policy(shared, None), rows), own_logits(shared, rows)) <= 1e-7


@torch.no_grad()
def test_a_window_of_the_wrong_width_is_seen_when_a_model_is_loaded(monkeypatch):
    """Whatever its width: rows that are compared are longer than windows are made meanwhile."""
    monkeypatch.setattr(bridge, "Window", lambda sees, reach: Window(lambda q, k: sees(q + 1, k), reach))
    model = model_of("mistral")
    model.config.sliding_window = 100
    assert SharedWeights(model, tokenizer(), source="mistral").passes.kind == "general"


def test_the_table_in_the_documentation_is_that_of_these_tests():
    """`python tests/families.py` prints it."""
    text = (Path(__file__).parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
    assert f"\n{table()}\n" in text
