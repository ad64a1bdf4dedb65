"""Training of all parameters: a copy beside the base, equal to plain training of the transformers model; bases in four bits."""

import pytest
import torch
import transformers

import families
import tiny
from stateshape import api
from stateshape.core import layout
from stateshape.core.files import BadInput, read_json
from stateshape.core.head import Head
from stateshape.core.tensors import CHUNK_ELEMENTS, divergence_in_detail, token_logp
from stateshape.locality.geometry import update_of
from stateshape.policy import settings as policy_settings
from stateshape.policy.doctor import examine
from stateshape.policy.open import check_teacher, open_beside, open_policy
from stateshape.policy.policy import Policy
from stateshape.policy.settings import ModelSettings, check_quantize
from stateshape.policy.source import resolve, resolve_base
from stateshape.policy.weights import SharedWeights
from stateshape.recipes.sdft import SDFT
from stateshape.recipes.sft import SFT
from stateshape.study.starts import check_start
from stateshape.study.study_file import DriftChoice
from stateshape.train.loop import train
from stateshape.train.settings import TrainSettings

ROWS, AT = [[5, 9, 13, 2, 30, 41], [5, 9, 3]], [[0, 1, 2, 3, 4], [0, 1]]
TARGETS = torch.tensor([9, 13, 2, 30, 41, 9, 3])
CPU = ModelSettings(device="cpu")
SMALL = DriftChoice(prompts=4, cuts=1, max_new_tokens=4, hidden=False)
STEPS = TrainSettings(lr=1e-3, steps=3, batch_prompts=2, parameters="full", states_mb=0)


def learner_on(shared):
    shared.add_full("learner")
    return Policy(shared, "learner", is_trainable=True)


def loss(policy):
    return -token_logp(policy.hidden_at(ROWS, AT), policy.head, TARGETS).sum()


def own_loss(model):
    """Through transformers' own forward pass."""
    wide = torch.promote_types(model.dtype, torch.float32)
    total = torch.zeros((), dtype=wide)
    for row in ROWS:
        ids = torch.tensor([row])
        logp = model(input_ids=ids).logits[0, :-1].to(wide).log_softmax(-1)
        total = total - logp.gather(-1, ids[0, 1:, None]).sum()
    return total


@torch.no_grad()
def logits(policy):
    return policy.head.logits(policy.hidden_at(ROWS, AT))


