"""Measures a run that is loaded instead of trained: its tasks, its KL to the base, the items that flipped, its drift.

One tuned model is in memory at a time, beside the base. A part is done when its file is there, as in a trained run.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from stateshape.core import layout
from stateshape.core.files import read_json, read_jsonl, write_json, write_jsonl
from stateshape.core.records import EvalStep, KlRecord, KlValue, RunRecord, SupervisionMap
from stateshape.core.sealed import is_finished
from stateshape.core.seeds import seed_for
from stateshape.locality.apart import OwnStates, kl_at, own_states
from stateshape.policy.open import open_beside, token_difference
from stateshape.policy.policy import Policy
from stateshape.policy.source import resolve
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.study.checkpoints import CheckpointSpec
from stateshape.study.context import StudyContext, evaluated_items, spread_over
from stateshape.study.describe import checkpoint_record
from stateshape.study.flips import write_flips
from stateshape.study.folders import check_same_run, claimed_run, close_run, complete_run
from stateshape.study.measuring import evaluations, measure_drift, measured, roll
from stateshape.tasks.harness import is_answered_in_text
from stateshape.tasks.task import GenerationTask, Task

ADAPTER_NAME = "checkpoint"
KL_STATES = 4096  # per task and direction, at most
KL_SHORT_TOKENS = 8  # behind a multiple-choice question, whose answers are short


def measure_checkpoint(bench: StudyContext, spec: CheckpointSpec) -> list[str]:
    """Loads and measures one checkpoint, and gives its warnings; does nothing if it is complete, resumes if it was begun."""
    folder = bench.fixed_folder(spec.name)
    with claimed_run(folder, wait_s=bench.claim_wait_s):
        seed = read_json(folder / layout.RUN, RunRecord).seed if (folder / layout.RUN).exists() else bench.first_seed
        planned = checkpoint_record(bench, spec, seed)
        begun = check_same_run(folder, planned)
        if is_finished(folder):
            close_run(folder)
            return []
        bench.reporter.say(f"{spec.label} (loaded from {spec.checkpoint})")
        with loaded(bench, spec) as policy:
            difference = token_difference(bench.weights, policy.weights)
            record = begun or replace(
                checkpoint_record(bench, spec, seed),  # once more: a hub model is in the cache only now
                warnings=[] if difference is None else [f"no KL to the base: {difference}"],
            )
            write_json(folder / layout.RUN, record)
            take_curves(spec.checkpoint, folder)
            record = measured(
                bench,
                record,
                folder,
                [
                    *evaluations(bench, policy, folder, spec.name, seed, resolve(spec.checkpoint)),
                    ("evaluation", partial(write_flips, bench, folder)),
                    ("kl", partial(measure_kl, bench, policy, folder, difference)),
                    ("drift", partial(roll, bench, policy, folder, "rollouts", seed_for(seed, spec.name), spec.name)),
                    ("drift", partial(measure_drift, bench, folder)),
                ],
            )
        complete_run(folder, record)
    bench.reporter.event("run", {"run": spec.name, "seed": seed, "seconds": record.seconds})
    return record.warnings


@contextlib.contextmanager
def loaded(bench: StudyContext, spec: CheckpointSpec) -> Iterator[Policy]:
    """The checkpoint as a policy, gone from memory afterwards."""
    settings = bench.plan.file.model_settings
    policy = open_beside(bench.weights, spec.checkpoint, settings, adapter_name=ADAPTER_NAME, is_any_vocabulary=True)
    try:
        yield policy
    finally:
        if policy.weights is bench.weights and policy.adapter is not None:
            bench.weights.remove_adapter(policy.adapter)
        if isinstance(bench.sampler, LocalSampler):
            bench.sampler.forget()
        del policy
        gc.collect()  # a model's modules refer to each other


def take_curves(checkpoint: str, folder: Path) -> None:
    """What was measured while the checkpoint was trained, where its folder holds that: its curves go into the report."""
    if not Path(checkpoint).is_dir():
        return
    if (path := Path(checkpoint) / layout.EVAL_STEPS).exists():
        write_jsonl(folder / layout.EVAL_STEPS, read_jsonl(path, EvalStep))
    if (path := Path(checkpoint) / layout.SUPERVISION).exists():
        write_json(folder / layout.SUPERVISION, read_json(path, SupervisionMap))


# KL


def measure_kl(bench: StudyContext, policy: Policy, folder: Path, difference: str | None) -> None:
    if (folder / layout.KL).exists():
        return
    base = Policy(bench.weights, None)
    forward: dict[str, KlValue] = {}
    reverse: dict[str, KlValue] = {}
    for task in bench.tasks:
        if difference is not None:
            forward[task.name] = reverse[task.name] = KlValue(value=None, note=difference)
            continue
        by_base = bench.remembered(f"kl {task.name}", partial(states_on, bench, base, task))
        forward[task.name] = kl_at(by_base, base, policy, seed=0)
        reverse[task.name] = kl_at(states_on(bench, policy, task), policy, base, seed=0)
    write_json(folder / layout.KL, KlRecord(forward=forward, reverse=reverse))


def states_on(bench: StudyContext, policy: Policy, task: Task) -> OwnStates:
    """What a policy writes on some of a task's test prompts, at temperature 1."""
    drift = bench.plan.file.drift
    if isinstance(task, GenerationTask) and is_answered_in_text(task):
        settings = SamplingSettings(max_new_tokens=drift.max_new_tokens, stops=task.stops)
    else:
        settings = SamplingSettings(max_new_tokens=KL_SHORT_TOKENS)
    texts = spread_over([item.prompt for item in evaluated_items(task)], drift.prompts)
    prompts = [policy.fitted(policy.encode_prompt(text), behind=settings.max_new_tokens) for text in texts]
    tick = bench.reporter.track(f"KL on {task.name}", "prompts", policy.weights.meter)
    states = own_states(policy, prompts, bench.sampler, settings, limit=KL_STATES, seed=0)
    tick(len(prompts), len(prompts))
    return states
