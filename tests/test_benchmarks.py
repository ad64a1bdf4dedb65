"""The GPU measurements' entry point, at its tiny sizes on a CPU: a stage that a change elsewhere broke shows here first."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_gpu_stages_run_on_a_cpu():
    made = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "sampling", "training", "--smoke"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    rows = [json.loads(line) for line in made.stdout.splitlines() if line.startswith("{")]
    assert next(row["engine"] for row in rows if "engine" in row) == "ours"
    trained = {row["method"]: row for row in rows if "method" in row}
    assert trained.keys() == {"sft", "opd", "grpo"}
    assert all(row["mfu_of_training_phase"] > 0 for row in trained.values())
