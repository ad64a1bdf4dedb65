"""Studies on the GPU: quickstart as it is, and the paper's rows and the controls on the largest model, as far as they fit.

The paper's rows (three seeds) and the controls (one) run several at a time, each in a process: one alone keeps neither the
GPU nor the cores busy. Their seconds are those of runs beside others. A study that a time limit cut off is taken up where it
stood by the next call, as long as its folder is there; its share of the steps is kept beside it, since a plan that has begun
must stay the same. Rows: what estimate.py expects; one per finished run, with seconds by phase, the compute floor of each, and
the phases with most time beyond theirs. What has been finished before a call is in its rows too.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from benchmarks.common import DEVICE, DTYPE, Row, model_folder, model_label, now
from benchmarks.gpu.causes import SHOWN, Rates, floors, rates
from benchmarks.gpu.estimate import (
    Speed,
    estimated,
    items_limited,
    measured_rates,
    total_s,
    with_less_drift,
    with_share,
)
from benchmarks.gpu.files import read, write_whole
from benchmarks.gpu.mps import shared_gpu
from benchmarks.gpu.record import SEED, Job
from stateshape.api import run_study
from stateshape.core import layout
from stateshape.core.files import read_json
from stateshape.core.progress import Silent
from stateshape.core.records import RunRecord
from stateshape.policy.settings import ModelSettings
from stateshape.study.context import load_tasks
from stateshape.study.plan import make_plan
from stateshape.study.study_file import RunChoice, StudyFile, read_study_file
from stateshape.tasks.task import Task

NOTES = (
    "A stand-in: {model}, whose 4-bit weights were de-quantised, in place of the preset's model. {share:.3g} of the preset's "
    "steps and training items, drift on {prompts} prompts. {more}Every other setting is the preset's."
)
CONTROLS_NOTE = (
    "The tasks are the paper's; rates are a tenth of the preset's, samples up to twice as long, answers read by their last "
    "number. "
)
PAPER_SEEDS, JOBS = (0, 1, 2), 5  # a run holds up to 13 GB
PAPER_SHARE = 0.15  # of the preset's steps: fifteen minutes of runs one after another, on an H100
CONTROLS_SHARE = 0.25  # 15 steps of each run


class Rows(Silent):
    """Takes a run down as soon as it is over."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job, self.folder = job, folder
        self.written: set[Path] = set()

    def event(self, name: str, values: Mapping[str, object]) -> None:
        if name == "run":
            self.write_finished()

    def write_finished(self) -> None:
        for folder in layout.run_folders(self.folder):
            if folder in self.written or not (folder / layout.RUN).exists():
                continue
            record = read_json(folder / layout.RUN, RunRecord)
            if record.is_complete:
                self.written.add(folder)
                self.job.record.add(row_of(record, self.job))


def quickstart(job: Job) -> None:
    file = items_limited(dataclasses.replace(read_study_file("quickstart"), seeds=[SEED]), job.scale)
    carry_out(job, "quickstart", with_share(file, job.scale.study_share or 1), data=None)


def paper(job: Job) -> None:
    model = largest_real(job)
    whole = dataclasses.replace(read_study_file("paper"), study="paper_standin", seeds=list(PAPER_SEEDS))
    several_at_a_time(job, "paper", whole, model, PAPER_SHARE)


def controls(job: Job) -> None:
    """The preset's runs on the paper's tasks, at its rates: a tenth of those that the small embedded base needs.

    Answers are read by their last number: a base that never writes the task's form has nothing correct to keep otherwise.
    """
    model = largest_real(job)
    tasks, whole = read_study_file("paper"), read_study_file("controls")
    whole = dataclasses.replace(
        whole,
        study="controls_standin",
        seeds=[SEED],
        target=dataclasses.replace(tasks.target, metric="flexible"),
        retention=tasks.retention,
        drift=tasks.drift,
        train=at_a_tenth(whole.train),
        runs={name: for_a_real_model(run) for name, run in whole.runs.items()},
    )
    several_at_a_time(job, "controls", whole, model, CONTROLS_SHARE, CONTROLS_NOTE)


def several_at_a_time(job: Job, name: str, whole: StudyFile, model: str, share: float, more: str = "") -> None:
    """`more`: what else differs from the preset, for the study's notes."""
    with shared_gpu(job.work) as is_shared:
        job.record.add({"runs_at_a_time": JOBS, "is_gpu_shared": is_shared})
        file = sized(job, name, whole, model, share, more)
        carry_out(job, name, file, data=job.data, jobs=JOBS)


def for_a_real_model(run: RunChoice) -> RunChoice:
    """A worked solution of GSM8K takes twice as many tokens as one of the embedded world."""
    settings = {
        key: 2 * value if "tokens" in key and isinstance(value, int) else value for key, value in run.settings.items()
    }
    return dataclasses.replace(run, settings=settings, train=at_a_tenth(run.train))


def at_a_tenth(train: dict[str, Any]) -> dict[str, Any]:
    return train | {"lr": float(train["lr"]) / 10} if "lr" in train else train


