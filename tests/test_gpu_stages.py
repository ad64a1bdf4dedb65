"""The GPU measurements on a CPU: each stage is what it says it is, its limits add up, and what is cut off leaves the rest."""

import dataclasses
import importlib
import json
import math
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from benchmarks.common import Measured
from benchmarks.gpu import check, commands, driver, files, mps, peers, studies, unit_tests
from benchmarks.gpu.causes import kind_of, largest_causes, seconds_by_kind
from benchmarks.gpu.check_resume import Resumed
from benchmarks.gpu.estimate import (
    Assumed,
    Speed,
    Spent,
    estimated,
    measured_rates,
    total_s,
    with_less_drift,
    with_share,
)
from benchmarks.gpu.record import Job
from benchmarks.gpu.stages import BUDGET_S, DEFAULT, MOST_FILES, RESERVE_S, STAGES, TOY, Scale, Stage, stage_named
from benchmarks.gpu.studies import for_a_real_model
from benchmarks.gpu.within import within

from stateshape.cli import main
from stateshape.core.records import OperatorCost
from stateshape.policy.open import open_policy
from stateshape.policy.settings import ModelSettings
from stateshape.study.plan import make_plan
from stateshape.study.study_file import read_study_file

ROOT = Path(__file__).parents[1]
SMOLLM2_LAYERS, GSM8K_TRAIN = 30, 7473


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_has_its_function(stage):
    module, function = stage.function.split(":")
    assert callable(getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function))


def test_the_default_stages_fit_into_their_files_and_into_the_time():
    assert len(DEFAULT) + 2 <= MOST_FILES
    assert sum(stage_named(name).seconds for name in DEFAULT) + RESERVE_S <= BUDGET_S


def run_stage(name, tmp_path, *, seconds=None):
    out = tmp_path / f"{name}.json"
    command = [sys.executable, "-m", "benchmarks.gpu.run_stage", name, "--out", out, "--work", tmp_path, "--toy"]
    told = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    content = json.loads(out.read_text())
    assert told.returncode == 0, told.stderr[-3000:]
    assert content["state"] == "done"
    assert content["provenance"]["packages"]["torch"]
    return content["rows"]


def environment():
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), "HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
def test_sampling_at_toy_size(tmp_path):
    rows = run_stage("sampling", tmp_path)
    assert [row["engine"] for row in rows] == ["ours", "generate, dynamic cache"]
    for row in rows:
        assert row["tokens_per_s"] > 0, row
        assert row["memory_floor_s"] > 0 and row["compute_floor_s"] > 0
        num_causes = len(row["largest_causes"])
        assert 1 <= num_causes <= 3 if row["engine"] == "ours" else num_causes == 0


@pytest.mark.slow
def test_training_at_toy_size(tmp_path):
    rows = run_stage("training", tmp_path)
    assert [row["method"] for row in rows] == ["sft", "opd", "grpo"]
    for row in rows:
        assert row["mfu_of_training_phase"] > 0, row
        assert row["memory_floor_s"] > 0 and row["compute_floor_s"] > 0
        assert 1 <= len(row["largest_causes"]) <= 3


def test_the_self_check_passes_on_the_embedded_base(tmp_path):
    """All but the killed run, which needs three more processes."""
    rows = []
    job = Job(
        models=("embedded",), work=tmp_path, data=None, scale=TOY, is_toy=True, record=SimpleNamespace(add=rows.append)
    )
    assert check.packages()["passed"]
    assert all(passed for _, passed in check.checked(job, "embedded", "float32"))
    assert [row["check"] for row in rows] == ["passes", "equal", "recorded", "ratio"]
    assert all(row["passed"] for row in rows)
    found = {row["check"]: row for row in rows}
    assert found["recorded"]["rows_equal"] == found["recorded"]["rows"] == 2 * TOY.check_prompts
    assert check.attention(job, open_policy("embedded", ModelSettings(dtype="float32")), "float32")["repeated_heads"][
        "kernels"
    ]


def test_a_run_that_ended_before_it_could_be_killed_does_not_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(Resumed, "start", lambda self, name: subprocess.Popen([sys.executable, "-c", "pass"]))
    found = Resumed(Job(models=(), work=tmp_path, data=None, scale=TOY, is_toy=True, record=None))
    (tmp_path / "resumed" / "log.txt").write_text("nothing")
    row = found.row()
    assert (row["passed"], row["killed_at_step"]) == (False, None)


