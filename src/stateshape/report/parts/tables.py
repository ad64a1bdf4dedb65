"""The study's tables: the paper's Table 1 and Table 2 with 95% intervals, and the page's further tables.

Table 1: state source, signal, density, loss of each method. Table 2: target score, retention, forgetting, drift by run.
Written as table1.* and table2.* in csv (full precision), md and tex. Does not know how the numbers were computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from stateshape.core.files import write_text
from stateshape.core.measure_words import score_name
from stateshape.core.records import MethodRecord
from stateshape.core.study_records import (
    BASE,
    UNANIMOUS,
    Comparison,
    Estimate,
    PairedDifference,
    PlanRecord,
    RunComparison,
    TaskRecord,
)
from stateshape.report.drawing.palette import Look, looks
from stateshape.report.drawing.table import (
    Cell,
    Column,
    Table,
    estimate_cell,
    render_csv,
    render_markdown,
    render_tex,
    render_text,
)
from stateshape.report.study_files import ordered_rows

__all__ = ["render_text", "table1", "table2", "write_tables"]

DRIFT_DECIMALS = 5  # MMD^2 values differ in the fifth decimal (the paper: .01093, .01092, .01098)
DRIFT_COLUMNS = [
    Column(key="mmd2_biased", heading="MMD² (biased)", kind="number", decimals=DRIFT_DECIMALS),
    Column(key="mmd2_unbiased", heading="MMD² (unbiased)", kind="number", decimals=DRIFT_DECIMALS),
]
SINCE_START = [
    Column(key="mean_forgetting_since_start", heading="Mean forgetting since the start", kind="estimate"),
    Column(key="mmd2_unbiased", heading="MMD² to the start (unbiased)", kind="number", decimals=DRIFT_DECIMALS),
]
RATIOS = ("retention_above_chance",)  # among the secondary scores, which are differences else
MEANS = [
    Column(key="mean_forgetting", heading="Mean forgetting", kind="estimate"),
    Column(key="mean_retention", heading="Mean retention", kind="estimate"),
    Column(key="mean_chance_corrected_retention", heading="Retention above chance", kind="estimate"),
]


def write_tables(study_dir: Path, plan: PlanRecord, comparison: Comparison) -> list[Path]:
    """Writes table1.* and table2.* into the study folder; returns their paths."""
    return [*write_table(study_dir, table1(plan)), *write_table(study_dir, table2(plan, comparison))]


def write_table(folder: Path, table: Table) -> list[Path]:
    """As csv with full precision, and as md and tex for reading and papers."""
    rendered = {"csv": render_csv(table), "md": render_markdown(table), "tex": render_tex(table)}
    paths = [folder / f"{table.name}.{suffix}" for suffix in rendered]
    for path, words in zip(paths, rendered.values()):
        write_text(path, words)
    return paths


def table1(plan: PlanRecord) -> Table:
    """One row per method, with the runs of the plan that use it."""
    runs_of: dict[MethodRecord, list[str]] = {}
    for run in plan.runs:
        if run.method is not None:
            runs_of.setdefault(run.method, []).append(run.label)
    headings = ["Method", "Runs", "State source", "Signal", "Density", "Loss", "On-policy", "What it does", "Source"]
    keys = ["method", "runs", "state_source", "signal", "density", "loss", "is_on_policy", "summary", "source"]
    columns = [Column(key=k, heading=h, is_shown=k != "summary") for k, h in zip(keys, headings)]
    rows = [
        [m.method, "; ".join(labels), m.state_source, m.signal, m.density, m.loss, _yes(m.is_on_policy), m.summary,
         m.source]
        for m, labels in runs_of.items()
    ]  # fmt: skip
    return Table(
        name="table1",
        number="Table 1.",
        caption="Table 1. The methods: state source, signal, density and loss.",
        columns=columns,
        rows=[[Cell(text=value) for value in row] for row in rows],
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def tasks_of(comparison: Comparison) -> list[TaskRecord]:
    return [comparison.target, *comparison.retention]


def looks_of(plan: PlanRecord, comparison: Comparison) -> dict[str, Look]:
    return looks(plan, [row.run for row in comparison.rows])


def _run_cell(row: RunComparison, colours: dict[str, Look]) -> Cell:
    return Cell(text=row.label, colour=colours[row.run].colour)


def table2(plan: PlanRecord, comparison: Comparison) -> Table:
    colours = looks_of(plan, comparison)
    tasks, common = tasks_of(comparison), common_base_vs_base(comparison)
    others = list(dict.fromkeys(name for row in comparison.rows for name in row.extractions))
    columns = [
        Column(key="run", heading="Run", is_shown=False),
        Column(key="label", heading="Run"),
        Column(key="teacher", heading="Teacher", is_shown=False),
        Column(key="n_items", heading="Items", is_shown=False),
        Column(key="n_seeds", heading="Seeds", is_shown=False),
        *[Column(key=task.name, heading=task.label, kind="estimate") for task in tasks[:1]],
        *[
            Column(key=f"{tasks[0].name}_{name}", heading=f"{tasks[0].label}, {score_name(name)}", kind="estimate")
            for name in others
        ],
        *[Column(key=task.name, heading=task.label, kind="estimate") for task in tasks[1:]],
        *MEANS,
        *[replace(c, companion="base_vs_base", is_companion_shown=c.key not in common) for c in DRIFT_COLUMNS],
    ]
    rows = []
    for row in ordered_rows(plan, comparison):
        target = row.scores.get(comparison.target.name)
        sizes = (target.n_items, target.n_seeds) if target else (None, None)
        names = [Cell(text=row.run), _run_cell(row, colours), Cell(text=row.teacher)]
        names += [Cell(text=None if size is None else str(size), value=size) for size in sizes]
        means = [row.mean_forgetting, row.mean_retention, row.mean_chance_corrected_retention]
        scores = [row.scores.get(task.name) for task in tasks]
        scores[1:1] = [row.extractions.get(name) for name in others]
        numbers = [estimate_cell(estimate) for estimate in [*scores, *means]]
        rows.append([*names, *numbers, *[_drift_cell(row, column.key, common) for column in DRIFT_COLUMNS]])
    return Table(
        name="table2",
        number="Table 2.",
        caption=f"Table 2. {comparison.study}: {comparison.target.label} is the target; the others measure retention.",
        columns=columns,
        rows=rows,
        notes=table2_notes(comparison, common),
    )


def common_base_vs_base(comparison: Comparison) -> dict[str, float]:
    """By distance, base against base, where it is one number for all runs: the base's own row then shows it."""
    found = {}
    for column in DRIFT_COLUMNS:
        values = {drift.base_vs_base for row in comparison.rows if (drift := row.drift.get(column.key)) is not None}
        value = values.pop() if len(values) == 1 else None
        if value is not None:
            found[column.key] = value
    return found