def of_family(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = transformers.AutoModelForCausalLM.from_config(families.FAMILIES[name].make())
    return SharedWeights(model, families.tokenizer(), source=name)


def test_a_steps_gradient_is_autograds_through_transformers_own_forward_for_every_parameter():
    """In double precision, with tied embeddings: the embedding's gradient is that of both its uses."""
    policy = learner_on(tiny.weights(dtype=torch.float64))
    loss(policy).backward()
    found = policy.weights.full.copies["learner"].values
    plain = tiny.weights(dtype=torch.float64).model.requires_grad_(True)
    own_loss(plain).backward()
    expected = dict(plain.named_parameters())
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value.grad, expected[name].grad, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("name", ["phi", "cohere", "gemma", "mixtral", "mamba"])
def test_gradients_agree_for_heads_with_bias_or_scale_for_experts_and_for_the_models_own_pass(name):
    shared = of_family(name)
    policy = learner_on(shared)
    loss(policy).backward()
    shared.activate(None)
    shared.model.requires_grad_(True)
    own_loss(shared.model).backward()
    expected = {key: value.grad for key, value in shared.full.base.items()}
    size = max(float(value.abs().max()) for value in expected.values())
    for key, value in shared.full.copies["learner"].values.items():
        torch.testing.assert_close(value.grad, expected[key], rtol=1e-4, atol=1e-5 * size, msg=key)


def test_steps_are_those_of_a_plain_torch_loop_on_the_transformers_model():
    policy, plain = learner_on(tiny.weights(dtype=torch.float64)), tiny.weights(dtype=torch.float64).model
    plain.requires_grad_(True)
    ours, theirs = (torch.optim.AdamW(one, lr=1e-3) for one in (policy.parameters(), plain.parameters()))
    for _ in range(3):
        for optimiser, made in ((ours, loss(policy)), (theirs, own_loss(plain))):
            optimiser.zero_grad()
            made.backward()
            optimiser.step()
    for (name, expected), value in zip(plain.named_parameters(), policy.parameters(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9, msg=name)


def test_a_trained_head_has_the_gradient_of_any_chunking_and_of_soft_caps_and_scales(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    hidden, weight, teacher = (torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    weight = torch.randn(11, 5, generator=generator, dtype=torch.float64)
    bias, upstream = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (11, 7))
    leaves = [one.requires_grad_() for one in (hidden, weight, bias)]

    def total(chunk_rows, head_of):
        monkeypatch.setattr("stateshape.core.tensors.MIN_CHUNK_ROWS", chunk_rows)
        monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", 1)
        return (upstream * token_logp(hidden, head_of(), TARGETS % 11)).sum()

    def head():
        return Head(weight, bias, scale=0.5, cap=2.0)

    by_hand = (head().logits(hidden).log_softmax(-1)[torch.arange(7), TARGETS % 11] * upstream).sum()
    expected = torch.autograd.grad(by_hand, leaves)
    for rows in (2, 3, 100):
        for found, one in zip(torch.autograd.grad(total(rows, head), leaves), expected, strict=True):
            torch.testing.assert_close(found, one, rtol=1e-10, atol=1e-12)

    def kl(p, q):
        return (p.exp() * (p - q)).sum(-1)

    other, tokens = Head(weight.detach()), TARGETS % 11
    still = Head(weight.detach(), bias.detach(), scale=0.5, cap=2.0)
    detail = divergence_in_detail(hidden, head(), teacher, other, tokens, kl)
    frozen = divergence_in_detail(hidden, still, teacher, other, tokens, kl)
    for ours, theirs in zip(detail, frozen, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)  # the mass of an update, too


def test_base_and_adapters_stay_what_they_are_while_all_parameters_are_trained():
    shared = tiny.weights()
    teacher, base = tiny.teacher(shared), Policy(shared, None)
    before = logits(base), logits(teacher), tiny.base_snapshot(shared)
    policy = learner_on(shared)
    assert torch.allclose(logits(policy), before[0], rtol=1e-4, atol=1e-5)  # says what the base says
    optimiser = torch.optim.AdamW(policy.parameters(), lr=0.01)
    loss(policy).backward()
    assert not logits(base).requires_grad  # another one is used between the two passes
    optimiser.step()
    assert (logits(policy) - before[0]).abs().max() > 0.1
    assert torch.equal(logits(base), before[0])
    assert torch.equal(logits(teacher), before[1])
    later = tiny.adapter(shared, "later", seed=5)  # peft freezes what it finds: it must find the base
    assert torch.equal(logits(later), before[0])
    shared.remove_adapter("learner")
    assert tiny.is_same(tiny.base_snapshot(shared), before[2])
    assert not any(parameter.requires_grad for parameter in shared.model.parameters())


def test_tied_embeddings_stay_tied_and_untied_ones_apart():
    shared = tiny.weights()
    policy = learner_on(shared)
    policy.activate()
    embedding, head = shared.model.get_input_embeddings().weight, shared.model.get_output_embeddings().weight
    assert embedding is head
    assert policy.head.weight_VD is head
    assert "lm_head.weight" not in shared.full.base
    other = of_family("llama")
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= other.full.base.keys()


def test_updates_too_small_for_bf16_add_up_in_the_copy_kept_in_fp32():
    policy = learner_on(tiny.weights(dtype=torch.bfloat16))
    before = [value.detach().clone() for value in policy.parameters()]
    optimiser = torch.optim.AdamW(policy.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
    first = logits(policy)
    for _ in range(40):
        optimiser.zero_grad()
        loss(policy).backward()
        optimiser.step()
    moved = max(float((now - then).detach().abs().max()) for now, then in zip(policy.parameters(), before, strict=True))
    assert policy.parameters()[0].dtype == torch.float32
    assert 2e-4 < moved < 8e-4  # 40 steps of about lr; bf16 rounds 1 + 1e-5 back to 1
    assert not torch.equal(logits(policy), first)  # forward passes see what the optimiser has done
    assert logits(policy).dtype == torch.float32


def test_a_saved_folder_loads_in_transformers_with_equal_logits(tmp_path):
    for shared in (tiny.weights(), of_family("mixtral")):  # experts are stored one by one, and fused when they are read
        policy = learner_on(shared)
        tiny.teacher(shared)  # adapters beside it are not written
        torch.optim.SGD(policy.parameters(), lr=0.01).zero_grad()
        with torch.no_grad():
            for value in policy.parameters():
                value.mul_(1.25)
        folder = tmp_path / shared.source
        shared.save_adapter("learner", folder)
        plain = transformers.AutoModelForCausalLM.from_pretrained(str(folder)).eval()
        with torch.no_grad():
            theirs = plain(input_ids=torch.tensor(ROWS[:1])).logits[0, :5]
        torch.testing.assert_close(logits(policy)[:5], theirs, rtol=1e-4, atol=1e-5)
        assert transformers.AutoTokenizer.from_pretrained(str(folder)).get_vocab() == shared.tokenizer.get_vocab()
        shared.load_adapter("again", folder)
        assert torch.equal(logits(Policy(shared, "again")), logits(policy))


def test_a_folder_of_another_shape_is_refused_and_leaves_no_trace(tmp_path):
    other, shared = of_family("llama"), of_family("seed_oss")
    other.add_full("x")
    other.save_adapter("x", tmp_path)
    with pytest.raises(BadInput, match="model: got"):
        shared.load_adapter("again", tmp_path)
    assert not shared.has_adapter("again")


class Stopped(Exception):
    pass


def stopped_at(step):
    def tell(done, total, record):
        if done == step:
            raise Stopped

    return tell


def trained(folder, recipe, *, stop=None):
    """Parameters, and what a signal carries, after a run; stopped on the way and gone on with where asked."""
    for until in [stop, None] if stop else [None]:
        shared = tiny.weights()
        learner, parts = learner_on(shared), tiny.parts(tiny.teacher(shared), folder=folder)
        method = recipe.build(parts)
        try:
            train(method, learner, parts.item_ids, STEPS, seed=0, folder=folder, on_step=until and stopped_at(until))
        except Stopped:
            assert until is not None
    return [value.detach() for value in learner.parameters()], shared


@pytest.mark.parametrize("recipe", [SFT(), SDFT()])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, recipe):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    one, shared = trained(whole, recipe)
    two, _ = trained(cut, recipe, stop=2)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    start = tiny.weights().full.base.values()
    assert any(not torch.equal(a, b) for a, b in zip(one, start, strict=True))
    assert (whole / layout.MODEL / "model.safetensors").read_bytes() == (
        cut / layout.MODEL / "model.safetensors"
    ).read_bytes()
    assert not (whole / layout.ADAPTER).exists()
    if isinstance(recipe, SDFT):  # the slow copy is a full one, between base and learner
        (slow,) = [name for name in shared.full.copies if name != "learner"]
        assert 0 < update_of(shared, slow).frobenius < update_of(shared, "learner").frobenius


def test_the_length_of_a_full_update_is_that_of_one_vector_and_its_ranks_are_not_known():
    shared = tiny.weights()
    policy = learner_on(shared)
    assert update_of(shared, "learner") == (0.0, None, None, None)
    with torch.no_grad():
        for value in policy.parameters():
            value += 0.5
    size = shared.full.num_parameters
    assert update_of(shared, "learner").frobenius == pytest.approx(0.5 * size**0.5, rel=1e-5)


def test_the_head_of_before_an_update_is_kept_where_it_is_trained():
    shared = tiny.weights()
    policy = learner_on(shared)
    then = policy.head_now().weight_VD.clone()
    kept = policy.head_now()
    with torch.no_grad():
        for value in policy.parameters():
            value += 0.5
    assert torch.equal(kept.weight_VD, then)
    assert not torch.equal(policy.head.weight_VD, then)


# runs


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A run of all parameters, and one that goes on from it."""
    text = tiny.study_text(
        "tutor: {recipe: sft, train: {parameters: full, lr: 1e-5}}",
        "further: {recipe: sft, start: tutor, train: {parameters: full, lr: 2e-4}}",
    )
    text = text.replace("max_new_tokens: 8", "max_new_tokens: 4, hidden: false").replace("limit: 8", "limit: 4")
    folder = tmp_path_factory.mktemp("full")
    (folder / "s.yaml").write_text(text, encoding="utf-8")
    api.run_study(str(folder / "s.yaml"), out=folder / "out")
    return folder / "out"


def test_a_finished_full_run_is_a_model_that_evaluates_teaches_and_is_gone_on_from(study):
    tutor, further = (layout.run_folder(study, name, 0) for name in ("tutor", "further"))
    assert resolve(str(tutor)) == (str(tutor / layout.MODEL), None)
    assert all(read_json(layout.summary(one), dict) for one in (tutor, further))
    warned = [read_json(one / layout.RUN, dict)["warnings"] for one in (tutor, further)]
    assert not any("is high for training all parameters" in text for text in warned[0])
    assert any("lr 0.0002 is high for training all parameters" in text for text in warned[1])
    policy = open_policy(str(further), CPU)
    check_teacher("embedded", str(tutor), CPU)
    teacher = open_beside(policy.weights, str(tutor), CPU, adapter_name="teacher")
    assert policy.adapter is teacher.adapter is None  # models of their own
    assert (logits(teacher) - logits(policy)).abs().max() > 1e-4
    begun = transformers.AutoModelForCausalLM.from_pretrained(str(tutor / layout.MODEL)).state_dict()
    gone = policy.weights.model.state_dict()
    apart = max(float((gone[key] - begun[key]).abs().max()) for key in begun)
    assert 0 < apart < 2 * 2 * 2e-4  # two steps of at most about lr from the tutor's weights


def test_a_full_run_is_no_base_and_the_message_says_what_to_do(study):
    with pytest.raises(BadInput, match=r"trained all parameters.*--start"):
        resolve_base(str(layout.run_folder(study, "tutor", 0)))


def test_a_full_run_can_be_drifted_from_and_audited(study, tmp_path):
    tutor = str(layout.run_folder(study, "tutor", 0))
    audited = api.audit(
        "embedded", [tutor], task="arithmetic", out=tmp_path / "audit", limit=2, drift=SMALL, model_settings=CPU
    )
    assert audited is not None


def refused(tmp_path, text):
    (tmp_path / "s.yaml").write_text(text, encoding="utf-8")
    plan = api.plan_study(str(tmp_path / "s.yaml"))
    for spec in plan.trained:
        check_start(plan, spec)


def test_starts_of_another_kind_are_refused(tmp_path):
    mixed = tiny.study_text("a: {recipe: sft}", "b: {recipe: sft, start: a, train: {parameters: full}}")
    with pytest.raises(BadInput, match=r"runs\.b\.start: got a, which trains parameters lora; expected.*full"):
        refused(tmp_path, mixed)
    shared = tiny.weights()
    tiny.teacher(shared)
    shared.save_adapter("teacher", tmp_path / "lora")
    outside = tiny.study_text(f"b: {{recipe: sft, start: {tmp_path / 'lora'}, train: {{parameters: full}}}}")
    with pytest.raises(BadInput, match=r"an adapter; expected a whole model.*merge"):
        refused(tmp_path, outside)


# what is said before


def test_doctor_says_what_training_all_parameters_takes():
    lines = "\n".join(examine("embedded", None, settings=CPU, rank=4, is_full=True))
    numbers = open_policy("embedded", CPU).weights.full.num_parameters
    assert f"all {numbers / 1e6:.1f} M parameters" in lines
    assert f"AdamW {8 * numbers / 1e6:.3g} MB" in lines  # two moments of four bytes
    assert "all 2.1 M" not in "\n".join(examine("embedded", None, settings=CPU, rank=4))


def test_the_plan_says_it_too_before_anything_is_loaded(tmp_path, capsys):
    from stateshape.cli.plan import print_full

    (tmp_path / "s.yaml").write_text(tiny.study_text("a: {recipe: sft, train: {parameters: full}}"), encoding="utf-8")
    print_full(api.plan_study(str(tmp_path / "s.yaml")))
    out = " ".join(capsys.readouterr().out.split())
    assert "a: trains all 2.1 M parameters of a copy" in out
    assert "AdamW 16.9 MB" in out


# four bits


def test_four_bits_are_refused_with_full_without_cuda_and_without_the_library(monkeypatch):
    four = ModelSettings(device="cpu", quantize="4bit")
    with pytest.raises(BadInput, match="with parameters full"):
        check_quantize(four, is_full=True)
    with pytest.raises(BadInput, match="no CUDA device"):
        check_quantize(four)
    with pytest.raises(BadInput, match="no CUDA device"):
        list(examine("embedded", None, settings=four, rank=4))
    monkeypatch.setattr("stateshape.policy.device.resolve_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(policy_settings.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="bitsandbytes is not installed"):
        check_quantize(four)
    check_quantize(ModelSettings(device="cpu"), is_full=True)


def test_a_quantised_model_is_compared_in_its_own_dtype_and_never_joined():
    """A stand-in: an ordinary model that says that it is quantised."""
    model = tiny.random_model(0, vocab_size=len(tiny.tokenizer()), max_position_embeddings=256, initializer_range=0.25)
    model.is_quantized = True
    shared = SharedWeights(model, tiny.tokenizer(), source="tiny")
    assert shared.passes.kind == "bridge"
    query, key = (getattr(shared.body.layers[0].self_attn, name).weight for name in ("q_proj", "k_proj"))
    assert key.data_ptr() != query.data_ptr() + query.numel() * query.element_size()
    with torch.no_grad():
        plain = model(input_ids=torch.tensor(ROWS[:1])).logits[0, :5]
    torch.testing.assert_close(logits(Policy(shared, None))[:5], plain, rtol=1e-4, atol=1e-4)
    learner = tiny.learner(shared)
    loss(learner).backward()
    assert any(parameter.grad.abs().max() > 0 for parameter in learner.parameters())
