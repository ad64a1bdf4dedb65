"""What becomes of texts as tokens: prompt and text encoded together, rows within the model's positions, broken models."""

import string

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tiny
from stateshape.core.files import BadInput
from stateshape.core.method import Draw
from stateshape.drift.encoders import HiddenStates
from stateshape.drift.states import PrefixStates
from stateshape.evals.evaluate import evaluate
from stateshape.policy.policy import Policy
from stateshape.policy.weights import SharedWeights
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.states.dataset import DatasetPairs, DatasetStates
from stateshape.states.fit import check_texts, fit_notes
from stateshape.states.sampled import LearnerStates
from stateshape.tasks.items import ChoiceItem, GenerationItem
from stateshape.tasks.task import ChoiceTask

DRAW = Draw(item_ids=("x",), step=0, seed=0)
LIMIT = 256  # positions of the tiny model


def blank_first_tokenizer():
    """As Llama-2's: a blank is put before every text, and blanks are a sign of their own."""
    signs = ["<pad>", "<eos>", "▁", *string.ascii_lowercase, *string.digits, ".", "=", ":", "+"]
    made = Tokenizer(models.WordLevel({sign: i for i, sign in enumerate(signs)}, unk_token="."))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>", pad_token="<pad>", unk_token=".")


def policy_of(tokenizer):
    model = tiny.random_model(
        0, vocab_size=len(tokenizer), max_position_embeddings=LIMIT, eos_token_id=1, pad_token_id=None
    )
    return Policy(SharedWeights(model, tokenizer, source="tiny"), None)


def item(prompt, completion=" b", **more):
    return GenerationItem(item_id="x", prompt=prompt, gold="1", completion=completion, **more)


def rollouts(one, tokens=8):
    return LearnerStates(items={"x": one}, sampler=LocalSampler(), settings=SamplingSettings(max_new_tokens=tokens))


# Prompt and text together


def test_a_text_behind_a_prompt_has_the_tokens_it_has_there():
    policy = policy_of(blank_first_tokenizer())
    one = item("q: 3+4=", " 7.", rejected=" 8.")
    for states in (DatasetStates(items={"x": one}), DatasetPairs(items={"x": one})):
        for row in states.draw(policy, DRAW).trajectories():
            text = " 8." if "8" in policy.decode(row.ids) else " 7."
            assert row.ids == [*policy.tokenizer(one.prompt + text)["input_ids"], 1]
            assert policy.tokenizer.convert_ids_to_tokens(row.response)[0:2] == ["▁", text[1]], "one blank, not two"
            assert row.ids[: row.prompt_length] == policy.encode_prompt(one.prompt)


def test_drift_reads_a_response_behind_its_prompt_with_one_blank():
    policy = policy_of(blank_first_tokenizer())
    found = HiddenStates(policy).encode(PrefixStates(prompt_ids=["x"], responses=[" 7"], states=["3+4= 7"]))
    ids = policy.tokenizer("3+4= 7")["input_ids"]
    with torch.no_grad():
        hidden = policy.hidden_at([ids], [range(len(ids) - 2, len(ids))])
    assert found[0] == pytest.approx(hidden.mean(0).numpy(), abs=1e-5)


def test_where_a_token_reaches_across_the_two_are_encoded_apart_and_it_is_said():
    """ "ab" becomes one token: the prompt keeps the ids that are sampled from."""
    tokenizer = blank_first_tokenizer()
    merged = tokenizer.backend_tokenizer
    merged.pre_tokenizer = pre_tokenizers.Split(Regex(r"ab|[\s\S]"), "isolated")
    tokenizer.add_tokens(["ab"])
    policy = policy_of(tokenizer)
    (joined,) = policy.encode_joined([("3a", "b")])
    assert not joined.is_split
    assert joined.prompt == policy.encode_prompt("3a")
    assert joined.text == policy.encode("b")
    one = item("3a", "b")
    (note,) = fit_notes(policy, [one, item("3a", " c")], [DatasetStates(items={"x": one})])
    assert note.startswith("solution: in 1 of 2 training items one token would span the end of the prompt")


