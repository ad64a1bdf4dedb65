"""Measurements on a GPU, by stage, each short enough for one call of ten minutes; JSON in results/gpu/.

    python -m benchmarks.gpu sampling|training|peers|study ... --model FOLDER [--smoke]

sampling   tokens/s of the local sampler (plain, compiled) and of transformers' generate (dynamic, static cache), rows 64
           and 256, 256 new tokens, GSM8K prompts of mixed length, group 8; the share of the memory-bandwidth limit
           (limits.py)
training   a LoRA step of SFT, of OPD over the full vocabulary and of GRPO, each plain and with compiled layers: tokens/s,
           peak memory, MFU over the measured matmul peak (operations of the training phase over its seconds; for OPD
           with the teacher's pass). Operations are the package's count of what is computed, shared prompts once;
           `work_unshared` is what limits.py counts for the same rows one by one, over that
peers      the same GRPO and OPD steps as on a CPU beside TRL's GRPOTrainer, DistillationTrainer and GKDTrainer, at 16 x 8
           rows of up to 256 tokens; needs trl
study      the `paper` study's runs with a few steps and items each, seconds by phase of each run

Official data from STATESHAPE_DATA. --smoke: tiny sizes on the embedded base, which also run on a CPU. A stage that stands
alone writes its own file, so stages may be called one by one.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import importlib.util
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import (
    DEVICE,
    ROOT,
    TRIED,
    Options,
    Row,
    data_dir,
    load_policy,
    model_label,
    origin,
    quiet_peers,
    rounded,
    timed,
    train_task,
    write_json,
)
from benchmarks.limits import copy_bandwidth, decode_bytes, forward_flops, matmul_peak, shape_of, training_flops
from stateshape.core.files import BadInput, read_json
from stateshape.core.method import Draw, Method
from stateshape.core.records import RunRecord
from stateshape.policy.policy import Policy
from stateshape.sampling.settings import SamplingSettings
from stateshape.tasks.task import GenerationTask

RESULTS = ROOT / "results" / "gpu"
GROUP = 8
COMPILED = (False, True) if DEVICE.type == "cuda" else (False,)  # on a CPU compiling takes a minute and brings nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How large the stages are."""

    sampling_rows: tuple[int, ...] = (64, 256)
    new_tokens: int = 256
    training_prompts: int = 16  # times GROUP rows for OPD and GRPO, and as many rows for SFT
    training_steps: int = 3
    matmul_width: int = 8192
    copy_bytes: int = 4 * 10**9
    study: str = "paper"
    study_steps: int = 5
    study_items: int = 64


SMOKE = Scale(
    sampling_rows=(16,),
    new_tokens=6,
    training_prompts=1,
    training_steps=1,
    matmul_width=256,
    copy_bytes=10**7,
    study="smoke",
    study_steps=1,
    study_items=8,
)


