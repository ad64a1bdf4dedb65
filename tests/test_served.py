"""Sampling on servers: the same rows as locally, and each way in which a server can fail."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

import pytest
import torch

import tiny
from fake_vllm import FakeServer, error
from stateshape.core.files import BadInput, read_jsonl
from stateshape.core.records import ServedRecord
from stateshape.policy.policy import Policy
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.served import gate
from stateshape.sampling.served.adapters import remove_published
from stateshape.sampling.served.check import reach
from stateshape.sampling.served.choice import check_servers
from stateshape.sampling.served.gate import Row, own_logps, share_of_adapter
from stateshape.sampling.served.sampler import ServedSampler
from stateshape.sampling.served.wire import KEY, Patience, Refused, Server
from stateshape.sampling.settings import Call, SamplingSettings, sample_several

TEXTS = ("a", "some 1+1=", "bc", "twelve plus one is", "?", "x y z 0 1 2")
HASTY = Patience(answer_s=20.0, connect_s=5.0, waits_s=(0.0, 0.0))
TRIES = len(HASTY.waits_s) + 1


def settings(**given):
    return SamplingSettings(**{"max_new_tokens": 10} | given)


def prompts(policy):
    return [policy.encode_prompt(text) for text in TEXTS]


@contextlib.contextmanager
def served(folder: Path, *, num_servers=1, patience=HASTY):
    """A learner and its sampler. The servers have weights of their own, alike, so that nothing passes but what is sent."""
    shared = tiny.weights(dtype=torch.float64)
    learner = tiny.learner(shared, size=0.1)
    with contextlib.ExitStack() as stack:
        fakes = [stack.enter_context(FakeServer(tiny.weights(dtype=torch.float64))) for _ in range(num_servers)]
        reached = reach([fake.url for fake in fakes], shared.source, shared.tokenizer, patience)
        sampler = ServedSampler(reached, shared, folder=folder / "served", log=folder / "served.jsonl")
        stack.callback(sampler.close)
        yield learner, sampler, fakes


def in_one_line(failure):
    text = str(failure.value)
    assert text.startswith("servers: ") and "expected" in text and text.isprintable()
    return text


# The same rows as locally


@pytest.mark.parametrize(
    "given", [{"temperature": 0.0}, {"temperature": 0.0, "stops": ("a", "q\n")}, {"temperature": 0.0, "num_samples": 3}]
)
@pytest.mark.parametrize("num_servers", [1, 2])
def test_greedy_rows_are_those_of_the_local_sampler(tmp_path, given, num_servers):
    with served(tmp_path, num_servers=num_servers) as (learner, sampler, _):
        for policy in (learner, Policy(learner.weights, None)):
            there = sampler.sample(policy, prompts(policy), settings(**given), seed=5)
            here = LocalSampler().sample(policy, prompts(policy), settings(**given), seed=5)
            assert [(row.ids, row.finish) for row in there] == [(row.ids, row.finish) for row in here]
            for one, other in zip(there, here, strict=True):
                assert one.logps == pytest.approx(other.logps, abs=1e-6)


def test_sampled_rows_carry_the_log_probs_of_the_policy_at_the_temperature(tmp_path):
    with served(tmp_path) as (learner, sampler, _):
        rows = sampler.sample(learner, prompts(learner), settings(temperature=0.7, num_samples=2), seed=5)
        for i, prompt in enumerate(prompts(learner)):
            for row in rows[2 * i : 2 * i + 2]:
                assert row.logps == pytest.approx(own_logps(learner, [Row(prompt, row)], 0.7).tolist(), abs=1e-6)


def test_rows_depend_on_seed_and_prompt_number_and_not_on_the_servers(tmp_path):
    rows = {}
    for num_servers in (1, 3):
        with served(tmp_path / str(num_servers), num_servers=num_servers) as (learner, sampler, _):
            same = [prompts(learner)[1]] * 4
            rows[num_servers] = [sampler.sample(learner, same, settings(num_samples=2), seed=seed) for seed in (5, 6)]
    assert rows[1] == rows[3]
    first, second = rows[1]
    assert first != second
    assert len({tuple(row.ids) for row in first}) > 1  # equal prompts are not drawn alike


def test_calls_that_are_asked_together_get_the_rows_of_each_alone(tmp_path):
    with served(tmp_path) as (learner, sampler, _):
        given, texts = settings(num_samples=2), prompts(learner)
        calls = [Call(texts[:2], 5), Call(texts[2:3], 6), Call([], 7), Call(texts[:2], 8)]
        together = sample_several(sampler, learner, calls, given)
        alone = [sampler.sample(learner, call.prompts, given, seed=call.seed) for call in calls]
    assert [[row.ids for row in rows] for rows in together] == [[row.ids for row in rows] for rows in alone]
    assert [len(rows) for rows in together] == [4, 2, 0, 4]
    assert together[0] != together[3]  # the same prompts by another seed


def test_every_question_says_the_whole_distribution(tmp_path):
    with served(tmp_path) as (learner, sampler, (fake,)):
        sampler.sample(learner, prompts(learner), settings(temperature=0.7, num_samples=3, stops=("a",)), seed=5)
        asked = fake.completions()
    assert len(asked) == len(TEXTS)  # a group is one question, so its prompt is computed once
    assert len({body["seed"] for body in asked}) == len(TEXTS)
    for body in asked:
        assert body | {"prompt": 0, "seed": 0, "model": 0} == {
            "model": 0, "prompt": 0, "seed": 0, "n": 3, "max_tokens": 10, "temperature": 0.7, "top_p": 1.0, "top_k": 0,
            "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "ignore_eos": True,
            "stop_token_ids": [tiny.EOS], "stop": ["a"], "logprobs": 0, "return_token_ids": True,
        }  # fmt: skip


def test_a_row_ends_at_the_models_last_position_as_it_does_locally(tmp_path):
    with served(tmp_path) as (learner, sampler, _):
        long = [learner.encode_prompt("a" * (learner.max_positions - 3))]
        there = sampler.sample(learner, long, settings(temperature=0.0, max_new_tokens=8), seed=5)
        here = LocalSampler().sample(learner, long, settings(temperature=0.0, max_new_tokens=8), seed=5)
    assert [(row.ids, row.finish) for row in there] == [(row.ids, row.finish) for row in here]


def test_a_stop_text_that_the_server_sees_too_early_is_looked_for_here(tmp_path):
    with served(tmp_path) as (learner, sampler, (fake,)):
        given = settings(temperature=0.0, stops=("a", "b", "#"))
        here = LocalSampler().sample(learner, prompts(learner), given, seed=5)
        fake.breaks_texts = True
        there = sampler.sample(learner, prompts(learner), given, seed=5)
    assert [(row.ids, row.finish) for row in there] == [(row.ids, row.finish) for row in here]
    assert any(row.finish == "stop" for row in here)
    assert [] in [body["stop"] for body in fake.completions()]


def test_progress_counts_prompts(tmp_path):
    seen = []
    with served(tmp_path) as (learner, sampler, _):
        sampler.sample(learner, prompts(learner), settings(num_samples=2), seed=5, progress=lambda *at: seen.append(at))
        assert sampler.sample(learner, [], settings(), seed=5) == []
    assert seen == [(done, len(TEXTS)) for done in range(1, len(TEXTS) + 1)]


# Adapters


def test_a_changed_adapter_gets_a_new_name_and_the_old_one_is_unloaded(tmp_path):
    with served(tmp_path, num_servers=2) as (learner, sampler, fakes):
        for seed in (1, 1, 2):  # the same content twice
            tiny.fill(learner.weights, "learner", seed=seed, size=0.1)
            sampler.sample(learner, prompts(learner), settings(), seed=5)
            assert all(len(fake.adapters) == 1 for fake in fakes)
        names = fakes[0].loaded
        assert len(names) == len(set(names)) == 2
        assert fakes[1].loaded == names
        assert [path.name for path in (tmp_path / "served").iterdir()] == [names[-1]]
        tiny.fill(learner.weights, "learner", seed=1, size=0.1)
        sampler.sample(learner, prompts(learner), settings(), seed=5)
        assert len(set(fakes[0].loaded)) == 3  # content that comes back is a new name: the old one may be cached
        sampler.close()
        assert not any(fake.adapters for fake in fakes)
    assert not (tmp_path / "served").exists()


def test_learner_and_teacher_are_two_adapters_on_one_base(tmp_path):
    with served(tmp_path) as (learner, sampler, (fake,)):
        teacher = tiny.adapter(learner.weights, "teacher0", seed=8, size=0.1)
        for policy in (learner, teacher, Policy(learner.weights, None), learner):
            there = sampler.sample(policy, prompts(policy), settings(temperature=0.0), seed=5)
            here = LocalSampler().sample(policy, prompts(policy), settings(temperature=0.0), seed=5)
            assert [row.ids for row in there] == [row.ids for row in here]
        assert len(fake.loaded) == len(fake.adapters) == 2
        learner.weights.remove_adapter("teacher0")
        tiny.fill(learner.weights, "learner", seed=4, size=0.1)
        sampler.sample(learner, prompts(learner), settings(), seed=5)
        assert list(fake.adapters) == [fake.loaded[-1]]  # an adapter that is gone here is unloaded there


def test_an_adapter_that_one_server_does_not_take_is_left_on_none(tmp_path):
    with served(tmp_path, num_servers=2) as (learner, sampler, (good, full)):
        full.slots = 0
        with pytest.raises(BadInput) as failure:
            sampler.sample(learner, prompts(learner), settings(), seed=5)
        text = in_one_line(failure)
        assert full.url in text and "No free slots" in text
        assert len(good.loaded) == 1 and not good.adapters
        assert not list((tmp_path / "served").iterdir())
        full.slots = 8
        sampler.sample(learner, prompts(learner), settings(), seed=5)
        assert good.adapters.keys() == full.adapters.keys() and len(set(good.loaded)) == 2


def test_an_adapter_whose_folder_a_server_sees_late_is_loaded_then(tmp_path):
    with served(tmp_path) as (learner, sampler, (fake,)):
        fake.failures["/v1/load_lora_adapter"] = [error(404, "No adapter found")] * (TRIES - 1)
        sampler.sample(learner, prompts(learner), settings(), seed=5)
        tiny.fill(learner.weights, "learner", seed=2, size=0.1)
        fake.failures["/v1/load_lora_adapter"] = [error(404, "No adapter found")] * TRIES
        with pytest.raises(BadInput, match="did not load the adapter") as failure:
            sampler.sample(learner, prompts(learner), settings(), seed=5)
    in_one_line(failure)


def test_a_server_that_was_started_anew_is_given_its_adapters_again(tmp_path):
    with served(tmp_path) as (learner, sampler, (fake,)):
        before = sampler.sample(learner, prompts(learner), settings(), seed=5)
        fake.stop()
        fake.start()
        assert sampler.sample(learner, prompts(learner), settings(), seed=5) == before
        assert len(set(fake.loaded)) == 1  # the name still stands for this content
        assert len(read_jsonl(tmp_path / "served.jsonl", ServedRecord)) == 2  # and passes the gate again


def test_a_server_that_was_started_anew_with_another_version_is_refused(tmp_path):
    with served(tmp_path) as (learner, sampler, (fake,)):
        sampler.sample(learner, prompts(learner), settings(), seed=5)
        fake.stop()
        fake.version = "0.33.0"
        fake.start()
        with pytest.raises(BadInput) as failure:
            sampler.sample(learner, prompts(learner), settings(), seed=5)
    assert "0.33.0" in in_one_line(failure)


def test_a_server_that_was_started_anew_between_two_calls_of_the_base_passes_the_gate_again(tmp_path):
    with served(tmp_path) as (learner, sampler, (fake,)):
        base = Policy(learner.weights, None)
        before = sampler.sample(base, prompts(base), settings(), seed=5)
        fake.stop()
        fake.start()
        assert sampler.sample(base, prompts(base), settings(), seed=5) == before
        assert [one.adapter for one in read_jsonl(tmp_path / "served.jsonl", ServedRecord)] == [None, None]
        fake.stop()
        fake.weights = tiny.weights(seed=9, dtype=torch.float64)
        fake.start()
        with pytest.raises(BadInput, match="another model") as failure:
            sampler.sample(base, prompts(base), settings(), seed=5)
    in_one_line(failure)


def test_a_server_that_was_started_anew_between_two_calls_of_the_base_keeps_its_version(tmp_path):
    with served(tmp_path) as (learner, sampler, (fake,)):
        base = Policy(learner.weights, None)
        sampler.sample(base, prompts(base), settings(), seed=5)
        fake.stop()
        fake.version = "0.33.0"
        fake.start()
        with pytest.raises(BadInput, match=r"0\.33\.0") as failure:
            sampler.sample(base, prompts(base), settings(), seed=5)
    in_one_line(failure)


def test_what_a_killed_process_published_is_unloaded_and_deleted(tmp_path):
    with served(tmp_path) as (learner, sampler, (fake,)):
        sampler.sample(learner, prompts(learner), settings(), seed=5)
        fake.adapters["another run's"] = "elsewhere"
        remove_published(sampler.reached.servers, tmp_path / "served")
        assert list(fake.adapters) == ["another run's"]
        assert not (tmp_path / "served").exists()
        remove_published(sampler.reached.servers, tmp_path / "served")  # there may be nothing


# The gate


def test_the_gate_records_each_version_of_an_adapter_on_each_server(tmp_path):
    with served(tmp_path, num_servers=2) as (learner, sampler, fakes):
        sampler.prove_base()
        for seed in (1, 2):
            tiny.fill(learner.weights, "learner", seed=seed, size=0.1)
            for _ in range(2):
                sampler.sample(learner, prompts(learner) * 4, settings(), seed=5)
        records = read_jsonl(tmp_path / "served.jsonl", ServedRecord)
    assert [(one.adapter, one.version) for one in records] == [(None, None)] * 2 + [("learner", 0)] * 2 + [
        ("learner", 1)
    ] * 2
    assert {one.server for one in records} == {fake.url for fake in fakes}
    for one in records:
        assert one.median_nats < 1e-6
        assert one.mean_ratio == pytest.approx(1, abs=1e-6)
        assert one.share == (None if one.adapter is None else pytest.approx(1, abs=1e-3))


def test_log_probs_beyond_the_tolerance_are_refused(tmp_path):
    with served(tmp_path) as (learner, sampler, (fake,)):
        fake.wrong_by = 0.8 * gate.TOLERANCE_NATS[torch.float32]
        sampler.sample(learner, prompts(learner), settings(), seed=5)
        tiny.fill(learner.weights, "learner", seed=2, size=0.1)
        fake.wrong_by = 1.2 * gate.TOLERANCE_NATS[torch.float32]
        with pytest.raises(BadInput) as failure:
            sampler.sample(learner, prompts(learner), settings(), seed=5)
    text = in_one_line(failure)
    assert "0.0012 nats" in text and "expected at most 0.001" in text and fake.url in text


@pytest.mark.parametrize("size", [0.1, 1e-4])  # the second changes less than the tolerance
def test_an_adapter_that_is_loaded_and_not_applied_is_found_out(tmp_path, size):
    with served(tmp_path) as (learner, sampler, (fake,)):
        tiny.fill(learner.weights, "learner", seed=2, size=size)
        fake.ignores_adapters = True
        with pytest.raises(BadInput, match="answers as the base alone does") as failure:
            sampler.sample(learner, prompts(learner), settings(), seed=5)
    assert "loaded and not applied" in in_one_line(failure)


def test_a_fresh_adapter_says_what_the_base_says_and_passes(tmp_path):
    with served(tmp_path) as (learner, sampler, (fake,)):
        fresh = tiny.adapter(learner.weights, "fresh", seed=3)
        fake.ignores_adapters = True
        sampler.sample(fresh, prompts(fresh), settings(), seed=5)
        assert [one.share for one in read_jsonl(tmp_path / "served.jsonl", ServedRecord)] == [None]


def test_a_server_with_raw_log_probs_is_told_which_flag_it_lacks(tmp_path):
    with served(tmp_path) as (_, sampler, (fake,)):
        fake.is_raw = True
        with pytest.raises(BadInput) as failure:
            sampler.prove_base()
    assert "--logprobs-mode processed_logprobs" in in_one_line(failure)


def test_a_server_with_other_weights_is_found_out_before_anything_is_sampled(tmp_path):
    with served(tmp_path) as (_, sampler, (fake,)):
        fake.weights = tiny.weights(seed=9, dtype=torch.float64)
        with pytest.raises(BadInput) as failure:
            sampler.prove_base()
    assert "another model" in in_one_line(failure)


def test_the_share_of_an_adapter_is_the_least_squares_slope():
    own_N = torch.tensor([0.1, -0.2, 0.2, 0.0, -0.1])
    assert share_of_adapter(own_N, own_N, rounding=1e-9) == pytest.approx(1)
    assert share_of_adapter(own_N, 0 * own_N, rounding=1e-9) == pytest.approx(0)
    # residuals orthogonal to own_N: the slope stays 1/2; of size sqrt(2 c^2 / 4) / sqrt(0.1) its standard error
    noise_N = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0])
    c = 2**0.5 * 0.1**0.5 / 8
    assert share_of_adapter(own_N, own_N / 2 + 0.99 * c * noise_N, rounding=1e-9) == pytest.approx(0.5)
    assert share_of_adapter(own_N, own_N / 2 + 1.01 * c * noise_N, rounding=1e-9) is None
    assert share_of_adapter(own_N, own_N, rounding=0.1) is None  # rounding is as large as the effect
    assert share_of_adapter(0 * own_N, own_N, rounding=1e-9) is None


# A server in trouble


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_passing_failure_is_tried_again(tmp_path, status):
    with served(tmp_path) as (learner, sampler, (fake,)):
        before = sampler.sample(learner, prompts(learner), settings(), seed=5)
        fake.failures["/v1/completions"] = [error(status, "busy")] * (TRIES - 1)
        assert sampler.sample(learner, prompts(learner), settings(), seed=5) == before
        fake.failures["/v1/load_lora_adapter"] = [error(status, "busy")] * (TRIES - 1)
        tiny.fill(learner.weights, "learner", seed=2, size=0.1)
        sampler.sample(learner, prompts(learner), settings(), seed=5)


def test_a_lasting_failure_ends_in_one_line(tmp_path):
    with served(tmp_path) as (learner, sampler, (fake,)):
        fake.failures["/v1/completions"] = [error(500, "EngineDeadError\nTraceback")] * 1000
        with pytest.raises(BadInput) as failure:
            sampler.sample(learner, prompts(learner), settings(), seed=5)
    text = in_one_line(failure)
    assert "EngineDeadError" in text and f"{TRIES} tries" in text and "resumes" in text


def test_a_server_that_is_gone_ends_in_one_line(tmp_path):
    with served(tmp_path) as (learner, sampler, (fake,)):
        fake.stop()
        with pytest.raises(BadInput) as failure:
            sampler.sample(learner, prompts(learner), settings(), seed=5)
        fake.start()
    text = in_one_line(failure)
    assert "no connection" in text and fake.url in text


def test_a_server_that_does_not_answer_in_time_is_asked_twice(tmp_path):
    with served(tmp_path, patience=HASTY._replace(answer_s=0.5, waits_s=(0.0,) * 9)) as (learner, sampler, (fake,)):
        fake.is_stuck.set()
        with pytest.raises(BadInput) as failure:
            sampler.sample(learner, prompts(learner)[:1], settings(), seed=5)
        assert len(fake.completions()) == 2
    assert "no answer within 0.5 s, 2 tries" in in_one_line(failure)


def test_short_answers_are_asked_for_again_and_then_refused(tmp_path):
    with served(tmp_path) as (learner, sampler, (fake,)):
        fake.short_by = 1
        with pytest.raises(BadInput) as failure:
            sampler.sample(learner, prompts(learner)[:1], settings(temperature=0.0), seed=5)
        assert len(fake.completions()) == 3
    assert "a row of 9 tokens" in in_one_line(failure)


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": []},
        {"choices": [{"index": 0, "logprobs": {"token_logprobs": [-1.0]}, "finish_reason": "length"}]},
        {"choices": [{"index": 0, "token_ids": [3], "logprobs": None, "finish_reason": "length"}]},
        {
            "choices": [
                {"index": 0, "token_ids": [3], "logprobs": {"token_logprobs": [None]}, "finish_reason": "length"}
            ]
        },
        {
            "choices": [
                {"index": 0, "token_ids": [3, 4], "logprobs": {"token_logprobs": [-1.0]}, "finish_reason": "length"}
            ]
        },
        ["what"],
    ],
)
def test_an_answer_that_is_none_ends_in_one_line(tmp_path, answer):
    with served(tmp_path) as (learner, sampler, (fake,)):
        fake.failures["/v1/completions"] = [(200, answer)] * 3
        with pytest.raises(BadInput) as failure:
            sampler.sample(learner, prompts(learner)[:1], settings(max_new_tokens=1), seed=5)
    assert "answered with" in in_one_line(failure)


def test_a_refusal_is_not_tried_again():
    with FakeServer(tiny.weights()) as fake:
        server = Server(fake.url, HASTY)
        with pytest.raises(Refused, match="404"):
            server.get("/nowhere")
        assert len(fake.questions) == 1
        server.close()


# Keys


SECRET = "sk-not-to-be-seen"


def test_a_key_of_the_environment_goes_to_the_server_and_nowhere_else(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv(KEY, SECRET)
    caplog.set_level(logging.DEBUG)
    with served(tmp_path) as (learner, sampler, (fake,)):
        fake.key = SECRET
        sampler.prove_base()
        sampler.sample(learner, prompts(learner), settings(), seed=5)
        assert fake.authorizations == {f"Bearer {SECRET}"}
        assert SECRET not in caplog.text + str(sampler.about())
        for path in tmp_path.rglob("*"):
            assert path.is_dir() or SECRET.encode() not in path.read_bytes()


@pytest.mark.parametrize(("key", "told"), [(None, "got no key in VLLM_API_KEY"), ("sk-other", "got another key")])
def test_a_server_that_asks_for_a_key_is_named_at_once(monkeypatch, key, told):
    if key is None:
        monkeypatch.delenv(KEY, raising=False)
    else:
        monkeypatch.setenv(KEY, key)
    with FakeServer(tiny.weights()) as fake:
        fake.key = SECRET
        with pytest.raises(BadInput) as failure:
            at_start(fake)
        assert [path for path, _ in fake.questions] == [
            "/version"
        ]  # the only one that needs no key; nothing is asked twice
    text = in_one_line(failure)
    assert told in text and "status 401" in text and "sk-" not in text


@pytest.mark.parametrize("key", ["two words", "an end\n", "schl\u00fcssel"])
def test_a_key_that_no_header_can_hold_is_refused_unseen(monkeypatch, key):
    monkeypatch.setenv(KEY, key)
    with pytest.raises(BadInput, match="VLLM_API_KEY: got") as failure:
        Server("http://localhost:1", HASTY)
    assert key not in str(failure.value)


# Before a model loads


def at_start(fake, *, model="tiny", tokenizer=None):
    return reach([fake.url], model, tokenizer or fake.weights.tokenizer, HASTY)


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"version": "0.9.1"}, "0.10.2 or later"),
        ({"version": None}, "does not say a version"),
        ({"has_routes": False}, "VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
    ],
)
def test_a_server_that_does_not_fit_is_refused_at_the_start(fault, told):
    with FakeServer(tiny.weights()) as fake:
        for name, value in fault.items():
            setattr(fake, name, value)
        with pytest.raises(BadInput) as failure:
            at_start(fake)
    assert told in in_one_line(failure)


def test_a_server_of_another_model_is_refused_at_the_start(tmp_path):
    with (
        FakeServer(tiny.weights(), root=str(tmp_path)) as fake,
        pytest.raises(BadInput, match="expected the run's base") as failure,
    ):
        at_start(fake, model="embedded")
    in_one_line(failure)


def test_a_server_with_another_tokenizer_is_refused_at_the_start():
    other = tiny.weights()
    other.tokenizer = tiny.PreTrainedTokenizerFast(
        tokenizer_object=tiny.Tokenizer(tiny.models.WordLevel({"?": 0}, "?")), unk_token="?"
    )
    with FakeServer(other) as fake, pytest.raises(BadInput, match="the tokenizer of") as failure:
        at_start(fake, tokenizer=tiny.tokenizer())
    in_one_line(failure)


def test_servers_of_two_versions_are_refused_at_the_start():
    with FakeServer(tiny.weights()) as one, FakeServer(tiny.weights()) as other:
        other.version = "0.33.0"
        with pytest.raises(BadInput, match="expected one version") as failure:
            reach([one.url, other.url], "tiny", None, HASTY)
    in_one_line(failure)


def test_what_is_no_vllm_server_is_refused_at_the_start():
    with FakeServer(tiny.weights()) as fake:
        fake.failures["/version"] = [(200, "<html>"), (404, "not here"), (200, [])]
        for _ in range(3):
            with pytest.raises(BadInput) as failure:
                at_start(fake)
            assert "check the address" in in_one_line(failure)


def test_rows_longer_than_the_server_takes_are_refused_before_any_is_asked_for(tmp_path):
    with served(tmp_path) as (learner, sampler, (fake,)):
        sampler.reached.bases[0] = sampler.reached.bases[0]._replace(max_model_len=20)
        with pytest.raises(BadInput, match="--max-model-len 28") as failure:
            sampler.sample(learner, prompts(learner), settings(), seed=5)
        assert not fake.completions()
    in_one_line(failure)


def test_policies_that_are_not_on_the_served_base_are_refused(tmp_path):
    with served(tmp_path) as (learner, sampler, _):
        other = tiny.learner(tiny.weights(seed=4))
        with pytest.raises(BadInput, match="adapters on the served base only") as failure:
            sampler.sample(other, prompts(other), settings(), seed=5)
        in_one_line(failure)
        learner.weights.add_full("whole")
        with pytest.raises(BadInput, match="parameters full"):
            sampler.sample(Policy(learner.weights, "whole"), prompts(learner), settings(), seed=5)


@pytest.mark.parametrize(
    ("sampler", "servers", "told"),
    [
        ("local", ["http://a:1"], "add sampler vllm"),
        ("vllm", [], "expected addresses"),
        ("vllm", ["localhost:8000"], "expected an address"),
        ("vllm", ["http://"], "expected an address"),
        ("vllm", [""], "expected an address"),
        ("vllm", ["http://a:99999"], "expected an address"),
        ("vllm", ["http://a:1/v1"], "expected an address"),
        ("vllm", ["http://a b:1"], "expected an address"),
        ("vllm", ["http://a..b:1"], "expected an address"),
        ("vllm", ["http://a:0"], "expected an address"),
        ("vllm", ["http://\u0661:1"], "expected an address"),
        ("vllm", ["ftp://a:1"], "expected an address"),
        ("vllm", ["http://a:1", "http://a:1/"], "each address once"),
    ],
)
def test_a_choice_of_servers_that_makes_no_sense_is_refused(sampler, servers, told):
    with pytest.raises(BadInput) as failure:
        check_servers(sampler, servers)
    assert told in in_one_line(failure)
    check_servers("vllm", ["http://a:1", "https://b.example:8000/", "http://127.0.0.1", "http://[::1]:8000"])
    check_servers("local", [])