def _drift_cell(row: RunComparison, distance: str, common: dict[str, float]) -> Cell:
    drift = row.drift.get(distance)
    if drift is None and row.run == BASE:
        return Cell(value=common.get(distance))
    return Cell() if drift is None else Cell(value=drift.value, companion=drift.base_vs_base)


def table2_notes(comparison: Comparison, common: dict[str, float]) -> list[str]:
    names = ", ".join(task.label for task in comparison.retention)
    chances = ", ".join(f"{task.label} {task.chance:g}" for task in tasks_of(comparison))
    warnings = [f"Warning: {'; '.join(comparison.warnings)}."] if comparison.warnings else []
    noise = (
        "The base's own value compares two samples of it: sampling noise only."
        if common
        else "The base-vs-base value below is due to sampling noise only."
    )
    others = dict.fromkeys(name for row in comparison.rows for name in row.extractions)
    has_samples = any(name not in ("strict", "flexible") for name in others)  # these are of greedy answers
    samples = (
        ["Scores at a temperature, and pass@k, are of several samples per item (docs/dose.md)."] if has_samples else []
    )
    return [
        *warnings,
        *samples,
        f"[Brackets]: 95% intervals. Training seeds: {len(comparison.seeds)}. Forgetting (base minus run), retention "
        f"(run / base) and retention above chance ((run - chance) / (base - chance)) are means over {names}. "
        f"Chance: {chances}.",
        f"MMD² compares sampled states with the base model's. {noise} The paper uses the biased estimator, which is positive "
        "even without drift.",
    ]


def difference_table(plan: PlanRecord, comparison: Comparison, *, versus: Literal["base", "teacher", "start"]) -> Table:
    """Paired differences on the same items, against the base or, for runs that have one, against the teacher or the start."""
    colours, tasks = looks_of(plan, comparison), tasks_of(comparison)
    other = "base" if versus == "base" else f"its {versus}"
    labels = {row.run: row.label for row in comparison.rows}
    columns = [Column(key="label", heading="Run")]
    if versus != "base":
        columns.append(Column(key=versus, heading=versus.capitalize()))
    columns += [
        Column(key=t.name, heading=f"Δ {t.label}", kind="estimate", is_signed=True, companion="p") for t in tasks
    ]
    if versus == "start":
        columns += SINCE_START
    rows: list[list[Cell]] = []
    tests: list[str] = []
    for row in ordered_rows(plan, comparison):
        paired = {"base": row.versus_base, "teacher": row.versus_teacher, "start": row.versus_start}[versus]
        if not paired:
            continue
        names = [_run_cell(row, colours)]
        if versus != "base":
            named = row.teacher if versus == "teacher" else row.start
            names.append(Cell(text=labels.get(named or "", named)))
        beside = [] if versus != "start" else [estimate_cell(row.mean_forgetting_since_start), _moved_since_start(row)]
        rows.append([*names, *[_difference_cell(paired.get(task.name)) for task in tasks], *beside])
        tests += [found.test for found in paired.values() if found.difference.value is not None]
    return Table(
        name=f"versus_{versus}",
        caption=f"Paired difference: run minus {other}, on the same items.",
        columns=columns,
        rows=rows,
        notes=[
            "p-values in this table are not corrected for multiple tests; those of the verdicts are.",
            *_tests_note(tests),
        ],
    )


