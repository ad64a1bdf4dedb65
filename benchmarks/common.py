"""What every benchmark shares: models and tasks by name, interleaved timing, rows, memory, provenance, the table.

Everything runs on DEVICE: the first GPU in bf16 if there is one, else the CPU in fp32.

A row is a plain dict: name, model, ours_seconds, peer_seconds, ratio (peer / ours: above 1, ours is faster), bar, and
whatever else its benchmark measured. Knows no peer.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import json
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from stateshape.policy.open import open_policy
from stateshape.policy.policy import Policy
from stateshape.policy.settings import LoraSettings, ModelSettings
from stateshape.study.provenance import package_version, provenance
from stateshape.tasks.load import load_task
from stateshape.tasks.task import GenerationTask

Row = dict[str, Any]
ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results" / "bench"
TRIED = ROOT / "build" / "bench"  # of tiny sizes: git ignores it
PEER_PACKAGES = ("trl", "lm_eval", "accelerate", "datasets")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPE: Literal["bfloat16", "float32"] = "bfloat16" if DEVICE.type == "cuda" else "float32"
LORA = LoraSettings(rank=16, alpha=32)
# peer / ours that a row should reach; a row that is not here is reported without a bar
# What we want to reach, peer's seconds over ours: on the embedded base, and on a real model where that differs.
BARS = {
    "grpo": 3.0,
    "opd": 3.0,
    "opd_gkd": 3.0,
    "opd_memory": 4.0,
    "sampling": 4.0,
    "sft": 1.3,
    "truthfulqa": 10.0,
    "mmlu": 3.0,
    "lm_eval truthfulqa": 3.0,
    "lm_eval mmlu": 3.0,
    "lm_eval mmlu cloze": 3.0,
}
REAL_MODEL_BARS = {"grpo": 2.5, "sampling": 1.8}


def bar_of(name: str, model: str) -> float | None:
    """The bar of a row; None where there is none."""
    return BARS.get(name) if model == "embedded" else REAL_MODEL_BARS.get(name, BARS.get(name))


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How long a run may take. `is_small`: sizes for trying the code, not for quoting."""

    repeats: int | None = None  # None: what the benchmark takes by itself
    limit: int | None = None
    is_small: bool = False

    def num_repeats(self, normal: int = 3) -> int:
        return self.repeats or normal

    def pick(self, normal: int, small: int) -> int:
        return small if self.is_small else normal


class Measured(NamedTuple):
    """One timed piece of work. `tokens`: what was sampled, trained on or scored."""

    seconds: float
    tokens: int
    extra: Mapping[str, float] = MappingProxyType({})
    lengths: Sequence[int] = ()  # new tokens of each row, where rows were sampled


Side = Callable[[int], Measured]  # the repeat's number -> its measurement


# Models and tasks


def model_label(model: str) -> str:
    return model if model == "embedded" else Path(model).resolve().name


def model_folder(model: str) -> str:
    """A folder that transformers loads."""
    if model != "embedded":
        return model
    from stateshape.embedded import base_folder

    return str(base_folder())


def load_policy(model: str, *, is_compiled: bool = False) -> Policy:
    return open_policy(model, ModelSettings(device=str(DEVICE), dtype=DTYPE, compile=is_compiled))


def make_learner(policy: Policy, name: str = "learner", *, seed: int = 0) -> Policy:
    """A fresh trainable adapter of rank 16 on every linear layer."""
    policy.weights.add_adapter(name, LORA, seed=seed)
    return Policy(policy.weights, name, is_trainable=True)


def optimiser_of(learner: Policy, lr: float) -> torch.optim.Optimizer:
    """As train/loop.py makes it."""
    return torch.optim.AdamW(learner.parameters(), lr=lr, weight_decay=0.0, fused=learner.device.type == "cuda")


def data_dir() -> Path:
    if "STATESHAPE_DATA" not in os.environ:
        raise SystemExit("set STATESHAPE_DATA to the folder that holds gsm8k/, truthfulqa/ and mmlu/")
    return Path(os.environ["STATESHAPE_DATA"])


def train_task(model: str) -> GenerationTask:
    """Arithmetic for the embedded base, the official GSM8K for any other. No stop texts: the trainers have none."""
    name = "arithmetic" if model == "embedded" else "gsm8k"
    task = load_task(name, data_dir=None if model == "embedded" else data_dir(), limit=1)
    assert isinstance(task, GenerationTask)
    return dataclasses.replace(task, stops=())


def quiet_peers() -> None:
    """No progress bars, and of the peers' advice only what is an error."""
    for module in ("transformers", "trl", "lm_eval"):
        logging.getLogger(module).setLevel(logging.ERROR)
    if importlib.util.find_spec("datasets"):
        importlib.import_module("datasets").disable_progress_bars()


# Timing


