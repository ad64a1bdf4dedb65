"""Hidden states of a frozen policy against plain forward passes; a missing encoder; the map of states."""

import sys

import numpy as np
import pytest
import torch

import tiny
from stateshape.core.files import BadInput
from stateshape.drift import encoders
from stateshape.drift.encoders import HiddenStates, Remembering, SentenceEncoder
from stateshape.drift.measure import measure
from stateshape.drift.projection import project
from stateshape.drift.states import PrefixStates, Rollouts
from stateshape.policy.policy import Policy
from stateshape.study.drift_rollouts import encoders_of
from stateshape.study.study_file import DriftChoice

STATES = PrefixStates(
    responses=["3 so", "3 so 4", "a", ""],
    states=["1+2=3 so", "1+2=3 so 4", "bba", "1+2="],
    prompt_ids=["p", "p", "q", "p"],
)


@pytest.mark.parametrize("chunk", [8192, 9])
def test_hidden_states_are_the_models_own_averaged_over_the_response(monkeypatch, chunk):
    monkeypatch.setattr(encoders, "CHUNK_TOKENS", chunk)
    shared = tiny.weights()
    got = HiddenStates(Policy(shared, None)).encode(STATES)
    for row, response, state in zip(got, STATES.responses, STATES.states, strict=True):
        ids = torch.tensor([shared.tokenizer(state)["input_ids"]])
        with torch.no_grad():
            hidden_TD = shared.model.model(ids).last_hidden_state[0]
        # one character is one token; without a response the prompt's last token stands for the state
        expected = hidden_TD[len(state) - max(len(response), 1) :].mean(dim=0)
        assert row == pytest.approx(expected.numpy(), abs=2e-5)


def test_an_encoder_adds_its_own_set_centred_and_scaled_on_the_base():
    class Letters:
        features = "letters"

        def encode(self, states):
            return np.array([[text.count(letter) for letter in "abc"] for text in states.responses], np.float32)

    def rollouts(seed, letters):
        draw = np.random.default_rng(seed)
        texts = [list(draw.choice(letters, 12)) for _ in range(20)]
        return Rollouts(prompt_ids=[str(i) for i in range(20)], prompts=["?"] * 20, pieces=texts)

    sides = rollouts(1, list("aab")), rollouts(2, list("aab")), rollouts(3, list("abc"))
    record = measure(*sides, task="t", seed=0, encoders={"letters": Letters()}, num_permutations=99, num_resamples=20)
    assert record.feature_sets["letters_"] == "letters"
    assert record.distances["letters_mmd2_unbiased"].p == 0.01
    assert record.distances["letters_c2st_auc"].value > 0.8
    assert "letters_jaccard" not in record.distances
    assert 0.5 < record.median_distances["letters_"] < 2  # the base's mean squared length is 1


def test_the_last_samples_are_not_encoded_again_and_others_are():
    asked = []

    class Lengths:
        features = "lengths"

        def encode(self, states):
            asked.append(states)
            return np.array([[len(text)] for text in states.responses], np.float32)

    def sample(*texts):
        return PrefixStates(responses=list(texts), states=[f"?{text}" for text in texts], prompt_ids=["p"] * len(texts))

    encoder = Remembering(Lengths())
    base_a, base_b = sample("a", "abc"), sample("ab")
    for run in (sample("abcd"), sample("abcde")):
        assert encoder.encode(base_a).tolist() == [[1], [3]]
        assert encoder.encode(base_b).tolist() == [[2]]
        assert encoder.encode(run).tolist() == [[len(run.responses[0])]]
    assert asked == [base_a, base_b, sample("abcd"), sample("abcde")]
    with pytest.raises(ValueError, match="read-only"):
        encoder.encode(base_a)[0] = 0
    assert encoder.features == "lengths"


def test_what_a_study_looks_at_is_remembered():
    found = encoders_of(DriftChoice(hidden=True), Policy(tiny.weights(), None))
    assert {name: type(encoder) for name, encoder in found.items()} == {"hidden": Remembering}


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(BadInput, match=r"got 'all-MiniLM-L6-v2', but .* pip install 'stateshape\[encoder\]'"):
        SentenceEncoder("all-MiniLM-L6-v2")


# The map


def test_the_map_is_the_principal_plane_of_the_pooled_groups():
    groups = {
        "base": ["one two three", "one two", "two three four"] * 5,
        "run": ["five six", "five six seven", "six seven two"] * 2,
        "training": [],
    }
    found = project(groups, base="base")
    assert {name: points.shape for name, points in found.points.items()} == {
        "base": (15, 2), "run": (6, 2), "training": (0, 2),
    }  # fmt: skip
    # base and run share next to no words: the first axis tells them apart
    base_x, run_x = found.points["base"][:, 0], found.points["run"][:, 0]
    assert base_x.max() < run_x.min() or run_x.max() < base_x.min()
    assert 1 >= sum(found.shares) > 0.5
    assert found.shares[0] >= found.shares[1]
    # every group weighs the same: the groups' mean squared spread about the common mean is the variance of the axes
    assert base_x.mean() + run_x.mean() == pytest.approx(0, abs=1e-12)
    # a larger group does not turn the map
    larger = project({**groups, "run": groups["run"] * 9}, base="base")
    assert larger.points["base"] == pytest.approx(found.points["base"], abs=1e-9)
    # the larger loadings point to the positive side: a text of the first axis' own words lies there
    assert project(groups, base="base").points["run"] == pytest.approx(found.points["run"], abs=0)


def test_the_map_shows_equal_texts_as_one_point_and_needs_a_base():
    found = project({"base": ["a b"] * 3, "run": ["a b"]}, base="base")
    assert np.abs(np.concatenate(list(found.points.values()))).max() < 1e-12
    with pytest.raises(BadInput, match="'base' has no texts"):
        project({"run": ["a"]}, base="base")
