"""With a real vLLM server, which `stateshape serve` starts: what the fake server of the other tests can't show.

Needs STATESHAPE_VLLM, the interpreter of an environment with vLLM (docs/guides/servers.md); `make test-vllm` makes one. The
model is the embedded one, or STATESHAPE_VLLM_MODEL, a folder. About two minutes on two cores.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import tiny
from stateshape.cli import main
from stateshape.core import layout
from stateshape.core.files import read_json, read_jsonl
from stateshape.core.records import EvalRow, RunRecord, ServedRecord, StepRecord
from stateshape.policy.open import open_weights
from stateshape.policy.policy import Policy
from stateshape.policy.settings import LoraSettings, ModelSettings
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.served.check import reach
from stateshape.sampling.served.gate import Row, own_logps
from stateshape.sampling.served.sampler import ServedSampler
from stateshape.sampling.served.teacher import ServedTeacher
from stateshape.sampling.served.wire import Patience
from stateshape.sampling.settings import SamplingSettings

PYTHON = os.environ.get("STATESHAPE_VLLM", "")
MODEL = os.environ.get("STATESHAPE_VLLM_MODEL", "embedded")
START_S = 600
TOP_K = 32  # more than vLLM's own limit, 20
TEXTS = ("Q: 12 + 7 = ?\nA:", "The capital of France is", "one two three four", "Once upon a time", "x", "3 * 4 is")
ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not PYTHON, reason="set STATESHAPE_VLLM to a python with vLLM, or run make test-vllm"),
]


@pytest.fixture(scope="module")
def running():
    """Holds one server at a time: on a CPU an idle vLLM looks for work without a pause."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def url(running, tmp_path_factory):
    running.close()
    return running.enter_context(serving(tmp_path_factory.mktemp("vllm") / "log"))


@pytest.fixture(scope="module")
def teacher_url(running, tmp_path_factory):
    """For the last tests: the other server is gone then."""
    running.close()
    log = tmp_path_factory.mktemp("teacher") / "log"
    return running.enter_context(serving(log, "--adapters", "0", "--max-logprobs", str(TOP_K)))


