"""The checksum of a plan: of what is done, not of how it is written, read or called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from stateshape.core.files import comparable, plain, sha256_text
from stateshape.core.records import Json
from stateshape.evals.settings import EvalSettings
from stateshape.study.checkpoints import CheckpointSpec
from stateshape.study.earlier import as_before
from stateshape.study.run_spec import AnySpec
from stateshape.study.study_file import StudyFile
from stateshape.tasks.reading import Reading


def plan_sha256(file: StudyFile, specs: Sequence[AnySpec]) -> str:
    """Of what is done, not of how it is written (5e-4 and 0.0005 are one plan) or how its results are read and called.

    Left out: seeds, labels, notes, roles, contrasts, claims, trackers, servers' addresses, where runs are done, and whether
    layers are compiled or split. They may change in a folder that the plan has begun; so may whether adapters are kept once
    they are measured. Left out where they are not chosen, so that plans of before there was a choice stay the same: lengths of
    completions, samples, how answers and rows are read, chat templates, four bits, what samples, evaluations and measurements
    along a run, and fields of recipes and of training that are declared LATER.
    """
    runs = {spec.name: meaning_of(spec) for spec in specs}
    done = replace(file, seeds=[], train={}, runs={}, notes="", roles={}, contrasts=[], claims={})
    meaning = {**plain(done), "runs": runs}
    del meaning["claims"]
    del meaning["servers"]
    if meaning["sampler"] == "local":
        del meaning["sampler"]
    del meaning["execute"]
    del meaning["report_to"]
    for name in ("compile", "shard_base"):
        del meaning["model_settings"][name]
    for name in ("chat_template", "quantize"):
        if meaning["model_settings"][name] is None:
            del meaning["model_settings"][name]
    for choice in (meaning["target"], *meaning["retention"]):
        for name in ("max_new_tokens", "samples", "metric"):
            if choice[name] is None:
                del choice[name]
        if choice["read"] == plain(Reading()):
            del choice["read"]
    if file.locality is not None:
        meaning["locality"] = comparable(file.locality)
    if file.eval == EvalSettings():
        del meaning["eval"]
    if meaning["along"] is None:
        del meaning["along"]
    else:
        meaning["along"] = comparable(file.along)
        del meaning["along"]["keep"]
    return sha256_text(json.dumps(meaning, sort_keys=True))


def meaning_of(spec: AnySpec) -> list[Json]:
    """What a run does, for the plan's checksum."""
    if isinstance(spec, CheckpointSpec):
        return [{"checkpoint": spec.checkpoint}]
    meaning: list[Json] = [spec.recipe_name, comparable(spec.recipe()), as_before(comparable(spec.train))]
    if spec.data is not None:
        meaning.append(spec.data)
    if not spec.read.is_default:
        meaning.append(comparable(spec.read))
    if spec.start is not None:
        meaning.append({"start": spec.start})
    return meaning
