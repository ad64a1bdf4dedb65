"""The names of all files and folders that runs and studies leave. Torch-free; nothing else spells them.

docs/studies.md describes the contents of each file; records.py and study_records.py its type.
"""

from __future__ import annotations

from pathlib import Path

# a run
RUN = "run.json"
METRICS = "metrics.jsonl"
SAMPLES = "states.jsonl"
STATES = "states"
KEPT = "kept"
ADAPTER = "adapter"
LOCALITY = "locality.jsonl"
SUPERVISION = "supervision.json"
SUPERVISION_STEPS = "supervision.jsonl"
EVALS = "evals"
SUMMARY = "summary.json"
ROLLOUTS, ROLLOUTS_AGAIN = "rollouts", "rollouts_again"
DRIFT = "drift.json"
CHECKPOINT = "checkpoint-*.pt"  # the number of completed steps
# a study
PLAN = "plan.json"
RUNS = "runs"
COMPARISON = "comparison.json"
VERDICTS = "verdicts.json"
PREDICTORS = "predictors.json"
STATE_MAP = "state_map.json"
TABLES = "tables"
PLOTS = "plots"
REPORT = "report.html"
# both
MANIFEST = "manifest.json"
PROFILE = "profile.json"


def run_folder(study: Path, run: str, seed: int) -> Path:
    return study / RUNS / run / f"seed{seed}"


def seed_folders(study: Path, run: str) -> list[Path]:
    """The folders of a run, whatever its seeds; empty where it has not begun."""
    return sorted((study / RUNS / run).glob("seed*"))


def run_folders(study: Path) -> list[Path]:
    """The folders of all runs and seeds."""
    return sorted(path for path in (study / RUNS).glob("*/seed*") if path.is_dir())


def evaluation(folder: Path, task: str) -> Path:
    """The rows of a task's evaluation."""
    return folder / EVALS / f"{task}.jsonl"


def summary(folder: Path) -> Path:
    return folder / EVALS / SUMMARY


def rollouts(folder: Path, name: str = ROLLOUTS) -> Path:
    """Rollouts as a reader sees them."""
    return folder / f"{name}.jsonl"


def pieces(folder: Path, name: str = ROLLOUTS) -> Path:
    """The same rollouts, one text per token."""
    return folder / f"{name}_pieces.jsonl"