def now() -> float:
    """Seconds, after what was asked of the device is done."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = now()
    result = work()
    return now() - began, result


def interleave(sides: dict[str, Side], *, repeats: int, warm_up: bool = True) -> dict[str, list[Measured]]:
    """Every side once as a warm-up, then in turns (the order alternates), so that a noisy moment hits all of them."""
    if warm_up:
        for side in sides.values():
            side(-1)
    measured: dict[str, list[Measured]] = {name: [] for name in sides}
    for repeat in range(repeats):
        names = list(sides) if repeat % 2 == 0 else list(reversed(sides))
        for name in names:
            measured[name].append(sides[name](repeat))
    return measured


def fastest(candidates: Mapping[str, Callable[[], float]]) -> tuple[str, dict[str, float | None]]:
    """The name of the quickest candidate (each returns its own seconds), and everyone's; None where one can't run here.

    That is a RuntimeError: torch's, for memory that is not there (torch.OutOfMemoryError; on a CPU the plain one) and for
    a static cache whose graph can't be compiled (torch._dynamo, torch._inductor, NotImplementedError: all below it).
    What else is raised, a missing package or a wrong argument, is a mistake of the benchmark and ends it.
    """
    seconds: dict[str, float | None] = {}
    for name, measure in candidates.items():
        try:
            seconds[name] = measure()
        except RuntimeError as error:
            print(f"  {name}: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}")
            seconds[name] = None
        gc.collect()
    known = {name: value for name, value in seconds.items() if value is not None}
    if not known:
        raise SystemExit("none of the peer's settings runs here")
    return min(known, key=lambda name: known[name]), seconds


def compared(name: str, model: str, ours: Sequence[Measured], peers: Sequence[Measured], **settings: Any) -> Row:
    """A row from both sides' repeats: medians, and the ratio per token where the two sides wrote different numbers."""
    a, b = (statistics.median(m.seconds for m in side) for side in (ours, peers))
    tokens_a, tokens_b = (statistics.mean(m.tokens for m in side) for side in (ours, peers))
    each_a, each_b = (statistics.median(m.seconds / m.tokens for m in side) for side in (ours, peers))
    extra = {f"ours_{key}": statistics.median(m.extra[key] for m in ours) for key in ours[0].extra}
    extra |= {f"peer_{key}": statistics.median(m.extra[key] for m in peers) for key in peers[0].extra}
    return {
        "name": name,
        "model": model_label(model),
        "ours_seconds": a,
        "peer_seconds": b,
        "ratio": b / a,
        "ratio_per_token": each_b / each_a,
        "bar": bar_of(name, model),
        "ours_tokens": tokens_a,
        "peer_tokens": tokens_b,
        "repeats": len(ours),
        "ours_all_seconds": [m.seconds for m in ours],
        "peer_all_seconds": [m.seconds for m in peers],
        **extra,
        **settings,
    }


# Memory of this process


def start_device_peak() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def device_peak(seen_gb: float = 0.0) -> dict[str, float]:
    """The most that a GPU held since start_device_peak, over what it holds now; nothing on a CPU.

    Args: seen_gb: a peak that somebody else read before setting the mark back.
    """
    if DEVICE.type != "cuda":
        return {}
    return {
        "extra_peak_gb": max(torch.cuda.max_memory_allocated() / 1e9, seen_gb) - torch.cuda.memory_allocated() / 1e9
    }


def status_mb(field_name: str) -> float:
    """VmRSS or VmHWM in 10^6 bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field_name + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no {field_name}")


def reset_peak() -> None:
    """Lets VmHWM start again from what is resident now (proc(5): writing 5 to clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


# Results


def write_result(name: str, model: str, rows: Sequence[Row], options: Options) -> Path:
    """results/bench/<name>-<model>.json; a try-out (small, or with a limit) never takes its place."""
    folder = TRIED if options.is_small or options.limit else RESULTS
    path = folder / f"{name}-{model_label(model)}.json"
    write_json(path, {"rows": rows, "options": dataclasses.asdict(options), "provenance": origin(model)})
    return path


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded(record), indent=1) + "\n", encoding="utf-8")


def origin(model: str) -> dict[str, Any]:
    """Versions, device, threads, revision and command."""
    record: dict[str, Any] = dict(provenance(load_policy(model).weights, []))
    record["packages"] |= {name: package_version(name) for name in PEER_PACKAGES}
    return record | {
        "model": model_label(model),
        "cpu": cpu_name(),
        "cpus_usable": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
    }


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def rounded(value: Any) -> Any:
    """Floats to six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def show(rows: Sequence[Row]) -> None:
    table = Table("benchmark", "model", "ours s", "peer s", "ratio", "per token", "bar", "tokens ours/peer", "peer")
    for row in rows:
        numbers = [row.get(key) for key in ("ours_seconds", "peer_seconds", "ratio", "ratio_per_token", "bar")]
        tokens = " / ".join(f"{row[key]:.0f}" for key in ("ours_tokens", "peer_tokens") if row.get(key) is not None)
        shown = ["-" if number is None else f"{number:.3g}" for number in numbers]
        table.add_row(row["name"], row["model"], *shown, tokens, str(row.get("peer", "")))
    Console(width=150).print(table)
