"""The cost of each run, in total and by phase (seconds, tokens, FLOPs, share of the peak, memory); and its settings, as tables.

Means over the seeds that wrote a run.json; the one thing the report computes. Does not know what is worth its cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from stateshape.core.records import Json, ProfiledPhase, RunRecord
from stateshape.report.drawing.palette import looks
from stateshape.report.drawing.table import Cell, Column, Table
from stateshape.report.drawing.text import setting
from stateshape.report.study_files import RunFiles, StudyFiles

T = TypeVar("T")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rate(tokens: int | None, seconds: float | None) -> float | None:
    """Missing rather than zero where nothing of the kind was done."""
    return tokens / seconds if tokens and seconds else None


class Measure(NamedTuple, Generic[T]):
    """A column of numbers: what is read from one seed's record (None: unknown), and how the seeds' values become one."""

    key: str
    heading: str
    decimals: int
    of: Callable[[T], float | None]
    over_seeds: Callable[[Sequence[float]], float] = _mean


RUN_MEASURES: list[Measure[RunRecord]] = [
    Measure("steps", "Steps", 0, lambda r: r.num_steps),
    Measure("total", "Seconds", 1, lambda r: sum(r.seconds.values()) if r.seconds else None),
    Measure("supervised", "Supervised tokens", 0, lambda r: r.num_supervised_tokens),
    Measure("sampled", "Sampled tokens", 0, lambda r: r.num_sampled_tokens),
    Measure(
        "supervised_rate", "Supervised tokens / s of training", 0,
        lambda r: _rate(r.num_supervised_tokens, r.seconds.get("training")),
    ),
    Measure(
        "sampled_rate", "Sampled tokens / s of sampling", 0,
        lambda r: _rate(r.num_sampled_tokens, r.seconds.get("sampling")),
    ),
    Measure("memory", "Peak memory, GB", 2, lambda r: r.peak_memory_gb, max),
]  # fmt: skip
PHASE_MEASURES: list[Measure[ProfiledPhase]] = [
    Measure("seconds", "Seconds", 1, lambda p: p.seconds),
    Measure("tokens", "Tokens computed", 0, lambda p: p.tokens),
    Measure("rate", "Tokens / s", 0, lambda p: _rate(p.tokens, p.seconds)),
    Measure("gflop", "GFLOP", 1, lambda p: None if p.flops is None else p.flops / 1e9),
    Measure(
        "share", "% of measured peak FLOP/s", 1, lambda p: None if p.share_of_peak is None else 100 * p.share_of_peak
    ),
    Measure("memory", "Peak memory, GB", 2, lambda p: p.peak_memory_gb, max),
]


def _columns(measures: Sequence[Measure[T]]) -> list[Column]:
    return [Column(key=m.key, heading=m.heading, kind="number", decimals=m.decimals) for m in measures]


def _cells(measures: Sequence[Measure[T]], seeds: Sequence[T]) -> list[Cell]:
    """One number per measure, over the seeds that have it; missing where none does."""
    known = [[value for value in map(m.of, seeds) if value is not None] for m in measures]
    return [Cell(value=m.over_seeds(values) if values else None) for m, values in zip(measures, known)]


def cost_table(study: StudyFiles) -> Table:
    """One row per run: means over its seeds; memory is the largest of them."""
    colours = looks(study.plan, [])
    columns = [Column(key="label", heading="Run"), Column(key="seeds", heading="Seeds"), *_columns(RUN_MEASURES)]
    rows = []
    for files in study.runs:
        records = _records(files)
        run = Cell(text=files.run.label, colour=colours[files.run.name].colour)
        rows.append([run, Cell(text=str(len(records))), *_cells(RUN_MEASURES, records)])
    notes = ["Means over seeds; memory is the maximum over seeds."]
    return Table(name="cost", caption="Cost per run.", columns=columns, rows=rows, notes=notes)


def phase_table(study: StudyFiles) -> Table:
    """One row per run and phase; a run that has none yet stays, with dashes."""
    colours = looks(study.plan, [])
    return phases_of(
        [
            (
                Cell(text=files.run.label, colour=colours[files.run.name].colour),
                [phase for record in _records(files) for phase in record.phases()],
            )
            for files in study.runs
        ]
    )


def phases_of(runs: Sequence[tuple[Cell, Sequence[ProfiledPhase]]]) -> Table:
    """`runs`: the first cell, and the phases of all seeds."""
    columns = [Column(key="label", heading="Run"), Column(key="phase", heading="Phase"), *_columns(PHASE_MEASURES)]
    rows = []
    for run, phases in runs:
        names: list[str | None] = list(dict.fromkeys(phase.phase for phase in phases))
        for name in names or [None]:
            same = [phase for phase in phases if phase.phase == name]
            rows.append([run, Cell(text=name), *_cells(PHASE_MEASURES, same)])
    notes = [
        "Tokens computed: tokens passed through a model's layers; GFLOP: operations they require (docs/cost.md). The peak is "
        "that of a large matrix product on the same machine. Means over seeds; memory is the maximum over seeds."
    ]
    return Table(name="phases", caption="Time and memory per phase.", columns=columns, rows=rows, notes=notes)


def _records(files: RunFiles) -> list[RunRecord]:
    return [seed.record for seed in files.seeds if seed.record is not None]


def settings_tables(files: RunFiles) -> list[Table]:
    """Settings of a run (the first seed's resolved ones, or else the planned ones) and the provenance of each seed."""
    records = _records(files)
    settings = records[0].settings if records else files.run.settings
    origin = "as resolved" if records else "as planned"
    found = [key_value_table(f"Settings of {files.run.label}, {origin}.", {"": settings})] if settings else []
    if records:
        by_seed = {f"Seed {r.seed}": {"is_complete": r.is_complete, **r.provenance} for r in records}
        found.append(key_value_table(f"Provenance of {files.run.label}.", by_seed))
    return found


def key_value_table(caption: str, values: dict[str, dict[str, Json]]) -> Table:
    """A row per name, a column per heading; values that are the same under every heading are still repeated."""
    names = list(dict.fromkeys(name for column in values.values() for name in column))
    return Table(
        name="values",
        caption=caption,
        columns=[Column(key="name", heading="Name"), *[Column(key=h, heading=h or "Value") for h in values]],
        rows=[
            [
                Cell(text=name),
                *[Cell(text=setting(column[name]) if name in column else None) for column in values.values()],
            ]
            for name in names
        ],
    )
