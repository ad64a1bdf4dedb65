"""What each run cost: seconds by phase, tokens, tokens per second, memory; and the settings it ran under, as tables.

Means over the seeds that wrote a run.json; the one thing the report computes. Does not know what is worth its cost.
"""

from __future__ import annotations

from collections.abc import Sequence

from stateshape.core.records import Json, RunRecord
from stateshape.report.folder import RunFiles, StudyFiles
from stateshape.report.grid import Cell, Column, Table
from stateshape.report.palette import looks
from stateshape.report.text import setting


def cost_table(study: StudyFiles) -> Table:
    """One row per run: means over its seeds; memory is the largest of them."""
    phases = list(dict.fromkeys(p for records in map(_records, study.runs) for r in records for p in r.seconds))
    colours = looks(study.plan, [])
    columns = [
        Column(key="label", heading="Run"),
        Column(key="seeds", heading="Seeds"),
        Column(key="steps", heading="Steps", kind="number", decimals=0),
        *[Column(key=phase, heading=f"{phase}, s", kind="number", decimals=1) for phase in phases],
        Column(key="total", heading="total, s", kind="number", decimals=1),
        Column(key="supervised", heading="Supervised tokens", kind="number", decimals=0),
        Column(key="sampled", heading="Sampled tokens", kind="number", decimals=0),
        Column(key="supervised_rate", heading="Supervised tokens / s of training", kind="number", decimals=0),
        Column(key="sampled_rate", heading="Sampled tokens / s of sampling", kind="number", decimals=0),
        Column(key="memory", heading="Peak memory, GB", kind="number", decimals=2),
    ]
    rows = []
    for files in study.runs:
        records = _records(files)
        memory = [r.peak_memory_gb for r in records if r.peak_memory_gb is not None]
        numbers = [
            _mean([r.num_steps for r in records]),
            *[_mean([r.seconds.get(phase) for r in records]) for phase in phases],
            _mean([sum(r.seconds.values()) if r.seconds else None for r in records]),
            _mean([r.num_supervised_tokens for r in records]),
            _mean([r.num_sampled_tokens for r in records]),
            _mean([_rate(r.num_supervised_tokens, r.seconds.get("training")) for r in records]),
            _mean([_rate(r.num_sampled_tokens, r.seconds.get("sampling")) for r in records]),
            max(memory, default=None),
        ]
        run = Cell(text=files.run.label, colour=colours[files.run.name].colour)
        rows.append([run, Cell(text=str(len(records))), *[Cell(value=value) for value in numbers]])
    notes = ["Means over seeds; memory is the largest over seeds."]
    return Table(name="cost", caption="What each run cost.", columns=columns, rows=rows, notes=notes)


def _records(files: RunFiles) -> list[RunRecord]:
    return [seed.record for seed in files.seeds if seed.record is not None]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _rate(tokens: int, seconds: float | None) -> float | None:
    """Missing rather than zero where nothing of the kind was done."""
    return tokens / seconds if tokens and seconds else None


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
