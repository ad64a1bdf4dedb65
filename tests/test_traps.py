"""Traps that public trainers fell into, and that no one module owns: each test fails if the trap is fallen into here."""

import dataclasses
import math

import peft
import pytest
import torch

import tiny
from loss_table import LN2, P, batch, credit, response, table_of
from stateshape.core import tensors
from stateshape.core.head import Head
from stateshape.core.method import Draw, terms_of
from stateshape.core.signals import MatchDistribution
from stateshape.core.states import Origin, pack
from stateshape.core.tensors import row_sums
from stateshape.losses.divergence import Divergence
from stateshape.losses.policy_gradient import PolicyGradient
from stateshape.policy import doctor
from stateshape.policy.policy import Policy
from stateshape.policy.settings import ModelSettings
from stateshape.policy.source import Resolved
from stateshape.recipes.grpo import GRPO
from stateshape.recipes.names import BUILT_IN
from stateshape.recipes.recipe import fields_of, recipe_class
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.signals.preference import DatasetPreference, RewardPreference
from stateshape.signals.reference import StayClose
from stateshape.signals.reward import GroupReward
from stateshape.states.sampled import LearnerStates
from stateshape.train.settings import TrainSettings
from stateshape.train.step import accumulate, draw_states, read_signals, train_step
from tiny import row

ITEMS = {item.item_id: item for item in tiny.task().train}
DRAW = Draw(item_ids=("item0", "item3"), step=2, seed=5)
SETTINGS = SamplingSettings(max_new_tokens=12, num_samples=4)


def rollouts(policy):
    return LearnerStates(items=ITEMS, sampler=LocalSampler(), settings=SETTINGS).draw(policy, DRAW)


def length(item_id, text, finish):
    """A reward that differs between rows."""
    return float(len(text))


# Sampling


@pytest.mark.parametrize("num_samples", [1, 4])
def test_trap_generation_dominates_the_step(num_samples):
    """trl#4568, #2971: a group's prompt is computed once, and a row that ended is computed no more."""
    shared = tiny.weights()
    policy, prompts, costs = tiny.teacher(shared), [[5, 9, 13, 2, 30, 41], [7, 8, 3], [22, 4, 4, 4]], {}
    policy.eos_ids = (*policy.eos_ids, *range(2, 8))  # rows end at many lengths
    settings = SamplingSettings(max_new_tokens=20, num_samples=num_samples)
    with shared.meter.phase("sampling", costs):
        made = LocalSampler().sample(policy, prompts, settings, seed=6)
    written = [len(completion.ids) for completion in made]
    assert len(set(written)) > 2
    # a row's first token comes from the prompt's pass, and nothing is computed behind its last
    assert costs["sampling"].tokens == sum(map(len, prompts)) + sum(n - 1 for n in written)


@pytest.mark.parametrize("is_bridged", [False, True])
def test_trap_generation_without_kv_cache_under_checkpointing(is_bridged, monkeypatch):
    """trl's gkd: a model that was told to checkpoint gradients is sampled with the cache all the same, token by token."""
    prompts, settings = [[5, 9, 13, 2, 30, 41], [7, 8, 3]], dataclasses.replace(SETTINGS, num_samples=2)

    def sample(shared):
        shared.passes = shared.passes._replace(kind="bridge" if is_bridged else "decoder")
        return LocalSampler().sample(tiny.teacher(shared), prompts, settings, seed=6)

    plain, checkpointing, seen = tiny.weights(), tiny.weights(), []
    checkpointing.model.gradient_checkpointing_enable()
    forward_pass = checkpointing.forward_pass

    def spied():
        forward = forward_pass()
        return lambda ids_N, *more: seen.append(len(ids_N)) or forward(ids_N, *more)

    monkeypatch.setattr(checkpointing, "forward_pass", spied)
    made = sample(checkpointing)
    assert made == sample(plain)
    assert sum(seen) == sum(map(len, prompts)) + sum(len(completion.ids) - 1 for completion in made)


