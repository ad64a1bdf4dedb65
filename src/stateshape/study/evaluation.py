"""Identity of an evaluation, and whether it may replace an existing one: only the same one, unless asked to.

Two evaluations are the same if model and adapter have the same content (where that is known; else the same names), and so do
data, shots, limit, lengths, stops and precision. What sampled, and on which device, is recorded and not compared: it may flip a
token where two are equally likely but for rounding. Evaluates nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from stateshape.core import layout
from stateshape.core.files import BadInput, plain
from stateshape.core.locks import remove_leftovers
from stateshape.core.manifest import check_unchanged, has_manifest
from stateshape.core.records import EvaluationRecord
from stateshape.core.sealed import sealed_folders
from stateshape.evals.evaluate import read_about
from stateshape.policy.fingerprint import weights_sha256
from stateshape.policy.source import Resolved, is_same_model, resolve
from stateshape.policy.weights import SharedWeights
from stateshape.sampling.settings import Sampler
from stateshape.study.opened import sampler_of
from stateshape.study.provenance import command, git_revision, harness_versions, now, versions
from stateshape.tasks.harness import is_answered_in_text
from stateshape.tasks.task import GenerationTask, Task

SETTINGS = ("data_sha256", "shots", "limit", "max_new_tokens", "stops", "dtype", "num_samples", "temperature")
NAME_MAX = 255  # bytes of a file's name
AROUND_A_NAME = len(b"..profile.json.") + len("4194304.tmp")  # what a temporary file's name adds to the task's


def planned_evaluation(
    resolved: Resolved, task: Task, *, named: str, limit: int | None, shots: int
) -> EvaluationRecord:
    """The record as far as it is known before the model is loaded."""
    text = task if isinstance(task, GenerationTask) and is_answered_in_text(task) else None
    return EvaluationRecord(
        model=resolved.model,
        weights_sha256=weights_sha256(resolved.model),
        adapter=None if resolved.adapter is None else str(resolved.adapter),
        adapter_sha256=None if resolved.adapter is None else weights_sha256(str(resolved.adapter)),
        task=named,
        data_sha256=task.data_sha256,
        shots=shots,
        limit=limit,
        num_items=len(task.test) if isinstance(task, GenerationTask) else len(task.items),
        max_new_tokens=None if text is None else text.max_new_tokens,
        stops=None if text is None else list(text.stops),
        dtype=None,
        device=None,
        date=now(),
        command=command(),
        packages={**versions(), **harness_versions([task])},
        git_revision=git_revision(),
    )


def sampled_evaluation(greedy: EvaluationRecord, num_samples: int, temperature: float) -> EvaluationRecord:
    """The same evaluation on several samples per item."""
    return replace(greedy, num_samples=num_samples, temperature=temperature)


def on_machine(planned: EvaluationRecord, weights: SharedWeights, sampler: Sampler) -> EvaluationRecord:
    """Once the model is there. sampler: names itself where texts are written by servers."""
    return replace(
        planned,
        dtype=str(weights.dtype).removeprefix("torch."),
        device=str(weights.device),
        sampler=None if planned.max_new_tokens is None else sampler_of(sampler),
        weights_sha256=planned.weights_sha256 or weights_sha256(planned.model),
    )


def claim_evaluation(
    folder: Path,
    source: str,
    planned: EvaluationRecord,
    name: str,
    *,
    overwrite: bool,
    accept: bool,
    say: Callable[[str], None],
) -> None:
    """Whether the evaluation of task `name` may be written to `folder`, whose lock is held. Raises BadInput."""
    check_names_files(name)
    remove_leftovers(folder / layout.EVALS, folder / layout.SAMPLED)
    sealed = [*sealed_folders(source), *([folder] if has_manifest(folder) else [])]
    check_unchanged(dict.fromkeys(path.resolve() for path in sealed), accept=accept, say=say)
    check_place(folder, source)
    if not overwrite:
        check_same_evaluation(folder, name, planned)


def check_names_files(name: str) -> None:
    """Whether a task's name is short enough for the files that are called after it. Raises BadInput."""
    if len(os.fsencode(name)) + AROUND_A_NAME > NAME_MAX:
        raise BadInput(
            f"task: got a name of {len(os.fsencode(name))} bytes; expected at most {NAME_MAX - AROUND_A_NAME}, since it names "
            "files; give the file a shorter name"
        )


def check_place(folder: Path, source: str) -> None:
    """The folder of a run takes evaluations of this run alone: they are read as its own. Raises BadInput."""
    if not (folder / layout.RUN).exists():
        return
    own, evaluated = resolve(str(folder)), resolve(source)
    same_adapter = (own.adapter is None and evaluated.adapter is None) or (
        own.adapter is not None
        and evaluated.adapter is not None
        and own.adapter.resolve() == evaluated.adapter.resolve()
    )
    if not same_adapter or not is_same_model(own.model, evaluated.model):
        raise BadInput(
            f"out: got {folder}, the folder of a run, for an evaluation of {source}; expected a separate folder, or the run "
            "itself as the model; give --out another folder"
        )


def check_same_evaluation(folder: Path, name: str, now: EvaluationRecord) -> None:
    """Raises BadInput where the folder holds another evaluation under this task's name, or one that does not say of what."""
    kind = layout.EVALS if now.temperature == 0 else layout.SAMPLED
    rows = layout.evaluation(folder, name, kind)
    there = read_about(folder, name, kind)
    if there is None:
        if rows.exists():
            raise BadInput(
                f"out: {rows} exists, and its summary does not name its model, data and settings; expected a "
                "folder without it; give --out another folder, or --overwrite to replace it"
            )
        return
    if (difference := first_other(there, now)) is not None:
        raise BadInput(
            f"out: {rows} is from a different evaluation ({difference}); expected the same one, or a folder without it; give "
            "--out another folder, or --overwrite to replace it"
        )


def first_other(there: EvaluationRecord, now: EvaluationRecord) -> str | None:
    """The first difference, in words."""
    for what in ("model", "adapter"):
        sha = "weights_sha256" if what == "model" else "adapter_sha256"
        before, after = getattr(there, sha), getattr(now, sha)
        names = f"{getattr(there, what) or 'none'} there, {getattr(now, what) or 'none'} now"
        if before is None or after is None:
            if getattr(there, what) != getattr(now, what):
                return f"{what}: {names}"
        elif before != after:
            same = getattr(there, what) == getattr(now, what)
            return f"{what}: {names}" + (f", with other content: {before[:12]}, {after[:12]}" if same else "")
    for field in SETTINGS:
        before, after = plain(getattr(there, field)), plain(getattr(now, field))
        if field == "dtype" and None in (before, after):
            continue
        if before != after:
            if field == "data_sha256":
                return f"data: {there.task} ({before[:12]}) there, {now.task} ({after[:12]}) now"
            return (
                f"{field}: {before if before is not None else 'all'} there, {after if after is not None else 'all'} now"
            )
    return None
