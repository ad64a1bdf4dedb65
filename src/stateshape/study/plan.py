"""A study's plan: its file's runs, checked against each other and put in order, before any model loads.

Loads no model and writes nothing.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from stateshape.core.files import BadInput
from stateshape.core.limits import check_most
from stateshape.core.study_records import BASE
from stateshape.core.wording import MAX_PATH, shown
from stateshape.sampling.served.choice import check_servers
from stateshape.study.checkpoints import CheckpointSpec
from stateshape.study.claim_checks import check_claims
from stateshape.study.plan_checksum import plan_sha256
from stateshape.study.run_spec import AnySpec, RunSpec, any_spec
from stateshape.study.study_file import StudyFile
from stateshape.trackers.names import check_trackers


class Plan(NamedTuple):
    file: StudyFile
    runs: list[AnySpec]  # teachers before their students
    sha256: str  # of everything but the seeds: a study may be given more seeds later

    @property
    def trained(self) -> list[RunSpec]:
        return [spec for spec in self.runs if isinstance(spec, RunSpec)]

    @property
    def checkpoints(self) -> list[CheckpointSpec]:
        return [spec for spec in self.runs if isinstance(spec, CheckpointSpec)]


def on_device(plan: Plan, device: str | None) -> Plan:
    """The same plan, with the same checksum, on another device than its file's; None: on its file's."""
    if device is None:
        return plan
    return plan._replace(file=replace(plan.file, model_settings=replace(plan.file.model_settings, device=device)))


def make_plan(file: StudyFile) -> Plan:
    """Checks every run by building its recipe and settings, and puts teachers first."""
    if not file.seeds or len(set(file.seeds)) != len(file.seeds):
        raise BadInput(f"seeds: got {shown(file.seeds)}; expected one or more different numbers")
    if any(seed < 0 for seed in file.seeds):
        raise BadInput(f"seeds: got {shown(file.seeds)}; expected numbers from 0")
    check_most(seed=max(file.seeds))
    names = [choice.task for choice in (file.target, *file.retention)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInput(f"retention: got task {twice[0]} twice; expected each task once, as target or for retention")
    specs = {name: any_spec(name, choice, file.train) for name, choice in file.runs.items()}
    check_runs_named(file)
    check_servers(file.sampler, file.servers)
    check_trackers(file.report_to)
    check_samples_along(file)
    check_claims(file)
    return Plan(file=file, runs=in_order(specs), sha256=plan_sha256(file, list(specs.values())))


def check_samples_along(file: StudyFile) -> None:
    """Raises BadInput."""
    has_samples = any(choice.samples is not None for choice in (file.target, *file.retention))
    if file.along is not None and file.along.samples and not has_samples:
        raise BadInput(
            "along.samples: got true in a study whose tasks take none; expected a task with samples; add samples: {n: 4} to "
            "the target"
        )


def check_runs_named(file: StudyFile) -> None:
    """Roles and contrasts name runs of the study. Raises BadInput."""
    known = (BASE, *file.runs)
    for key, pair in (
        *((f"roles.{role}", [run]) for role, run in file.roles.items()),
        *(("contrasts", c) for c in file.contrasts),
    ):
        if odd := [run for run in pair if run not in known]:
            raise BadInput(f"{key}: got {shown(odd[0])}; expected one of {', '.join(known)}")
    if odd_pairs := [pair for pair in file.contrasts if len(pair) != 2 or pair[0] == pair[1]]:
        raise BadInput(f"contrasts: got {shown(odd_pairs[0])}; expected two different runs: [first, second]")


def outside(plan: Plan) -> list[AnySpec]:
    """The runs with only those sources that are not runs of the plan."""
    inside = {spec.name for spec in plan.runs}
    return [
        spec._replace(
            sources={key: text for key, text in spec.sources.items() if inside.isdisjoint(spec.named()[key])},
            start=None if spec.start in inside else spec.start,
        )
        if isinstance(spec, RunSpec)
        else spec
        for spec in plan.runs
    ]


def in_order(specs: dict[str, AnySpec]) -> list[AnySpec]:
    """File order, except that a run comes after those it names. Raises BadInput on a circle."""
    ordered: dict[str, AnySpec] = {}

    def place(spec: AnySpec, waiting: tuple[str, ...]) -> None:
        if spec.name in waiting:
            raise BadInput(f"runs.{spec.name}: runs need each other in a circle: {' -> '.join((*waiting, spec.name))}")
        if spec.name in ordered:
            return
        for source in spec.needs():
            if source in specs:
                place(specs[source], (*waiting, spec.name))
        ordered[spec.name] = spec

    for spec in specs.values():
        check_names(spec, specs)
        place(spec, ())
    return list(ordered.values())


def check_names(spec: AnySpec, specs: Mapping[str, AnySpec]) -> None:
    """A source that is not a run of the study must be base, embedded, a folder or a hub id. Raises BadInput."""
    if isinstance(spec, CheckpointSpec):
        if spec.checkpoint in (BASE, *specs) and not os.path.exists(spec.checkpoint):
            raise BadInput(
                f"runs.{spec.name}.checkpoint: got {shown(spec.checkpoint)}, a run of this study, which is measured already; "
                "expected a folder or a hub id"
            )
        return
    if spec.start == BASE:
        raise BadInput(
            f"runs.{spec.name}.start: got base; expected a run or adapter folder; leave it out, since a run without a start "
            "begins from the base"
        )
    for key, sources in spec.named().items():
        for source in sources:
            if source in (BASE, "embedded", *specs) or "/" in source or os.path.exists(source):
                continue
            near = difflib.get_close_matches(source, specs, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise BadInput(
                f"runs.{spec.name}.{key}: got {shown(source, limit=MAX_PATH)}; expected another run ({', '.join(specs)}), "
                f"base, a folder or a hub id like owner/name{hint}"
            )