def test_trap_top_p_changes_q_k_the_models_generation_config_is_not_asked():
    """Instruct models come with top-p, top-k, a temperature and a penalty of their own: q_k is the softmax all the same."""
    shared = tiny.weights()
    policy = tiny.teacher(shared)
    made = LocalSampler().sample(policy, [[5, 9], [7]], SETTINGS, seed=1)
    shared.model.generation_config.update(do_sample=True, top_p=0.1, top_k=1, temperature=0.2, repetition_penalty=9.0)
    assert LocalSampler().sample(policy, [[5, 9], [7]], SETTINGS, seed=1) == made


class OtherEngine:
    """Says of every token that it is exp(shift) times as likely as it is."""

    def __init__(self, shift):
        self.shift = shift

    def sample(self, policy, prompts, settings, *, seed, progress=None):
        made = LocalSampler().sample(policy, prompts, settings, seed=seed)
        return [one._replace(logps=[logp + self.shift for logp in one.logps]) for one in made]


@pytest.mark.parametrize("shift", [0.0, 0.1, -0.3])
def test_trap_sampler_and_trainer_disagree_another_engine_shows_in_the_ratio(shift):
    """trl#4772, #6789: the log-probs of the engine that wrote a token are kept, and a step tells how far off they are."""
    shared = tiny.weights()
    learner = tiny.learner(shared, size=0.1)
    parts = dataclasses.replace(tiny.parts(tiny.teacher(shared)), sampler=OtherEngine(shift))
    method = GRPO(group=4, rollout_tokens=8).build(parts)
    method = dataclasses.replace(method, signal=dataclasses.replace(method.signal, reward=length))
    optimiser = torch.optim.SGD(learner.parameters(), lr=0.0)
    stats = train_step(method, learner, optimiser, DRAW, TrainSettings(lora=tiny.LORA)).stats
    assert stats["ratio"] == pytest.approx(math.exp(-shift), abs=1e-4)
    assert (stats["frac_clipped"] > 0) == (shift == -0.3)  # a ratio of 1.35 is over 1.2 where A > 0; .90 is inside


def test_trap_lora_merge_to_sync_weights():
    """trl#5975, #3466: the base's bits stay, whoever is active, in bf16 too, where merging and taking back would show."""
    shared = tiny.weights(dtype=torch.bfloat16)
    policies = [tiny.teacher(shared), Policy(shared, None), tiny.learner(shared, size=0.1)]
    before = tiny.base_snapshot(shared)
    for policy in [*policies, *policies[::-1]]:
        states = rollouts(policy)
        assert tiny.is_same(tiny.base_snapshot(shared), before)
        tiny.hidden(policy, states.ids_BT, states.lengths_B)
        assert tiny.is_same(tiny.base_snapshot(shared), before)


@pytest.mark.parametrize("is_bridged", [False, True])
def test_trap_lora_dropout_makes_an_on_policy_ratio_other_than_one(is_bridged, tmp_path):
    """New adapters have no dropout, and that of an adapter trained elsewhere is idle."""
    shared = tiny.weights()
    shared.passes = shared.passes._replace(kind="bridge" if is_bridged else "decoder")
    tiny.learner(shared, size=0.1)
    assert shared.adapters["learner"].lora_dropout == 0
    shared.save_adapter("learner", tmp_path)
    config = peft.LoraConfig.from_pretrained(str(tmp_path))
    config.lora_dropout = 0.5
    config.save_pretrained(str(tmp_path))
    shared.load_adapter("foreign", tmp_path)
    for name in ("learner", "foreign"):
        policy = Policy(shared, name, is_trainable=True)
        signal = GroupReward(reward=length).read(policy, rollouts(policy), DRAW)
        ratio_N = PolicyGradient().total(policy, signal).per_token["ratio"]
        torch.testing.assert_close(ratio_N, torch.ones_like(ratio_N), rtol=0, atol=1e-4)


# Masking

# replay reads what another recipe drew
RECIPES = [name for name in BUILT_IN if name != "replay"]
SHORT = {"teacher": "t", "rollout_tokens": 8, "max_new_tokens": 6, "samples": 6}