def test_the_archive_has_the_records_and_leaves_large_files_behind(tmp_path):
    small = ("plan.json", "report.html", "tables/table2.md", "runs/a/seed0/run.json", "runs/a/seed0/evals/gsm8k.jsonl")
    large = ("runs/a/seed0/adapter/x.safetensors", "runs/a/seed0/checkpoint-1.pt", "runs/a/seed0/rollouts_pieces.jsonl")
    for name in (*small, *large):
        path = tmp_path / "studies" / "paper" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    files.archive(tmp_path / "studies", tmp_path / "studies.tar.gz")
    with tarfile.open(tmp_path / "studies.tar.gz") as packed:
        assert sorted(packed.getnames()) == sorted(f"paper/{name}" for name in small)


@pytest.mark.parametrize("name", ["paper", "controls"])
def test_a_studys_share_is_settled_once(tmp_path, monkeypatch, name):
    """A plan that has begun must stay the same, whatever is measured later."""
    record = SimpleNamespace(path=tmp_path / f"{name}.json", add=lambda row: None)
    job = Job(models=("embedded",), work=tmp_path, data=None, scale=TOY, is_toy=True, record=record)
    plans = []
    monkeypatch.setattr(studies, "carry_out", lambda job, name, file, **_: plans.append(make_plan(file)))
    getattr(studies, name)(job)
    getattr(studies, name)(dataclasses.replace(job, scale=dataclasses.replace(TOY, study_share=0.5)))
    first, second = plans
    assert first.sha256 == second.sha256
    assert first.file.seeds == ([0, 1, 2] if name == "paper" else [0])
    assert "stand-in" in first.file.notes


# Sizes


class Shaped:
    """Tasks as large as the paper's, without their data."""

    def __init__(self, num, max_new_tokens=None):
        self.test = self.items = range(num)
        self.max_new_tokens = max_new_tokens


@pytest.fixture
def papers(monkeypatch):
    monkeypatch.setattr("benchmarks.gpu.estimate.GenerationTask", Shaped)
    choice = type("Choice", (), {"items": range(200)})()
    exam = type("Choice", (), {"items": range(500)})()
    return with_less_drift(read_study_file("paper")), [Shaped(500, 256), choice, exam]


def test_a_share_of_the_papers_rows_takes_less_by_our_own_estimate(papers):
    file, tasks = papers
    speed = Speed(num_layers=SMOLLM2_LAYERS, num_train=GSM8K_TRAIN, assumed=Assumed())
    some, whole = (total_s(estimated(make_plan(one), tasks, speed), speed) for one in (with_share(file, 0.1), file))
    assert 0 < some < whole / 2
    assert file.target.limit == 500 and [choice.limit for choice in file.retention] == [200, 500]


def test_seeds_repeat_all_runs_but_the_base():
    found = {"base": Spent(1.0, 2.0, 3.0), "sft": Spent(10.0, 20.0, 30.0)}
    speed = Speed(num_layers=1, num_train=1, assumed=Assumed(start_s=100.0))
    assert total_s(found, speed) == 166.0
    assert total_s(found, speed, seeds=3) == 286.0


def test_a_share_cuts_steps_and_items_and_nothing_else():
    whole = read_study_file("paper")
    half = make_plan(with_share(whole, 0.5))
    for before, after in zip(make_plan(whole).runs, half.runs, strict=True):
        assert after.train.num_steps(GSM8K_TRAIN) == pytest.approx(before.train.num_steps(GSM8K_TRAIN) / 2, abs=1)
        assert (after.train.lr, after.train.epochs, after.train.lora) == (
            before.train.lr,
            before.train.epochs,
            before.train.lora,
        )
        assert after.settings == before.settings


def test_measured_rates_take_the_place_of_assumed_ones():
    sampling = {"rows": [{"engine": "ours", "decode_step_s": 0.003}]}
    training = {"rows": [{"method": "sft", "seconds_per_step": 0.06}]}
    found = measured_rates(sampling, training, SMOLLM2_LAYERS)
    assert found.decode_layer_s == pytest.approx(1e-4)
    assert found.pass_layer_s == pytest.approx(2e-3)
    assert measured_rates(None, {"rows": [{"method": "sft", "error": "no memory"}]}, SMOLLM2_LAYERS) == Assumed()