@contextlib.contextmanager
def serving(log: Path, *flags: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        "serve",
        MODEL,
        "--port",
        str(port),
        "--python",
        PYTHON,
        "--dtype",
        "float32",
        "--max-model-len",
        "1024",
        "--run",
    ]
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-c", "from stateshape.cli import entry; entry()", *words, *flags],
            stdout=out, stderr=out, env=os.environ | ON_CPU, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, server, log)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(1)
    pytest.fail(f"vLLM did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def weights():
    return open_weights(MODEL, ModelSettings(device="cpu", dtype="float32"))


@pytest.fixture
def sampler(url, weights, tmp_path):
    reached = reach([url], MODEL, weights.tokenizer, Patience())
    sampler = ServedSampler(reached, weights, folder=tmp_path / "served", log=tmp_path / "served.jsonl")
    sampler.prove_base()
    yield sampler
    sampler.close()


@pytest.fixture
def learner(weights):
    yield tiny.adapter(weights, "learner", seed=1, size=0.05, lora=LoraSettings(rank=8, alpha=16))
    weights.remove_adapter("learner")


def sample(sampler, policy, *, seed=5, **given):
    prompts = [policy.encode_prompt(text) for text in TEXTS]
    rows = sampler.sample(policy, prompts, SamplingSettings(**{"max_new_tokens": 24} | given), seed=seed)
    copies = given.get("num_samples", 1)
    return [Row(prompts[i // copies], row) for i, row in enumerate(rows)]


def test_greedy_rows_are_those_of_our_own_sampler(sampler, learner, weights):
    for policy in (Policy(weights, None), learner):
        for stops in ((), ("\n", "."), ("the",)):
            there, here = (sample(one, policy, temperature=0.0, stops=stops) for one in (sampler, LocalSampler()))
            assert [row.completion.ids for row in there] == [row.completion.ids for row in here]
            assert [row.completion.finish for row in there] == [row.completion.finish for row in here]


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 1.3])
def test_log_probs_are_those_of_our_own_pass_at_the_temperature(sampler, learner, weights, temperature):
    for policy in (Policy(weights, None), learner):
        rows = sample(sampler, policy, temperature=temperature, num_samples=3)
        served_N = torch.tensor([logp for row in rows for logp in row.completion.logps], dtype=torch.float64)
        assert (served_N - own_logps(policy, rows, temperature)).abs().max() < 1e-3
    adapter, share = [(one.adapter, one.share) for one in read_jsonl(sampler.log, ServedRecord)][-1]
    assert adapter == "learner"
    assert share == pytest.approx(1, abs=0.01)


def test_a_new_version_is_not_answered_from_the_old_ones_cache(sampler, learner, weights):
    for seed in (1, 2, 1):
        tiny.fill(weights, "learner", seed=seed, size=0.05)
        rows = sample(sampler, learner)
        served_N = torch.tensor([logp for row in rows for logp in row.completion.logps], dtype=torch.float64)
        assert (served_N - own_logps(learner, rows, 1.0)).abs().max() < 1e-3


def test_samples_follow_the_seed_and_differ_within_a_group(sampler, learner):
    one, again, other = (sample(sampler, learner, num_samples=4, seed=seed, temperature=1.0) for seed in (5, 5, 6))
    ids = [[tuple(row.completion.ids) for row in rows] for rows in (one, again, other)]
    assert ids[0] != ids[2]
    assert len(set(ids[0])) > len(TEXTS)
    same = sum(a == b for a, b in zip(ids[0], ids[1], strict=True))
    assert same >= 0.8 * len(ids[0])  # rounding depends on the batch, and may flip a token


def test_sixteen_seeded_groups_at_a_time_do_not_kill_the_server(sampler, learner):
    prompts = [learner.encode_prompt(f"{i}. {' '.join(TEXTS)} {' '.join(TEXTS)}") for i in range(16)]
    rows = sampler.sample(learner, prompts, SamplingSettings(max_new_tokens=4, num_samples=8), seed=5)
    assert len(rows) == 128


def test_eval_through_the_server_gives_the_completions_of_a_local_one(url, tmp_path):
    shared = open_weights(MODEL, ModelSettings(device="cpu", dtype="float32"))
    tiny.adapter(shared, "tuned", seed=3, size=0.05, lora=LoraSettings(rank=8, alpha=16))
    shared.save_adapter("tuned", tmp_path / "adapter")
    words = [
        "--task",
        "arithmetic",
        "--limit",
        "8",
        "--shots",
        "2",
        "--max-new-tokens",
        "12",
        "--device",
        "cpu",
        "--quiet",
    ]
    rows = {}
    for name, servers in (("here", []), ("there", ["--servers", url])):
        out = tmp_path / name
        assert main(["eval", str(tmp_path / "adapter"), "--out", str(out), "--dtype", "float32", *words, *servers]) == 0
        rows[name] = read_jsonl(layout.evaluation(out, "arithmetic"), EvalRow)
    assert rows["here"] == rows["there"]


@pytest.mark.parametrize("recipe", ["grpo", "opd"])
def test_a_run_trains_through_the_server(url, tmp_path, recipe):
    own = ["--teacher", str(tmp_path / "teacher")] if recipe == "opd" else ["--group", "2"]
    if recipe == "opd":
        shared = open_weights(MODEL, ModelSettings(device="cpu", dtype="float32"))
        tiny.adapter(shared, "t", seed=3, size=0.05, lora=LoraSettings(rank=8, alpha=16))
        shared.save_adapter("t", tmp_path / "teacher")
    assert main([
        "train", recipe, "--model", MODEL, "--task", "arithmetic", "--out", str(tmp_path / "run"), "--sampler", "vllm",
        "--servers", url, "--steps", "3", "--batch-prompts", "2", "--rollout-tokens", "8", "--lora.rank", "8",
        "--device", "cpu", "--dtype", "float32", "--quiet", *own,
    ]) == 0  # fmt: skip
    record = read_json(tmp_path / "run" / layout.RUN, RunRecord)
    assert record.is_complete
    sampled = record.provenance["sampler"]
    assert isinstance(sampled, dict) and sampled["engine"] == "vllm"
    assert len(read_jsonl(tmp_path / "run" / layout.METRICS, StepRecord)) == 3
    for one in read_jsonl(tmp_path / "run" / layout.SERVED, ServedRecord):
        assert one.median_nats < 1e-4
        assert one.mean_ratio == pytest.approx(1, abs=1e-3)


def test_a_teachers_top_tokens_are_those_of_our_own_pass(teacher_url, weights):
    base = Policy(weights, None)
    teacher = ServedTeacher(teacher_url, top_k=TOP_K, tokenizer=weights.tokenizer, model=MODEL, patience=Patience())
    rows = [base.encode_prompt(text) for text in TEXTS if len(base.encode_prompt(text)) > 1]
    places = [range(1, len(row)) for row in rows]
    top = teacher.top(rows, places)
    teacher.close()
    with torch.no_grad():
        hidden_ND = base.hidden_at(rows, [[t - 1 for t in at] for at in places])
        logp_NV = base.head.logits(hidden_ND).log_softmax(-1)
    served_NK, ids_NK = torch.tensor(top.logp_NK), torch.tensor(top.ids_NK)
    assert (logp_NV.gather(1, ids_NK) - served_NK).abs().max() < 1e-3
    assert (logp_NV.topk(TOP_K).values - served_NK).abs().max() < 1e-3  # ties may change places, not values


def test_opd_trains_with_a_teacher_on_the_server(teacher_url, tmp_path):
    assert main([
        "train", "opd", "--model", MODEL, "--task", "arithmetic", "--out", str(tmp_path / "run"), "--teacher", teacher_url,
        "--top-k", str(TOP_K), "--steps", "2", "--batch-prompts", "2", "--rollout-tokens", "8", "--lora.rank", "8",
        "--device", "cpu", "--dtype", "float32", "--quiet",
    ]) == 0  # fmt: skip
    first = read_jsonl(tmp_path / "run" / layout.METRICS, StepRecord)[0]
    assert abs(first.loss) < 1e-3  # a fresh adapter says what the base says, which teaches here
    assert 0 < first.stats["top_mass"] <= 1 + 1e-6