def read(name, folder):
    """The learner, and what the recipe reads of one step on all items: (term, signal) by name. Rows end soon, pad is EOS."""
    shared = tiny.weights(pad_is_eos=True)
    shared.model.generation_config.eos_token_id = [tiny.EOS, *range(2, 8)]
    learner, parts = tiny.learner(shared, size=0.1), tiny.parts(tiny.teacher(shared), folder=folder)
    recipe = recipe_class(name)
    choices = {key: value for key, value in SHORT.items() if key in fields_of(recipe)}
    terms = terms_of(recipe(**choices).build(parts))
    signals = read_signals(terms, learner, draw_states(terms, learner, DRAW._replace(item_ids=parts.item_ids)))
    return learner, {key: (terms[key], signal) for key, signal in signals.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_trap_prompt_tokens_in_the_loss_or_end_tokens_left_out(name, tmp_path):
    """trl#6357, #2058: every recipe supervises a response from its first token, or its cut, to its last, EOS included."""
    learner, found = read(name, tmp_path)
    num_ended = num_rows = 0
    for _, signal in found.values():
        for made, supervised_T in zip(signal.states.trajectories(), signal.supervise_BT, strict=True):
            places = supervised_T.nonzero()[:, 0].tolist()
            if not places:
                continue  # a row that a filter left out, or without an answer
            assert places == list(range(places[0], len(made.ids)))
            assert places[0] >= made.prompt_length > 0
            if "continuation" not in name and name != "dagger":  # these supervise from a cut on
                assert places[0] == made.prompt_length
            has_ended = made.finish in ("eos", "dataset")
            assert (made.ids[-1] in learner.eos_ids) == has_ended
            num_rows, num_ended = num_rows + 1, num_ended + has_ended
    assert num_ended > 0
    assert num_rows > 3


@pytest.mark.parametrize(("name", "policies"), [("sft", 1), ("opd", 2), ("grpo", 1), ("dpo", 1)])
def test_trap_full_vocabulary_logits_of_prompts(name, policies, tmp_path, monkeypatch):
    """ms-swift#7295, trl#2255: the head sees what is supervised, once for each policy that the loss compares; no prompts."""
    learner, found = read(name, tmp_path)
    (term, signal) = found[""]
    seen, plain = [], tensors.logits_of
    monkeypatch.setattr(tensors, "logits_of", lambda *given: seen.append(len(given[0])) or plain(*given))
    accumulate(term, learner, signal, 60)
    assert sum(seen) == policies * int(signal.supervise_BT.sum())
    assert max(seen) < int(signal.supervise_BT.sum())  # and not all at a time


# A teacher of another kind


def test_trap_base_student_and_instruct_teacher(monkeypatch):
    """ms-swift#9526: a teacher that ends its texts otherwise is named before training; chat templates change no prompt."""
    ours, theirs = tiny.weights(), tiny.weights(1)
    learner = Policy(ours, None)
    monkeypatch.setattr(doctor, "resolve", lambda source: Resolved(source, None))
    monkeypatch.setattr(doctor, "open_weights", lambda *_: theirs)

    def lines():
        return "\n".join(doctor.about_teacher(ours, learner, "another", ModelSettings(device="cpu")))

    assert "warning" not in lines()
    theirs.model.generation_config.eos_token_id = [tiny.EOS, 9]
    assert f"warning      end ids differ (learner ({tiny.EOS},), teacher ({tiny.EOS}, 9))" in lines()
    theirs.tokenizer.chat_template = "{% for m in messages %}# {{ m.content }}{% endfor %}"
    instruct = Policy(theirs, None)
    assert instruct.encode_prompt("1+1=") == learner.encode_prompt("1+1=")
    assert "chats are written by it, texts are read as they are" in "\n".join(
        doctor.about_model("another", theirs, instruct)
    )
    # nobody ends: lengths stay bounded all the same, and the rows say why they ended
    instruct.eos_ids = ()
    made = LocalSampler().sample(instruct, [[5, 9], [7]], SETTINGS, seed=1)
    assert {(len(completion.ids), completion.finish) for completion in made} == {(SETTINGS.max_new_tokens, "length")}


# References


def test_trap_resumed_adapter_makes_adapter_off_the_wrong_reference():
    """A learner that begins from an adapter is compared with that adapter, by name: at its first step the KL is 0."""
    shared = tiny.weights()
    start = tiny.adapter(shared, "start", seed=3, size=0.2)
    shared.copy_adapter("start", "learner")
    learner, base = Policy(shared, "learner", is_trainable=True), Policy(shared, None)
    states = rollouts(learner)

    def kl(reference, estimator):
        close_to = StayClose(policy=reference, over_vocabulary=estimator == "exact")
        signal = GroupReward(reward=length, close_to=close_to).read(learner, states, DRAW)
        loss = PolicyGradient(kl_coefficient=1.0, kl_estimator=estimator, normalise="token-mean")
        return loss.total(learner, signal).sums["kl_to_reference_nats"].item() / loss.count(signal)

    for estimator in ("exact", "k3"):
        assert kl(start, estimator) == pytest.approx(0, abs=1e-5)
        assert kl(base, estimator) > 0.01
        assert kl(None, estimator) == pytest.approx(kl(base, estimator))
    pairs = pack([row([5, 9], [7, 8], Origin.DATASET), row([5, 9], [3], Origin.DATASET)], device="cpu")
    for made, given in ((DatasetPreference, pairs), (lambda **r: RewardPreference(reward=length, **r), states)):
        signal = made(reference=start).read(learner, given, DRAW)
        off = made(reference=base).read(learner, given, DRAW)
        own_BT = signal.states.behaviour_logp_BT
        if given is states:  # the learner wrote them, and says what `start` says
            wanted_B = row_sums(own_BT[signal.supervise_BT], signal.supervise_BT)
            torch.testing.assert_close(signal.reference_logp_B, wanted_B, rtol=1e-4, atol=1e-3)
        assert (signal.reference_logp_B - off.reference_logp_B).abs().min() > 0.01


# Normalising


def test_trap_length_normalisation_left_implicit():
    """Three tokens with A = 1, one with A = -2, ratios 1: the loss is -(3 - 2) / 4, -(1 - 2) / 2 or -(3 - 2) / (2 x 16)."""
    signal = credit([[-LN2, -4 * LN2, -4 * LN2], [-2 * LN2]], [1.0, -2.0])
    parts = tiny.parts(tiny.teacher(tiny.weights()))
    for name, wanted in (("token-mean", -1 / 4), ("sequence-mean", 1 / 2), ("constant", -1 / 32)):
        loss = GRPO(normalise=name, rollout_tokens=16).build(parts).loss
        assert loss.normalise == name
        assert loss.total(table_of(P), signal).total.item() / loss.count(signal) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_trap_top_k_kl_games_mass(direction):
    """verl#5041: a learner that leaves the teacher's likeliest tokens lowers a sum over them, and not ours.

    Teacher P. Near: the first two swapped, 1/4 ln 2 either way. Fled: mass of the first two to the next two, at the same
    ratio: 9/8 ln 2 either way; but over the first two alone, sum S log(S / P) = -3/8 ln 2, and renormalised 0.
    """
    near, fled = [1 / 4, 1 / 2, 1 / 8, 1 / 16, 1 / 16], [1 / 8, 1 / 16, 1 / 2, 1 / 4, 1 / 16]
    states = batch()
    supervise_BT = response(states)
    teacher_ND = torch.tensor(P, dtype=torch.float64).log().expand(4, 5)
    head = Head(torch.eye(5, dtype=torch.float64))
    signal = MatchDistribution(
        states=states, supervise_BT=supervise_BT, teacher_hidden_ND=teacher_ND, teacher_head=head
    )
    for p, nats, mass in ((near, LN2 / 4, 1 / 4), (fled, LN2 * 9 / 8, 9 / 16)):
        learner = table_of(p)
        value = Divergence(direction=direction).total(learner, signal)
        assert value.total.item() == pytest.approx(4 * nats, rel=1e-9)
        if direction == "forward":  # its gradient is S - P: the mass to move is the total variation distance
            assert value.per_token["mass"].tolist() == pytest.approx([mass] * 4, rel=1e-9)
    value.total.backward()
    assert (learner.logits_BTV.grad[0, 1] < 0).tolist()[:2] == [True, True]  # descent brings both of them back