def test_the_controls_write_longer_and_train_slower_on_a_real_model():
    run = read_study_file("controls").runs["sft_stress"]
    assert for_a_real_model(run).train["lr"] == pytest.approx(5e-4)  # the paper's
    run = read_study_file("controls").runs["opd"]
    assert for_a_real_model(run).settings == {"max_new_tokens": 192, "rollout_tokens": 192}


# Peers


def step(seconds, tokens=128 * 100):
    return lambda *_: lambda repeat: Measured(seconds, tokens, {})


def without_memory(*_):
    raise torch.OutOfMemoryError("4 GB more")


def theirs(fitting, tried):
    def make(sizes, micro_rows):
        tried.append((sizes.new_tokens, micro_rows))
        return without_memory if micro_rows > fitting and sizes.new_tokens > peers.WARM_TOKENS else step(6.0)()

    return make


def test_a_peer_that_lacks_memory_takes_smaller_micro_batches_and_the_others_are_measured(tmp_path, monkeypatch):
    job, rows = rows_of(monkeypatch, tmp_path, peers)
    tried = []
    several = [
        peers.Comparison("grpo", "a", peers.WIDE, step(2.0), theirs(16, tried)),
        peers.Comparison("opd", "b", peers.WIDE, step(2.0), theirs(0, [])),
        peers.Comparison("opd_gkd", "c", peers.WITH_LOGITS, step(3.0), theirs(64, [])),
    ]
    monkeypatch.setattr(peers, "triton_compiles", lambda: True)
    monkeypatch.setattr(peers, "comparisons", lambda *_, **__: several)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: name)
    with pytest.raises(RuntimeError, match=r"not measured: opd$"):
        peers.run(job)
    assert tried == [(peers.WARM_TOKENS, 32), (256, 32), (256, 16)]
    assert [row.get("ratio") for row in rows] == [3.0, None, 2.0]
    assert rows[0]["peer_settings"] == "micro-batches of 16, dynamic cache"
    assert "none of the micro-batches" in rows[1]["error"]
    assert rows[2]["memory_floor_s"] > 0 and rows[2]["compute_floor_s"] > 0


# A limit within a stage


def sleep_twice():
    """Drops the first thing that is raised, as a compiler might."""
    try:
        time.sleep(30)
    except BaseException:
        time.sleep(30)


def test_work_beyond_its_limit_ends_even_where_what_is_raised_is_dropped_once(monkeypatch):
    monkeypatch.setattr("benchmarks.gpu.within.AGAIN_S", 0.05)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"not done after 0\.05 s"), within(0.05):
        sleep_twice()
    assert time.monotonic() - began < 10
    for seconds in (math.inf, 60):
        with within(seconds):
            pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


# Causes


def operator(name, seconds, share):
    return OperatorCost(operator=name, calls=1, self_seconds=seconds, share=share)


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_warpgroupsize1x1x1", "matrix products"),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT", "matrix products"),
        ("void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128, 4>>", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80", "attention"),
        ("void at::native::(anonymous namespace)::cunn_SoftMaxForward<4, float, float>", "softmax and drawing"),
        ("Memcpy HtoD (Pageable -> Device)", "copies, indexing, filling"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", "norms and elementwise"),
        ("ncclDevKernel", "other kernels"),
        ("aten.addmm", "matrix products"),
    ],
)  # fmt: skip
def test_kernels_by_kind(kernel, kind):
    assert kind_of(kernel) == kind


def test_causes_are_what_is_beyond_the_floor():
    by_kind = seconds_by_kind([operator("gemm", 3.0, 0.6), operator("softmax", 1.0, 0.2)])  # a fifth is not listed
    assert by_kind == pytest.approx({"matrix products": 3.0, "softmax and drawing": 1.0, "other kernels": 1.0})
    causes = largest_causes(by_kind, seconds=10.0, floor_s=2.0)
    assert causes[0]["cause"] == "the device waits for the host"
    assert causes[0]["seconds"] == pytest.approx(5.0)
    assert sum(cause["share_of_gap"] for cause in causes) == pytest.approx(7 / 8)  # of 8: 5 waiting, 1, 1, 1
    assert seconds_by_kind([]) == {}