def _moved_since_start(row: RunComparison) -> Cell:
    drift = row.drift_since_start.get(SINCE_START[-1].key)
    return Cell() if drift is None else Cell(value=drift.value)


def contrast_table(plan: PlanRecord, comparison: Comparison) -> Table:
    """The pairs of runs that the study asked to compare: run minus the other, on the same items."""
    tasks, labels = tasks_of(comparison), {row.run: row.label for row in ordered_rows(plan, comparison)}
    columns = [
        Column(key="label", heading="Run"),
        Column(key="versus", heading="Minus"),
        *[Column(key=t.name, heading=f"Δ {t.label}", kind="estimate", is_signed=True, companion="p") for t in tasks],
        Column(key="mean_retained", heading="Δ mean retained score", kind="estimate", is_signed=True),
    ]
    rows = [
        [
            Cell(text=labels.get(c.run, c.run)),
            Cell(text=labels.get(c.versus, c.versus)),
            *[_difference_cell(c.differences.get(task.name)) for task in tasks],
            estimate_cell(c.mean_retained),
        ]
        for c in comparison.contrasts
    ]
    tests = [found.test for c in comparison.contrasts for found in c.differences.values() if found.p is not None]
    return Table(
        name="contrasts",
        caption="Paired difference on the same items, for the comparisons requested by the study.",
        columns=columns,
        rows=rows,
        notes=["p-values in this table are not corrected for multiple tests.", *_tests_note(tests)],
    )


def secondary_table(plan: PlanRecord, comparison: Comparison) -> Table:
    """Paired differences from the base in scores that move before an answer flips; no verdict rests on them."""
    colours, rows = looks_of(plan, comparison), ordered_rows(plan, comparison)
    names = {t.name: t.label for t in tasks_of(comparison)}
    keys = dict.fromkeys(
        (task, score) for row in rows for task, paired in row.versus_base.items() for score in paired.secondary
    )
    columns = [Column(key="label", heading="Run")]
    for task, score in keys:
        is_ratio = score in RATIOS
        heading = f"{'' if is_ratio else 'Δ '}{names.get(task, task)}, {score_name(score)}"
        columns.append(Column(key=f"{task}_{score}", heading=heading, kind="estimate", is_signed=not is_ratio))
    cells = [
        [_run_cell(row, colours), *[estimate_cell(row.versus_base[task].secondary.get(score)) for task, score in keys]]
        for row in rows
        if keys and all(task in row.versus_base for task, _ in keys)
    ]
    return Table(
        name="secondary",
        caption="Secondary metrics, paired with the base: Δ is run minus base; retention is run / base, above chance.",
        columns=columns,
        rows=cells,
    )


def _difference_cell(paired: PairedDifference | None) -> Cell:
    return Cell() if paired is None else estimate_cell(paired.difference, companion=paired.p)


def _tests_note(tests: Iterable[str]) -> list[str]:
    distinct = list(dict.fromkeys(tests))
    alike = " Where no item differs, the interval ends at the smallest changes that so many items exclude."
    return [f"Test: {'; '.join(distinct)}.{alike if UNANIMOUS in distinct else ''}"] if distinct else []


def per_seed_table(plan: PlanRecord, comparison: Comparison) -> Table:
    """Every seed's own value of what Table 2 averages."""
    colours, tasks = looks_of(plan, comparison), tasks_of(comparison)
    columns = [
        Column(key="label", heading="Run"),
        Column(key="seed", heading="Seed"),
        *[Column(key=task.name, heading=task.label, kind="number") for task in tasks],
        *[Column(key=c.key, heading=c.heading, kind="number") for c in MEANS],
        *DRIFT_COLUMNS,
    ]
    rows = []
    for row in ordered_rows(plan, comparison):
        means = [row.mean_forgetting, row.mean_retention, row.mean_chance_corrected_retention]
        values = [_per_seed(estimate) for estimate in [*(row.scores.get(task.name) for task in tasks), *means]]
        values += [row.drift_per_seed.get(column.key, {}) for column in DRIFT_COLUMNS]
        seeds = [str(seed) for seed in comparison.seeds if any(str(seed) in found for found in values)]
        for seed in seeds:
            numbers = [Cell(value=found.get(seed)) for found in values]
            rows.append([_run_cell(row, colours), Cell(text=seed, value=int(seed)), *numbers])
    return Table(name="per_seed", caption="Values per training seed.", columns=columns, rows=rows)


def _per_seed(estimate: Estimate | None) -> dict[str, float]:
    return {} if estimate is None else estimate.per_seed
