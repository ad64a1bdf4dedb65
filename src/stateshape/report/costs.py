"""What each run cost: by run, and by phase (seconds, tokens, FLOPs, share of the peak, memory); and its settings, as tables.

Means over the seeds that wrote a run.json; the one thing the report computes. Does not know what is worth its cost.
"""

from __future__ import annotations

from collections.abc import Sequence

from stateshape.core.records import Json, ProfiledPhase, RunRecord
from stateshape.report.folder import RunFiles, StudyFiles
from stateshape.report.grid import Cell, Column, Table
from stateshape.report.palette import looks
from stateshape.report.text import setting


def cost_table(study: StudyFiles) -> Table:
    """One row per run: means over its seeds; memory is the largest of them."""
    colours = looks(study.plan, [])
    columns = [
        Column(key="label", heading="Run"),
        Column(key="seeds", heading="Seeds"),
        Column(key="steps", heading="Steps", kind="number", decimals=0),
        Column(key="total", heading="Seconds", kind="number", decimals=1),
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
    columns = [
        Column(key="label", heading="Run"),
        Column(key="phase", heading="Phase"),
        Column(key="seconds", heading="Seconds", kind="number", decimals=1),
        Column(key="tokens", heading="Tokens computed", kind="number", decimals=0),
        Column(key="rate", heading="Tokens / s", kind="number", decimals=0),
        Column(key="gflop", heading="GFLOP", kind="number", decimals=1),
        Column(key="share", heading="Of measured peak, %", kind="number", decimals=1),
        Column(key="memory", heading="Peak memory, GB", kind="number", decimals=2),
    ]
    rows = []
    for run, phases in runs:
        names: list[str | None] = list(dict.fromkeys(phase.phase for phase in phases))
        for name in names or [None]:
            same = [phase for phase in phases if phase.phase == name]
            numbers = [
                _mean([phase.seconds for phase in same]),
                _mean([phase.tokens for phase in same]),
                _mean([_rate(phase.tokens, phase.seconds) for phase in same]),
                _mean([None if phase.flops is None else phase.flops / 1e9 for phase in same]),
                _mean([None if phase.share_of_peak is None else 100 * phase.share_of_peak for phase in same]),
                max([phase.peak_memory_gb for phase in same if phase.peak_memory_gb is not None], default=None),
            ]
            rows.append([run, Cell(text=name), *[Cell(value=value) for value in numbers]])
    notes = [
        "Tokens that went through a model's layers, and the operations these had to do, as docs/cost.md counts them; the "
        "peak is that of a large matrix product on the same machine. Means over seeds; memory is the largest over seeds."
    ]
    return Table(name="phases", caption="Where time and memory went.", columns=columns, rows=rows, notes=notes)


def _records(files: RunFiles) -> list[RunRecord]:
    return [seed.record for seed in files.seeds if seed.record is not None]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _rate(tokens: int | None, seconds: float | None) -> float | None:
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
