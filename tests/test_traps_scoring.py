"""Traps of scoring and of what a run says of itself: each test fails if the trap is fallen into here."""

from importlib.metadata import version

import pytest
import torch
from tokenizers import processors

import tiny
from stateshape.core.method import Draw
from stateshape.evals.evaluate import evaluate
from stateshape.evals.multiple_choice import split_tokens
from stateshape.policy.policy import Policy
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.signals.continuation import TeacherContinuation
from stateshape.states.cuts import Cut
from stateshape.states.dataset import DatasetPairs, DatasetStates
from stateshape.states.sampled import LearnerStates
from stateshape.study import provenance as told
from stateshape.tasks.items import ChoiceItem
from stateshape.tasks.task import ChoiceTask

ITEMS = {item.item_id: item for item in tiny.task().train}
DRAW = Draw(item_ids=("item0", "item3"), step=2, seed=5)
BOS = tiny.tokenizer().convert_tokens_to_ids("#")  # stands in for a begin token; no item's text holds it


def with_bos(shared):
    """The same weights with a tokenizer that puts a begin token before every text, as Llama's and Gemma's do."""
    name = shared.tokenizer.convert_ids_to_tokens(BOS)
    shared.tokenizer.add_special_tokens({"bos_token": name})
    shared.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{name} $A", special_tokens=[(name, BOS)]
    )
    return shared


def choices(options, prompts):
    """A task whose questions have prompts of several lengths; the first option is the true one."""
    items = tuple(
        ChoiceItem(item_id=f"q{i}", prompt=prompt, options=options, is_true=(True, *[False] * (len(options) - 1)))
        for i, prompt in enumerate(prompts)
    )
    return ChoiceTask(
        name="c", label="C", metric="acc", items=items, metrics=("acc",), chance=1 / len(options), data_sha256=""
    )


def test_trap_double_bos_in_states_continuations_and_scores():
    """lm-eval#2797: one begin token, before the prompt, wherever a text becomes ids; a solution or an option brings none."""
    shared = with_bos(tiny.weights())
    learner, teacher = tiny.learner(shared, size=0.1), tiny.teacher(shared)
    settings = SamplingSettings(max_new_tokens=6)
    rollouts = LearnerStates(items=ITEMS, sampler=LocalSampler(), settings=settings, cut=Cut()).draw(learner, DRAW)
    continued = TeacherContinuation(teacher=teacher, sampler=LocalSampler(), settings=settings)
    for states in (
        DatasetStates(items=ITEMS).draw(learner, DRAW),
        DatasetPairs(items=ITEMS).draw(learner, DRAW),
        rollouts,
        continued.read(learner, rollouts, DRAW).states,
    ):
        for made in states.trajectories():
            prompt = made.ids[: made.prompt_length]
            assert prompt == [BOS, *learner.encode(ITEMS[made.item_id].prompt)]
            if "dataset" in made.finish:
                assert BOS not in made.ids[1:]
    context, option = split_tokens(learner, "q: why?", " no")
    assert [*context, *option] == [BOS, *learner.encode("q: why? no")]
    assert option == learner.encode(" no")


def test_trap_double_bos_of_a_rendered_chat_template():
    """A prompt rendered with its begin token keeps that one alone: retaining-by-doing#5 (6 points of the base's MMLU)."""
    policy = Policy(with_bos(tiny.weights()), None)
    plain = policy.encode_prompt("1+1=")
    assert plain[0] == BOS
    assert policy.encode_prompt(f"{policy.tokenizer.bos_token}1+1=") == plain
    context, option = split_tokens(policy, f"{policy.tokenizer.bos_token}1+1=", " 2")
    assert [context, option] == [plain, policy.encode(" 2")]


def test_trap_left_padding_moves_scores():
    """open-instruct#75: MMLU .259 for .459. Every score and answer is that of its item alone, whatever stands beside it."""
    policy = tiny.teacher(tiny.weights())
    options = (" no", " the other thing", " b")
    prompts = ["q: why?", "q: the one about the ostrich and the sand, at length?", "x", "some 1+1="]
    together = evaluate(policy, choices(options, prompts))
    alone = [evaluate(policy, choices(options, [prompt]))[0] for prompt in prompts]
    for one, other in zip(together, alone, strict=True):
        assert one.option_logps == pytest.approx(other.option_logps, abs=1e-4)
        assert max(one.option_logps) - min(one.option_logps) > 1
    # and it is the log-prob of the whole text less that of its beginning, from the model's own logits over unpadded ids
    for row, prompt in zip(together, prompts, strict=True):
        for option, found in zip(options, row.option_logps, strict=True):
            ids, num = policy.encode_prompt(prompt + option), len(policy.encode(option))
            policy.activate()
            with torch.no_grad():
                logp_TV = policy.weights.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            wanted = logp_TV[torch.arange(len(ids) - num - 1, len(ids) - 1), ids[-num:]].sum().item()
            assert found == pytest.approx(wanted, abs=1e-3)


def test_trap_fragile_forgetting_claims_base_scored_in_another_way():
    """open-instruct#75: base and run go one way. A learner that has learned nothing yet has forgotten nothing, to the bit."""
    shared = tiny.weights()
    base, learner = Policy(shared, None), tiny.learner(shared)
    for task in (choices((" no", " the other thing"), ["q: why?", "x"]), tiny.task()):
        before = evaluate(base, task)
        assert evaluate(learner, task) == before
    tiny.fill(shared, "learner", seed=4, size=0.2)
    assert evaluate(learner, task) != before
    assert evaluate(base, task) == before


def test_trap_irreproducible_a_run_says_what_made_it(monkeypatch):
    """verl#3126, open-instruct#648: versions, precision, data and vocabulary stand in the record; another one shows."""
    monkeypatch.setattr(told, "peak_gflops", lambda *_: 1.0)  # it is measured
    shared, task = tiny.weights(), tiny.task()
    found = told.provenance(shared, [task])
    for name in ("stateshape", "torch", "transformers", "peft", "tokenizers"):
        assert found["packages"][name] == version(name)
    assert found["data_sha256"] == {"tiny": task.data_sha256}
    assert (found["dtype"], found["device"], found["threads"]) == ("float32", "cpu", torch.get_num_threads())
    shared.tokenizer.add_tokens(["zz"])
    other = told.provenance(tiny.weights(dtype=torch.bfloat16), [])
    assert other["dtype"] == "bfloat16"
    assert other["tokenizer_sha256"] == found["tokenizer_sha256"] != told.provenance(shared, [])["tokenizer_sha256"]