def sampling(model: str, scale: Scale) -> list[Row]:
    from benchmarks.sampling import Generate, Ours
    from benchmarks.trl_peer import peer_model

    policy, task, network = load_policy(model), train_task(model), peer_model(model)
    shape, bandwidth = shape_of(policy), copy_bandwidth(scale.copy_bytes)
    rows: list[Row] = []
    for num_rows in scale.sampling_rows:
        # in order of length, as Generate puts them: a measurement's lengths belong to its prompts
        prompts = sorted((policy.encode_prompt(item.prompt) for item in task.train[: num_rows // GROUP]), key=len)
        settings = SamplingSettings(max_new_tokens=scale.new_tokens, num_samples=GROUP, batch_rows=num_rows)
        engines: dict[str, Callable[[], Any]] = {"ours": partial(Ours, policy, prompts, settings)}
        if True in COMPILED:
            engines["ours, compiled"] = partial(compiled_engine, model, prompts, settings)
        for cache in ("dynamic", "static"):
            engines[f"generate, {cache} cache"] = partial(
                Generate,
                network, policy, prompts, group=GROUP, new_tokens=scale.new_tokens, batch_rows=num_rows, cache=cache,
            )  # fmt: skip
        for name, make in engines.items():
            free()  # of what the engine before held
            row: Row = {"engine": name, "rows": num_rows, "new_tokens": scale.new_tokens, "group": GROUP}
            try:
                found = three_repeats(make)
            except Exception as error:  # a static cache may fail to compile here; the others still count
                rows.append(row | {"error": f"{type(error).__name__}: {str(error)[:300]}"})
                continue
            best = min(found, key=lambda measured: measured.seconds / measured.tokens)
            at_best = decode_bytes(shape, [len(p) for p in prompts for _ in range(GROUP)], best.lengths) / bandwidth
            rows.append(
                row
                | {
                    "tokens_per_s": best.tokens / best.seconds,
                    "tokens": best.tokens,
                    "seconds": best.seconds,
                    "bandwidth_limit_seconds": at_best,
                    "share_of_bandwidth_limit": at_best / best.seconds,
                    "copy_bandwidth_gb_per_s": bandwidth / 1e9,
                }
            )
    return rows


def compiled_engine(model: str, prompts: list[list[int]], settings: SamplingSettings) -> Any:
    """Loaded where its failures are caught: a machine may have nothing to compile with."""
    from benchmarks.sampling import Ours

    return Ours(load_policy(model, is_compiled=True), prompts, settings)


def three_repeats(make: Callable[[], Any]) -> list[Any]:
    """An engine's measurements after a first run that warms it up; the engine and what it holds are gone then."""
    engine = make()
    engine(-1)
    return [engine(repeat) for repeat in range(3)]


def training(model: str, scale: Scale) -> list[Row]:
    """One method after another on a fresh base, so that each has its own peak memory."""
    peak = matmul_peak(scale.matmul_width)
    rows = []
    methods: dict[str, Build] = {"sft": sft_method, "opd": opd_method, "grpo": grpo_method}
    for (name, build), is_compiled in itertools.product(methods.items(), COMPILED):
        row: Row = {"method": name, "is_compiled": is_compiled, "matmul_peak_tflops": peak / 1e12}
        try:
            row |= training_row(
                name, build, load_policy(model, is_compiled=is_compiled), train_task(model), scale, peak
            )
        except (BadInput, torch._dynamo.exc.TorchDynamoException) as error:  # nothing to compile with here
            row |= {"error": f"{type(error).__name__}: {str(error)[:300]}"}
        rows.append(row)
        free()
    return rows


Build = Callable[[Policy, GenerationTask, Scale], Method]


def training_row(name: str, build: Build, base: Policy, task: GenerationTask, scale: Scale, peak: float) -> Row:
    from benchmarks.common import make_learner, optimiser_of
    from benchmarks.our_steps import peak_of
    from stateshape.train.settings import TrainSettings
    from stateshape.train.step import train_step

    method = build(base, task, scale)
    learner = make_learner(base)
    optimiser, shape = optimiser_of(learner, 1e-6), shape_of(learner)
    num_prompts = scale.training_prompts * (GROUP if name == "sft" else 1)
    at_rest, results, seconds = 0.0, [], []
    for step in range(-1, scale.training_steps):  # step -1 warms up
        start = (step + 1) * num_prompts
        ids = tuple(item.item_id for item in task.train[start : start + num_prompts])
        draw = Draw(item_ids=ids, step=step + 1, seed=0)
        if DEVICE.type == "cuda":
            at_rest = torch.cuda.memory_allocated() / 1e9
        took, result = timed(partial(train_step, method, learner, optimiser, draw, TrainSettings()))
        if step >= 0:
            results.append(result)
            seconds.append(took)
    lengths = [length for result in results for length in result.signals[""].states.lengths_B.tolist()]
    supervised = sum(result.num_supervised for result in results)
    phases = {key: sum(result.seconds[key] for result in results) for key in results[0].seconds}
    costly = ("signal", "training") if name == "opd" else ("training",)
    flops = sum(result.costs[phase].flops for result in results for phase in costly)
    spent = sum(phases[phase] for phase in costly)
    unshared = training_flops(shape, lengths, supervised)
    if name == "opd":
        unshared += forward_flops(shape, lengths, supervised)
    used = max(map(peak_of, results)) if DEVICE.type == "cuda" else None
    return {
        "rows_a_step": len(lengths) // len(results),
        "tokens": sum(lengths),
        "supervised_tokens": supervised,
        "seconds_a_step": sum(seconds) / len(seconds),
        "tokens_per_s": sum(lengths) / sum(seconds),
        "training_phase_tokens_per_s": sum(lengths) / spent,
        "mfu_of_training_phase": flops / spent / peak,
        "work_unshared": unshared / flops,
        "seconds_by_phase": phases,
        "peak_memory_gb": used,
        "extra_memory_gb": None if used is None else used - at_rest,
    }


def sft_method(base: Policy, task: GenerationTask, scale: Scale) -> Method:
    from stateshape.recipes.recipe import Parts
    from stateshape.recipes.sft import SFT
    from stateshape.sampling.local import LocalSampler

    return SFT().build(Parts(task=task, sampler=LocalSampler(), teacher=lambda source: base))


def opd_method(base: Policy, task: GenerationTask, scale: Scale) -> Method:
    from benchmarks.opd import build, teacher_on
    from benchmarks.rollout_sizes import Sizes

    sizes = Sizes(prompts=scale.training_prompts, group=GROUP, new_tokens=scale.new_tokens)
    return build(task, sizes, teacher_on(base))


def grpo_method(base: Policy, task: GenerationTask, scale: Scale) -> Method:
    from stateshape.recipes.grpo import GRPO
    from stateshape.recipes.recipe import Parts
    from stateshape.sampling.local import LocalSampler

    recipe = GRPO(group=GROUP, rollout_tokens=scale.new_tokens)
    return recipe.build(Parts(task=task, sampler=LocalSampler(), teacher=lambda source: base))


def peers(model: str, scale: Scale) -> list[Row]:
    if importlib.util.find_spec("trl") is None:
        return [{"error": "trl is not installed"}]
    from benchmarks import grpo, opd

    options = Options(repeats=1, is_small=scale is SMOKE)
    return [row for run in (grpo.run, opd.run) for row in run(model, options)]


def study(model: str, scale: Scale) -> list[Row]:
    """Every run of the study with few steps and items. `full_steps` is what the study itself would take."""
    from stateshape.api import run_study
    from stateshape.policy.settings import ModelSettings
    from stateshape.study.plan import StudyFile, make_plan, read_study_file

    whole = read_study_file(scale.study)
    full = {spec.name: spec.train for spec in make_plan(whole).runs}

    def fewer(choice: Any) -> Any:
        return dataclasses.replace(choice, limit=min(choice.limit or scale.study_items, scale.study_items))

    runs = {}
    for name, run in whole.runs.items():
        train = {key: value for key, value in run.train.items() if key != "epochs"}
        runs[name] = dataclasses.replace(run, train=train | {"steps": scale.study_steps})
    drift = dataclasses.replace(whole.drift, prompts=min(whole.drift.prompts, scale.study_items))
    file: StudyFile = dataclasses.replace(
        whole,
        model=model,
        seeds=[0],
        target=fewer(whole.target),
        retention=[fewer(choice) for choice in whole.retention],
        runs=runs,
        drift=drift,
        model_settings=ModelSettings(device=str(DEVICE)),
    )
    with tempfile.TemporaryDirectory() as folder:
        took, _ = timed(
            lambda: run_study(file, out=Path(folder) / "study", data_dir=None if scale is SMOKE else data_dir())
        )
        records = [read_json(path, RunRecord) for path in sorted(Path(folder).glob("study/runs/*/seed0/run.json"))]
    available = len(train_task(model).train)
    rows: list[Row] = [
        {
            "run": record.name,
            "steps": record.num_steps,
            "full_steps": full[record.name].num_steps(available) if record.name in full else None,
            "sampled_tokens": record.num_sampled_tokens,
            "supervised_tokens": record.num_supervised_tokens,
            "seconds_by_phase": record.seconds,
            "peak_memory_gb": record.peak_memory_gb,
        }
        for record in records
    ]
    return [*rows, {"run": "whole study", "seconds": took, "items_a_task": scale.study_items}]


STAGES: dict[str, Callable[[str, Scale], list[Row]]] = {
    "sampling": sampling,
    "training": training,
    "peers": peers,
    "study": study,
}


def free() -> None:
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()


def device_record() -> dict[str, Any]:
    if DEVICE.type != "cuda":
        return {"gpu": None}
    told = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "gpu": torch.cuda.get_device_name(),
        "gpu_memory_gb": torch.cuda.get_device_properties(0).total_memory / 1e9,
        "driver": told.stdout.strip() or None,
        "cuda": torch.version.cuda,
    }


def write(stage: str, model: str, rows: list[Row], *, is_smoke: bool) -> Path:
    path = (TRIED / "gpu" if is_smoke else RESULTS) / f"{stage}-{model_label(model)}.json"
    write_json(path, {"stage": stage, "rows": rows, "device": device_record(), "provenance": origin(model)})
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}; default: all")
    parser.add_argument("--model", default="embedded", help="embedded, or a folder")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes; runs on a CPU too")
    chosen = parser.parse_args()
    if DEVICE.type != "cuda" and not chosen.smoke:
        sys.exit("no CUDA device; --smoke tries the stages on a CPU")
    if unknown := sorted(set(chosen.stages) - set(STAGES)):
        parser.error(f"no stage is called {', '.join(unknown)}; there are {', '.join(STAGES)}")
    quiet_peers()
    scale = SMOKE if chosen.smoke else Scale()
    for stage in chosen.stages or STAGES:
        rows = STAGES[stage](chosen.model, scale)
        for row in rows:
            print(json.dumps(rounded(row)))
        print(f"{stage}: {write(stage, chosen.model, rows, is_smoke=chosen.smoke)}", flush=True)
        free()


if __name__ == "__main__":
    main()