def largest_real(job: Job) -> str:
    if job.is_toy and job.models[0] == "embedded":
        return "embedded"
    if job.models[0] == "embedded" or job.data is None:
        missing = (
            "no model but the embedded base is here" if job.models[0] == "embedded" else "STATESHAPE_DATA is not set"
        )
        raise RuntimeError(f"{missing}; the paper's tasks need a real model and the official files")
    return job.models[0]


def sized(job: Job, name: str, whole: StudyFile, model: str, share: float, more: str) -> StudyFile:
    """A share of the study's steps; the first call settles it. Writes the estimate down."""
    scale = job.scale
    file = dataclasses.replace(whole, model=model, model_settings=ModelSettings(device=str(DEVICE)))
    if model == "embedded":  # a rehearsal without a real model: on the embedded base's own tasks
        own = read_study_file("smoke")
        file = dataclasses.replace(file, target=own.target, retention=own.retention)
    file = items_limited(with_less_drift(file), scale)
    target, retention = load_tasks(file, job.data)
    tasks: list[Task] = [target, *retention]
    num_layers = layers_of(model)
    beside = [read(job.record.path.with_name(f"{stage}.json")) for stage in ("sampling", "training")]
    speed = Speed(num_layers=num_layers, num_train=len(target.train), assumed=measured_rates(*beside, num_layers))
    kept_at = job.work / f"{name}-share.json"
    kept = read(kept_at)
    share = (scale.study_share or share) if kept is None else kept["share"]
    write_whole(kept_at, {"share": share})
    smaller = with_share(file, share)
    found = estimated(make_plan(smaller), tasks, speed)
    total = total_s(found, speed, seeds=len(smaller.seeds))
    by_run = {run: one._asdict() for run, one in found.items()}
    job.record.add({"share_of_steps": share, "estimated_s": total, "estimated_by_run": by_run})
    notes = NOTES.format(model=model_label(model), share=share, prompts=file.drift.prompts, more=more)
    return dataclasses.replace(smaller, notes=notes)


def layers_of(model: str) -> int:
    config = json.loads((Path(model_folder(model)) / "config.json").read_text(encoding="utf-8"))
    return int(config["num_hidden_layers"])


def carry_out(job: Job, name: str, file: StudyFile, *, data: Path | None, jobs: int = 1) -> None:
    folder = job.work / "studies" / name
    rows = Rows(job, folder)
    rates(job.scale.copy_bytes, job.scale.matmul_width)  # as long as the device is this process's alone
    rows.write_finished()
    began = now()
    try:
        run_study(file, out=folder, data_dir=data, reporter=rows, jobs=jobs)
    finally:  # also where the time is over
        rows.write_finished()
    job.record.add({"study": file.study, "seconds": now() - began, "is_complete": True})


def row_of(record: RunRecord, job: Job) -> Row:
    """Causes are phases here: a profile of a step's sampling would take longer than the step."""
    rate = rates(job.scale.copy_bytes, job.scale.matmul_width)
    phases: dict[str, Row] = {
        phase: {
            "seconds": cost.seconds,
            "compute_floor_s": floors(rate, num_bytes=0.0, flops=cost.flops)["compute_floor_s"],
            "tokens": cost.tokens,
        }
        for phase, cost in record.costs.items()
    }
    beyond = {phase: found["seconds"] - found["compute_floor_s"] for phase, found in phases.items()}
    seconds = sum(found["seconds"] for found in phases.values())
    floor_s = seconds - sum(beyond.values())
    return {
        "run": record.name,
        "seed": record.seed,
        "steps": record.num_steps,
        "sampled_tokens": record.num_sampled_tokens,
        "supervised_tokens": record.num_supervised_tokens,
        "seconds": seconds,
        "compute_floor_s": floor_s,
        "memory_floor_s": memory_floor_s(record, job, rate),
        "largest_causes": [
            {"cause": phase, "seconds": part, "share_of_gap": part / (seconds - floor_s)}
            for phase, part in largest(beyond)
        ],
        "phases": phases,
        "peak_memory_gb": record.peak_memory_gb,
        "warnings": record.warnings,
    }


def largest(parts: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(((name, part) for name, part in parts.items() if part > 0), key=lambda one: -one[1])[:SHOWN]


def memory_floor_s(record: RunRecord, job: Job, rate: Rates) -> float:
    """The weights are read once for each decoding step of a training step's rows, and twice for its gradient."""
    train, recipe = record.settings.get("train", {}), record.settings.get("recipe", {})
    assert isinstance(train, dict) and isinstance(recipe, dict)
    rows = (train.get("batch_prompts") or 1) * (recipe.get("group") or recipe.get("samples") or 1)
    times = record.num_sampled_tokens / rows + 2 * record.num_steps
    return times * weight_bytes(record.model) / rate.bytes_per_s


@cache
def weight_bytes(model: str) -> int:
    """In the dtype in use."""
    num = 0
    for path in Path(model_folder(model)).glob("*.safetensors"):
        with safe_open(path, framework="pt") as tensors:
            num += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return num * getattr(torch, DTYPE).itemsize