# The driver


@pytest.fixture
def call(tmp_path):
    for name in ("out", "work"):
        (tmp_path / name).mkdir()
    return driver.Call(
        out=tmp_path / "out", work=tmp_path / "work", models=("embedded",), is_toy=False, ends=time.monotonic() + 100
    )


def stage(name, seconds=20.0, least=1.0):
    return Stage(name, "check:run", seconds, least, "a stand-in")


def played(monkeypatch, code):
    """Stages are this code instead, with the path of their file as argument."""
    monkeypatch.setattr(driver, "command_of", lambda stage, path, call: [sys.executable, "-c", code, str(path)])


ROW_THEN = """
import json, os, sys, time

def write():  # as records are: whole or not at all, since the driver reads them while stages run
    open(sys.argv[1] + ".tmp", "w").write(json.dumps(content))
    os.replace(sys.argv[1] + ".tmp", sys.argv[1])

content = {"stage": "a", "state": "running", "rows": [{"check": "first", "passed": True}], "provenance": {}}
write()
"""


def test_a_stage_that_is_cut_off_keeps_its_rows_and_the_next_one_runs(monkeypatch, call):
    played(monkeypatch, ROW_THEN + "time.sleep(60)")
    monkeypatch.setattr(driver, "GRACE_S", 0.2)
    assert driver.run_all([stage("a", seconds=3.0), stage("b", seconds=3.0)], call) == 1
    for name in "ab":
        content = json.loads((call.out / f"{name}.json").read_text())
        assert content["state"] == "cut off"
        assert content["rows"] == [{"check": "first", "passed": True}]
    table = (call.out / driver.TABLE).read_text()
    assert "| a | first |" in table and "cut off" in table


def test_a_stage_that_dies_is_failed_and_one_without_time_is_skipped(monkeypatch, call):
    played(monkeypatch, ROW_THEN + "sys.exit(3)")
    assert driver.one(stage("a"), call) == "failed"
    assert driver.one(stage("b", least=1e6), call) == "skipped"
    assert json.loads((call.out / "b.json").read_text())["reason"] == "no time was left"


def test_a_finished_stage_is_not_done_again_and_its_file_comes_back(monkeypatch, call):
    played(monkeypatch, ROW_THEN.replace('"running"', '"done"'))
    assert driver.one(stage("a"), call) == "done"
    (call.out / "a.json").unlink()
    played(monkeypatch, "raise SystemExit('called again')")
    assert driver.one(stage("a"), call) == "done"
    assert json.loads((call.out / "a.json").read_text())["rows"]


WAITS_FOR_MAIN = """
own, main = sys.argv[1], os.path.join(os.path.dirname(sys.argv[1]), "main.json")
while os.path.basename(own) == "beside.json" and not os.path.exists(main):
    time.sleep(0.02)
content["state"] = "done"
write()
"""


def test_a_stage_beside_the_others_runs_while_they_do_and_is_waited_for(monkeypatch, call):
    """The one that is started first ends when the second one has written its file."""
    played(monkeypatch, ROW_THEN + WAITS_FOR_MAIN)
    beside = stage("beside")._replace(is_beside=True)
    assert driver.run_all([beside, stage("main")], call) == 0
    for name in ("beside", "main"):
        assert json.loads((call.out / f"{name}.json").read_text())["state"] == "done"


# Several processes on one GPU


