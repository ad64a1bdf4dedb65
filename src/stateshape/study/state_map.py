"""The states of a study's runs on one plane: what base, learner and teacher write, and what was trained on.

Made from the record files of the first seed; a run without samples has no points. Texts are the responses, without prompts:
the same prompts are on all sides, and would dominate the map. Draws nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple

from stateshape.core import layout
from stateshape.core.files import read_json, read_jsonl, write_json
from stateshape.core.manifest import rewriting
from stateshape.core.records import StateSample
from stateshape.core.study_records import BASE, MapPoint, PlanRecord, StateMap
from stateshape.drift.projection import project

MOST = 60  # points of a run and kind
Kind = Literal["base", "learner", "teacher", "training"]


class Group(NamedTuple):
    run: str
    seed: int
    kind: Kind


def write_state_map(study_dir: Path) -> None:
    """Writes project.json; nothing where the base has no samples yet."""
    groups = groups_of(study_dir, read_json(study_dir / layout.PLAN, PlanRecord))
    base = next((group for group in groups if group.kind == "base"), None)
    if base is None:
        return
    names = {str(k): group for k, group in enumerate(groups)}
    texts = {name: [response(sample) for sample in groups[group]] for name, group in names.items()}
    projected = project(texts, base=next(name for name, group in names.items() if group == base))
    points = [
        MapPoint(
            run=group.run,
            seed=group.seed,
            kind=group.kind,
            step=sample.step,
            x=float(x),
            y=float(y),
            spans=sample.spans,
        )
        for name, group in names.items()
        for sample, (x, y) in zip(groups[group], projected.points[name], strict=True)
    ]
    state_map = StateMap(
        points=points,
        features="hashed word 1-2-grams of the responses, weighed by the base's document frequencies",
        projection="the two largest principal components; every group weighs the same",
        explained=projected.shares,
    )
    with rewriting(study_dir, [layout.STATE_MAP]):
        write_json(study_dir / layout.STATE_MAP, state_map)


def groups_of(study_dir: Path, plan: PlanRecord) -> dict[Group, list[StateSample]]:
    """Samples by run and kind, where there are any with a response."""
    samples_by_group: dict[Group, list[StateSample]] = {}

    def add(run: str, seed: int, kind: Kind, path: Path) -> None:
        samples = (
            [sample for sample in read_jsonl(path, StateSample) if response(sample)] if os.path.exists(path) else []
        )
        if samples:
            samples_by_group[Group(run, seed, kind)] = samples[:: -(-len(samples) // MOST)]

    for planned in plan.runs:
        if planned.name == BASE:
            folder = next(iter(layout.seed_folders(study_dir, BASE)), study_dir / "none")
            add(BASE, plan.seeds[0], "base", layout.rollouts(folder))
            continue
        seed = plan.seeds[0]
        folder = layout.run_folder(study_dir, planned.name, seed)
        add(planned.name, seed, "learner", layout.rollouts(folder))
        add(planned.name, seed, "training", folder / layout.SAMPLES)
        if planned.teacher is not None:
            add(planned.name, seed, "teacher", layout.run_folder(study_dir, planned.teacher, seed) / "rollouts.jsonl")
    return samples_by_group


def response(sample: StateSample) -> str:
    return "".join(span.text for span in sample.spans if span.origin != "prompt").strip()
