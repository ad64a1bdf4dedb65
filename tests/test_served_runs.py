"""Runs and studies whose rows come from servers: what they record, how they end, and that they resume."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch

import tiny
from fake_vllm import FakeServer
from stateshape.cli import main
from stateshape.core import layout
from stateshape.core.files import read_json, read_jsonl
from stateshape.core.records import EvalRow, RunRecord, ServedRecord, StepRecord
from stateshape.core.study_records import PlanRecord
from stateshape.embedded import base_folder
from stateshape.evals.evaluate import read_about
from stateshape.policy.open import open_weights
from stateshape.policy.settings import ModelSettings
from stateshape.sampling.served.command import server_command
from stateshape.sampling.served.wire import Patience
from stateshape.study import opened
from stateshape.study.plan import make_plan
from stateshape.study.study_file import read_study_file

GROUP, PROMPTS, STEPS = 4, 2, 3


@pytest.fixture(scope="module")
def weights():
    return open_weights("embedded", ModelSettings(device="cpu", dtype="float32"))


@pytest.fixture
def fake(weights, monkeypatch):
    monkeypatch.setattr(opened, "PATIENCE", Patience(answer_s=30.0, connect_s=5.0, waits_s=(0.0,)))
    with FakeServer(weights, root=str(base_folder())) as fake:
        yield fake


REWARD = (
    "def reward(item, text, finish):\n    return sum(map(ord, text)) % 97\n"  # so that steps have something to learn
)


def train(out: Path, *servers: str, extra=()) -> int:
    reward = out.parent / "reward.py"
    reward.write_text(REWARD, encoding="utf-8")
    chosen = ["--sampler", "vllm", "--servers", ",".join(servers)] if servers else []
    return main([
        "train", "grpo", "--model", "embedded", "--task", "arithmetic", "--out", str(out), *chosen, "--group", str(GROUP),
        "--reward", f"{reward}:reward",
        "--rollout-tokens", "4", "--steps", str(STEPS), "--batch-prompts", str(PROMPTS), "--lora.rank", "2", "--lr", "0.01",
        "--device", "cpu", "--quiet", *extra,
    ])  # fmt: skip


def only_line(capsys) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("stateshape: ")
    return lines[0]


def test_a_run_says_which_engine_version_and_servers_sampled(tmp_path, fake):
    assert train(tmp_path / "run", fake.url) == 0
    record = read_json(tmp_path / "run" / layout.RUN, RunRecord)
    assert record.is_complete
    assert record.provenance["sampler"] == {"engine": "vllm", "version": fake.version, "servers": [fake.url]}
    assert record.settings["sampler"] == "vllm"
    assert not fake.adapters and len(fake.loaded) == len(set(fake.loaded)) >= 2
    passed = read_jsonl(tmp_path / "run" / layout.SERVED, ServedRecord)
    assert [one.version for one in passed] == [None, *range(len(passed) - 1)] and len(passed) > 2
    for step in read_jsonl(tmp_path / "run" / layout.METRICS, StepRecord):
        assert step.stats["ratio"] == pytest.approx(1, abs=1e-4)  # behaviour log-probs are the server's
    assert not (tmp_path / "run" / layout.SERVED_ADAPTERS).exists()


def test_a_run_whose_server_dies_ends_in_one_line_and_resumes(tmp_path, fake, capsys):
    assert train(tmp_path / "whole", fake.url) == 0
    capsys.readouterr()
    fake.lasts = 2 * len(fake.completions()) - 1
    assert train(tmp_path / "run", fake.url) == 2
    told = only_line(capsys)
    assert fake.url in told and "EngineDeadError" in told
    done = len(read_jsonl(tmp_path / "run" / layout.METRICS, StepRecord))
    assert 0 < done < STEPS
    fake.lasts = None
    fake.stop()
    fake.start()
    assert train(tmp_path / "run", fake.url) == 0
    whole, resumed = (read_jsonl(tmp_path / name / layout.METRICS, StepRecord) for name in ("whole", "run"))
    assert [one.loss for one in resumed] == pytest.approx([one.loss for one in whole], abs=1e-4)
    assert [one.num_supervised for one in resumed] == [one.num_supervised for one in whole]


def test_a_run_does_not_change_its_sampler_or_the_servers_version(tmp_path, fake, capsys):
    fake.lasts = 0
    assert train(tmp_path / "run", fake.url) == 2  # the base can't be sampled, so nothing is begun
    assert not (tmp_path / "run" / layout.RUN).exists()
    capsys.readouterr()
    fake.lasts = 2 + PROMPTS
    assert train(tmp_path / "run", fake.url) == 2
    capsys.readouterr()
    fake.lasts = None
    assert train(tmp_path / "run") == 2
    assert "sampler" in only_line(capsys)
    fake.version = "0.33.0"
    assert train(tmp_path / "run", fake.url) == 2
    told = only_line(capsys)
    assert "0.33.0" in told and "0.32.0" in told


def test_servers_may_change_where_a_run_resumes(tmp_path, fake, weights):
    fake.lasts = 2 + PROMPTS
    assert train(tmp_path / "run", fake.url) == 2
    with FakeServer(weights, root=str(base_folder())) as other:
        assert train(tmp_path / "run", other.url) == 0


def test_a_server_that_is_not_there_is_named_before_the_model_loads(tmp_path, fake, capsys, monkeypatch):
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("stateshape.study.single.open_weights", never)
    fake.stop()
    assert train(tmp_path / "run", fake.url) == 2
    assert "no connection" in only_line(capsys)
    fake.start()
    fake.has_routes = False
    assert train(tmp_path / "run", fake.url) == 2
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" in only_line(capsys)
    fake.root = str(tmp_path)
    assert train(tmp_path / "run", fake.url) == 2
    assert "expected the run's base" in only_line(capsys)


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (["--train", "full"], "parameters: got full with sampler vllm"),
        (["--quantize", "4bit"], "quantize: got 4bit"),
    ],
)
def test_what_servers_cannot_sample_is_refused(tmp_path, fake, capsys, extra, told):
    assert train(tmp_path / "run", fake.url, extra=extra) == 2
    assert told in only_line(capsys)
    assert not fake.questions


def study_file(folder: Path, *fields: str) -> Path:
    runs = tiny.study_text(
        "tutor: {recipe: sft}", "student: {recipe: opd_continuation, teacher: tutor, with: {max_new_tokens: 4}}"
    )
    path = folder / f"study{len(fields)}.yaml"
    path.write_text("".join(f"{line}\n" for line in ("locality: null", *fields)) + runs, encoding="utf-8")
    return path


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_study_is_evaluated_on_servers_as_it_is_locally(tmp_path, fake, jobs):
    served = study_file(tmp_path, "sampler: vllm", f"servers: ['{fake.url}']")
    assert main(["study", str(study_file(tmp_path)), "--out", str(tmp_path / "local"), "--quiet"]) == 0
    assert main(["study", str(served), "--out", str(tmp_path / "served"), "--quiet", "--jobs", str(jobs)]) == 0
    for run in ("base", "tutor"):  # trained on rows of the data, so both have the same adapter
        here, there = (
            read_jsonl(layout.evaluation(layout.run_folder(tmp_path / name, run, 0), "arithmetic"), EvalRow)
            for name in ("local", "served")
        )
        assert [row.completion for row in there] == [row.completion for row in here]
        folder = layout.run_folder(tmp_path / "served", run, 0)
        about = read_about(folder, "arithmetic")
        assert about is not None and about.sampler is not None and about.sampler["engine"] == "vllm"
    greedy = [body for body in fake.completions() if body["temperature"] == 0]
    assert len(greedy) == 3 * len(there)  # the base and both runs
    plan = read_json(tmp_path / "served" / layout.PLAN, PlanRecord)
    assert plan.provenance["sampler"] == {"engine": "vllm", "version": fake.version, "servers": [fake.url]}
    assert {one.adapter for one in read_jsonl(tmp_path / "served" / layout.SERVED, ServedRecord)} == {
        None,
        "learner",
        "teacher1",
    }
    assert not fake.adapters and not (tmp_path / "served" / layout.SERVED_ADAPTERS).exists()


def evaluate(out: Path, source: Path | str, *flags: str) -> int:
    words = [
        "--task",
        "arithmetic",
        "--limit",
        "12",
        "--shots",
        "2",
        "--max-new-tokens",
        "8",
        "--device",
        "cpu",
        "--quiet",
    ]
    return main(["eval", str(source), "--out", str(out), *words, *flags])


@pytest.fixture
def tuned(weights, tmp_path) -> Path:
    """An adapter that changes what the base says."""
    tiny.adapter(weights, "tuned", seed=1, size=0.05)
    weights.save_adapter("tuned", tmp_path / "tuned")
    weights.remove_adapter("tuned")
    return tmp_path / "tuned"


def test_eval_on_servers_gives_the_rows_of_a_local_one(tmp_path, fake, tuned):
    for source, name in (("embedded", "base"), (tuned, "tuned")):
        assert evaluate(tmp_path / f"{name} here", source) == 0
        assert evaluate(tmp_path / f"{name} there", source, "--servers", fake.url) == 0
        here, there = (
            read_jsonl(layout.evaluation(tmp_path / f"{name} {where}", "arithmetic"), EvalRow)
            for where in ("here", "there")
        )
        assert here == there and len(here) == 12
    about = read_about(tmp_path / "tuned there", "arithmetic")
    assert about is not None
    assert about.sampler == {"engine": "vllm", "version": fake.version, "servers": [fake.url]}
    assert len(fake.loaded) == 1 and not fake.adapters
    assert not (tmp_path / "tuned there" / layout.SERVED_ADAPTERS).exists()
    rows = {
        name: read_jsonl(layout.evaluation(tmp_path / f"{name} there", "arithmetic"), EvalRow)
        for name in ("base", "tuned")
    }
    assert [row.completion for row in rows["base"]] != [row.completion for row in rows["tuned"]]


def test_eval_on_servers_draws_samples_there(tmp_path, fake):
    assert evaluate(tmp_path / "out", "embedded", "--servers", fake.url, "--samples", "3") == 0
    assert {body["n"] for body in fake.completions()} == {1, 2, 3}  # greedy rows, the base's proof, samples
    about = read_about(tmp_path / "out", "arithmetic", layout.SAMPLED)
    assert about is not None and about.sampler is not None and about.num_samples == 3


def test_eval_on_servers_passes_the_gate_or_writes_nothing(tmp_path, fake, tuned, capsys):
    fake.ignores_adapters = True
    assert evaluate(tmp_path / "out", tuned, "--servers", fake.url) == 2
    assert "answers as the base alone does" in only_line(capsys)
    assert not layout.evaluation(tmp_path / "out", "arithmetic").exists()
    assert not fake.adapters and not (tmp_path / "out" / layout.SERVED_ADAPTERS).exists()


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (["--task", "exam"], "exam, which is multiple choice"),
        (["--profile"], "got --profile with --servers"),
        (["--servers", "localhost"], "expected an address"),
    ],
)
def test_what_eval_cannot_ask_servers_is_refused(tmp_path, fake, capsys, extra, told):
    assert evaluate(tmp_path / "out", "embedded", "--servers", fake.url, *extra) == 2
    assert told in only_line(capsys)
    assert not fake.questions


def test_servers_are_enough_to_choose_them(tmp_path, fake):
    assert train(tmp_path / "run", extra=["--servers", fake.url]) == 0
    assert read_json(tmp_path / "run" / layout.RUN, RunRecord).settings["sampler"] == "vllm"


def test_a_plan_knows_its_sampler_and_not_the_servers_addresses(tmp_path):
    local, served, elsewhere = (
        make_plan(read_study_file(str(study_file(tmp_path, *fields))))
        for fields in (
            [],
            ["sampler: vllm", "servers: ['http://a:1']"],
            ["sampler: vllm", "servers: ['http://b:1', 'http://c:1']"],
        )
    )
    assert served.sha256 == elsewhere.sha256 != local.sha256
    assert "sampler" not in json.dumps([run.settings for run in local.trained])


def test_serve_prints_a_command_that_a_shell_can_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "sk-not-to-be-seen")
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    assert (
        main(
            [
                "serve",
                str(folder),
                "--port",
                "8123",
                "--rank",
                "20",
                "--dtype",
                "bfloat16",
                "--max-model-len",
                "512",
                "--max-logprobs",
                "64",
            ]
        )
        == 0
    )
    first, *words = shlex.split(capsys.readouterr().out)
    assert first == "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
    assert words == [
        "python", "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", "8123", "--dtype", "bfloat16",
        "--enable-lora", "--max-lora-rank", "32", "--max-loras", "4", "--logprobs-mode", "processed_logprobs",
        "--generation-config", "vllm", *NEVER_SPLIT, "--max-logprobs", "64", "--max-model-len", "512",
    ]  # fmt: skip


NEVER_SPLIT = [] if torch.cuda.is_available() else ["--no-enable-chunked-prefill"]


def test_a_teachers_server_takes_no_adapters():
    command = server_command("m", python="p", port=1, rank=1, adapters=0, dtype="float32", is_on_cpu=False)
    assert not command.environment and not any("lora" in word for word in command.words)


def test_on_a_cpu_a_server_never_splits_a_prompt():
    on_cpu, on_gpu = (
        server_command("m", python="p", port=1, rank=1, adapters=1, dtype="float32", is_on_cpu=is_on_cpu).words
        for is_on_cpu in (True, False)
    )
    assert [word for word in on_cpu if word not in on_gpu] == ["--no-enable-chunked-prefill"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--port", "0"], "port: got 0"),
        (["--rank", "513"], "rank: got 513"),
        (["--adapters", "-1"], "adapters: got -1"),
        (["--max-model-len", "1"], "max_model_len: got 1"),
        (["--max-logprobs", "0"], "max_logprobs: got 0"),
        (["--python", "no such python", "--run"], "has no vLLM"),
    ],
)
def test_serve_refuses_what_vllm_would_not_take(capsys, flags, told):
    assert main(["serve", "embedded", *flags]) == 2
    assert told in only_line(capsys)


def test_serve_names_the_base_of_an_adapter(tmp_path, capsys):
    tiny.adapter(open_weights("embedded", ModelSettings(device="cpu")), "one", seed=1).weights.save_adapter(
        "one", tmp_path / "a"
    )
    assert main(["serve", str(tmp_path / "a")]) == 2
    assert "expected its base, 'embedded'" in only_line(capsys)
