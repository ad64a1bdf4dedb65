"""A study on a local Ray of two workers, one of which is killed in the middle, against one process. `make test-ray`."""

import os
import signal
import subprocess
import sys
import time

import pytest

import tiny
from stateshape.cli import main
from stateshape.core.locks import claim_on
from test_study import results

pytest.importorskip("ray", reason="the package ray is not installed: make test-ray")

TEXT = tiny.study_text(
    "tutor: {recipe: sft, train: {steps: 60}}",
    "other: {recipe: sft}",
    "student: {recipe: opd_continuation, teacher: tutor, with: {max_new_tokens: 8, rollout_tokens: 8}}",
)
LONGEST_S = 600


def kill_worker_of(run, study):
    """Once the run has done a few steps; gives how many."""
    until = time.monotonic() + LONGEST_S
    while time.monotonic() < until and study.poll() is None:
        metrics, claim = run / "metrics.jsonl", claim_on(run)
        steps = metrics.read_text().count("\n") if metrics.exists() else 0
        if claim is not None and steps >= 3:
            os.kill(claim.pid, signal.SIGKILL)
            return steps
        time.sleep(0.02)
    return 0


def test_a_study_whose_worker_is_killed_ends_as_one_process_ends(tmp_path):
    file, cluster, alone = tmp_path / "tiny.yaml", tmp_path / "cluster", tmp_path / "alone"
    file.write_text(TEXT, encoding="utf-8")
    command = [sys.executable, "-m", "stateshape", "study", str(file), "--executor", "ray", "--jobs", "2", "--out"]
    with (tmp_path / "said").open("w") as said:
        study = subprocess.Popen([*command, str(cluster)], stderr=said, env={**os.environ, "OMP_NUM_THREADS": "1"})
        steps = kill_worker_of(cluster / "runs" / "tutor" / "seed0", study)
        assert study.wait(LONGEST_S) == 0, (tmp_path / "said").read_text()
    assert 3 <= steps < 60
    assert "tutor, seed 0: its worker was lost (WorkerCrashedError); submitted again" in (tmp_path / "said").read_text()
    assert (cluster / "report.html").exists()
    assert main(["study", str(file), "--out", str(alone), "--quiet", "--jobs", "1"]) == 0
    assert results(cluster) == results(alone)