def test_an_end_token_inside_a_solution_is_refused():
    policy = Policy(tiny.weights(), None)
    one = item("a", " b<eos> 3")
    with pytest.raises(BadInput, match="solution: got the model's end token '<eos>' in a text of x"):
        check_texts(policy, [one])


# Lengths


def test_a_prompt_that_leaves_no_room_is_cut_on_the_left_in_every_state_source_and_counted():
    policy = Policy(tiny.weights(), None)
    long, short = item("a" * 200 + "b" * 100, " so", rejected=" so it is"), item("a")
    for source, longest in (
        (DatasetStates(items={"x": long}), len(" so") + 1),
        (DatasetPairs(items={"x": long}), len(" so it is") + 1),
        (rollouts(long), 8 + 1),
    ):
        rows = source.draw(policy, DRAW).trajectories()
        assert {policy.decode(row.ids[: row.prompt_length]) for row in rows} == {
            ("a" * 200 + "b" * 100)[-(LIMIT - longest) :]
        }
        assert max(len(row.ids) for row in rows) <= LIMIT
        (note,) = fit_notes(policy, [long, short], [source])
        assert note.startswith("prompt: 1 of 2 training prompts leave no room") and "256 positions" in note
        assert not fit_notes(policy, [short], [source])


def test_a_prompt_that_just_fits_is_whole():
    policy = Policy(tiny.weights(), None)
    one = item("a" * (LIMIT - 4), " so")
    (row,) = DatasetStates(items={"x": one}).draw(policy, DRAW).trajectories()
    assert len(row.ids) == LIMIT
    assert not fit_notes(policy, [one], [DatasetStates(items={"x": one})])


def test_a_solution_that_leaves_no_prompt_is_refused():
    policy = Policy(tiny.weights(), None)
    one = item("a", "b" * LIMIT)
    with pytest.raises(
        BadInput, match=r"solution: got 1 that leave no room for a prompt \(x is the first, 257 tokens\)"
    ):
        check_texts(policy, [item("a"), one])
    check_texts(policy, [item("a"), item("a", "b" * (LIMIT - 2)), item("a", None)])


def test_no_row_is_computed_or_sampled_beyond_the_models_positions():
    policy = Policy(tiny.weights(), None)
    with pytest.raises(BadInput, match="tiny: got a row of 257 tokens; expected at most the model's 256 positions"):
        policy.hidden_at([[5] * (LIMIT + 1)], [[0]])
    settings = SamplingSettings(max_new_tokens=20)
    with pytest.raises(BadInput, match="tiny: got a prompt of 256 tokens; expected fewer"):
        LocalSampler().sample(policy, [[5] * LIMIT], settings, seed=0)
    made = LocalSampler().sample(policy, [[5] * (LIMIT - 3), [5] * 9], settings, seed=1)
    assert len(made[0].ids) <= 3
    if len(made[0].ids) == 3:
        assert made[0].finish in ("length", "eos")


# Broken models


def broken(value):
    shared = tiny.weights()
    with torch.no_grad():
        shared.model.model.norm.weight[0] = value
    return Policy(shared, None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_whose_numbers_are_none_is_not_graded(value):
    choice = ChoiceItem(item_id="c1", prompt="a", options=(" b", " c"), is_true=(True, False))
    questions = ChoiceTask(
        name="facts", label="F", metric="acc", items=(choice,), metrics=("acc",), chance=0.5, data_sha256=""
    )
    for task, name in ((tiny.task(), "tiny: item item0"), (questions, "facts: item c1")):
        with pytest.raises(BadInput, match=f"tiny: {name}: got a log-prob of (nan|-?inf); expected finite ones"):
            evaluate(broken(value), task)