@pytest.fixture
def control(tmp_path, monkeypatch):
    """A stand-in for the service's control program, which notes what it is told."""
    path, noted = tmp_path / mps.CONTROL, tmp_path / "noted"
    path.write_text(f'#!/bin/sh\necho "$1 $CUDA_MPS_PIPE_DIRECTORY" >> {noted}\n[ "$1" = -d ] || cat >> {noted}\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return noted


@pytest.mark.parametrize("works", [True, False])
def test_the_service_lasts_as_long_as_the_stage_and_is_left_out_where_it_does_not_work(
    tmp_path, monkeypatch, control, works
):
    monkeypatch.setattr(mps, "TRIED", "pass" if works else "raise SystemExit(1)")
    with mps.shared_gpu(tmp_path) as is_shared:
        assert is_shared == works
        assert ("CUDA_MPS_PIPE_DIRECTORY" in os.environ) == works
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ
    place = tmp_path / "cuda_mps_pipe_directory"
    assert control.read_text() == f"-d {place}\n {place}\nquit\n"


def test_without_the_service_runs_take_turns(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with mps.shared_gpu(tmp_path) as is_shared:
        assert not is_shared


# A user's commands, and the tests


def rows_of(monkeypatch, tmp_path, module):
    rows = []
    job = Job(
        models=("embedded",), work=tmp_path, data=None, scale=TOY, is_toy=True, record=SimpleNamespace(add=rows.append)
    )
    return job, rows


def test_a_command_that_fails_is_named_and_the_others_run(tmp_path, monkeypatch):
    job, rows = rows_of(monkeypatch, tmp_path, commands)
    chosen = [
        commands.Command("wrong", ["eval"]),
        commands.Command("refused", ["eval"], passes=2),
        commands.Command("version", ["--version"]),
    ]
    monkeypatch.setattr(commands, "commands", lambda job: chosen)
    with pytest.raises(RuntimeError, match=r"not passed: wrong$"):
        commands.run(job)
    assert [(row["check"], row["passed"], row["exit_code"]) for row in rows] == [
        ("wrong", False, 2),
        ("refused", True, 2),
        ("version", True, 0),
    ]
    assert rows[2]["stdout"].startswith("stateshape ")


@pytest.mark.slow
def test_a_run_that_a_command_makes_says_what_it_took(tmp_path, monkeypatch):
    job, rows = rows_of(monkeypatch, tmp_path, commands)
    made = tmp_path / "run"
    options = ["--batch-prompts", "2", "--steps", "1", "--locality.share", "0", "--parameters", "full"]
    arguments = commands.train("embedded", "arithmetic", made, options)
    assert commands.carried_out(job, commands.Command("sft", arguments, made=made))
    (row,) = rows
    assert row["steps"] == 1 and row["peak_memory_gb"] > 0
    assert row["seconds_by_phase"]["training"] > 0
    assert commands.of_run(tmp_path / "nothing") == commands.of_run(None) == {}


@pytest.mark.parametrize("chosen", [commands.commands, commands.full_training])
def test_the_stages_commands_are_ones_that_the_command_line_takes(tmp_path, capsys, chosen):
    job = Job(models=("embedded",), work=tmp_path, data=None, scale=Scale(), is_toy=False, record=None)
    for command in chosen(job):
        assert main([*command.arguments, "--no-such-flag"]) == 2
        assert capsys.readouterr().err.startswith("stateshape: Unrecognized options: --no-such-flag; see stateshape ")


def test_a_test_that_fails_is_a_row_and_tests_are_counted(monkeypatch, tmp_path):
    job, rows = rows_of(monkeypatch, tmp_path, unit_tests)
    monkeypatch.setattr(unit_tests, "COUNTED", 2)
    failures = unit_tests.Failures(job)
    for outcome in ("passed", "failed"):
        failures.pytest_runtest_logreport(
            SimpleNamespace(when="call", outcome=outcome, failed=outcome == "failed", nodeid="t::x", longrepr="why")
        )
    assert [row["check"] for row in rows] == ["tests so far", "t::x"]
    assert rows[0]["counts"] == {"passed": 1, "failed": 1}
    assert "passed" not in rows[0]  # a count is no verdict
    assert rows[1]["error"] == "why"


def test_the_stage_at_work_ends_with_the_command(tmp_path):
    """It holds a GPU's memory: left behind, it would be in the way of the next call."""
    code = f"""
import signal, sys
sys.path[:0] = {[str(ROOT), str(ROOT / "src")]!r}
from benchmarks.gpu import driver
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
child = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(60)"
driver.limited([sys.executable, "-c", child, {str(tmp_path / "pid")!r}], 60)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.poll() is None
        time.sleep(0.02)
    child = int((tmp_path / "pid").read_text())
    process.terminate()
    assert process.wait(timeout=30) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_without_a_gpu_the_command_says_so_in_one_line(tmp_path):
    told = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--out", tmp_path],
        cwd=ROOT, env=environment() | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 2
    assert "torch sees no CUDA device here" in told.stderr.splitlines()[-1]
