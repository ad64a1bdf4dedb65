"""The names of all files and folders that runs and studies leave. Torch-free; nothing else spells them.

docs/studies.md describes the contents of each file; records.py and study_records.py its type.
"""

from __future__ import annotations

import re
from pathlib import Path

# a run
RUN = "run.json"
METRICS = "metrics.jsonl"
SAMPLES = "states.jsonl"
STATES = "states"
KEPT = "kept"
ADAPTER = "adapter"
MODEL = "model"  # in place of the adapter, where all parameters were trained
CARD = "README.md"  # inside either
SERVED = "served.jsonl"
SERVED_ADAPTERS = "served"  # a folder, while it goes
LOCALITY = "locality.jsonl"
SUPERVISION = "supervision.json"
SUPERVISION_STEPS = "supervision.jsonl"
EVALS = "evals"
SAMPLED = "sampled"
SUMMARY = "summary.json"
ROLLOUTS, ROLLOUTS_AGAIN = "rollouts", "rollouts_again"
DRIFT = "drift.json"
DRIFT_START = "drift_start.json"
KL = "kl.json"
FLIPS = "flips.jsonl"
ALONG = "along.jsonl"
ALONG_CANDIDATES = "along_candidates.jsonl"
ALONG_ROWS = "along"
EVAL_STEPS = "eval_steps.jsonl"
BEST = "best.json"
CHECKPOINT = "checkpoint-*.pt"  # the number of completed steps
KEPT_CHECKPOINT = re.compile(r"checkpoint-([1-9][0-9]*)")  # a folder; likewise
# a study
PLAN = "plan.json"
RUNS = "runs"
COMPARISON = "comparison.json"
VERDICTS = "verdicts.json"
FINDINGS = "findings.json"
LOOKS = "looks.json"
AUDIT = "audit.json"
PREDICTORS = "predictors.json"
STATE_MAP = "state_map.json"
DOSES = "dose.json"
TABLES = "tables"
PLOTS = "plots"
REPORT = "report.html"
FAILED = "failed.json"  # runs that could not be done, and why; gone once the study is run again
JOBS = "jobs"  # what a cluster's jobs are given and say
# both
MANIFEST = "manifest.json"
PROFILE = "profile.json"


def run_folder(study: Path, run: str, seed: int) -> Path:
    return study / RUNS / run / f"seed{seed}"


def study_of(run: Path) -> Path:
    """The study's folder that a run's folder would be in, whether it is there or not."""
    return run.absolute().parents[2] if len(run.absolute().parts) > 3 else run.absolute()


def seed_folders(study: Path, run: str) -> list[Path]:
    """The folders of a run, whatever its seeds; empty where it has not begun."""
    return sorted((study / RUNS / run).glob("seed*"))


def run_folders(study: Path) -> list[Path]:
    """The folders of all runs and seeds."""
    return sorted(path for path in (study / RUNS).glob("*/seed*") if path.is_dir())


def evaluation(folder: Path, task: str, kind: str = EVALS) -> Path:
    """The rows of a task's evaluation. kind: EVALS, or SAMPLED on several samples per item."""
    return folder / kind / f"{task}.jsonl"


def summary(folder: Path, kind: str = EVALS) -> Path:
    return folder / kind / SUMMARY


def rollouts(folder: Path, name: str = ROLLOUTS) -> Path:
    """Rollouts as a reader sees them."""
    return folder / f"{name}.jsonl"


def pieces(folder: Path, name: str = ROLLOUTS) -> Path:
    """The same rollouts, one text per token."""
    return folder / f"{name}_pieces.jsonl"


def tokens(folder: Path, name: str = ROLLOUTS) -> Path:
    """The same rollouts as token ids; of the base alone, where runs are measured along their way."""
    return folder / f"{name}_ids.jsonl"


def trained(folder: Path) -> Path:
    """What a run has trained: its adapter, or its model."""
    return folder / MODEL if (folder / MODEL).is_dir() else folder / ADAPTER


def kept_checkpoint(folder: Path, step: int) -> Path:
    """The adapter after `step` completed steps."""
    return folder / f"checkpoint-{step}"


def kept_checkpoints(folder: Path) -> dict[int, Path]:
    """The kept adapters by step, in order."""
    found = {path: KEPT_CHECKPOINT.fullmatch(path.name) for path in folder.glob("checkpoint-*") if path.is_dir()}
    return dict(sorted((int(name[1]), path) for path, name in found.items() if name))


def along_rows(folder: Path, step: int, task: str, kind: str = "") -> Path:
    """The rows of a task's evaluation after `step` completed steps. kind: SAMPLED, or the greedy one."""
    return folder / ALONG_ROWS / f"step{step}" / kind / f"{task}.jsonl"
