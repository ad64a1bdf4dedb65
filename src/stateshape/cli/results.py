"""What a study found, for a terminal of 80 columns: one line per comparison, the headline, the verdicts, where the rest is."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from stateshape.cli.costs import time_split
from stateshape.cli.show import MISSING, console, number
from stateshape.core import layout
from stateshape.core.records import RunRecord
from stateshape.core.study_records import BASE, Estimate, Finding
from stateshape.report.parts.findings import by_pair
from stateshape.report.study_files import StudyFiles, read_study_folder

SIGNS = {
    "gained": ("▲", "green"),
    "lost": ("▼", "red"),
    "drifted": ("drifted", "yellow"),
    "no difference": ("=", "blue"),
    "cannot tell": ("?", "dim"),
    "not measured": (MISSING, "dim"),
}
OUTCOME_STYLES = {"supported": "green", "not supported": "red", "equivalent": "blue"}
LEGEND = "▲ gained  ▼ lost  = no difference  ? cannot tell  ± half of the 95% interval"


def print_results(folder: Path) -> None:
    study = read_study_folder(folder)
    out = console()
    out.print(findings_lines(study))
    out.print(LEGEND, style="dim", highlight=False)
    if study.findings and study.findings.headline:
        out.print()
    for sentence in study.findings.headline if study.findings else []:
        out.print(sentence, highlight=False, markup=False)
    asked = [verdict for verdict in study.verdicts if verdict.outcome != "not asked"]
    if asked:
        out.print()
    for verdict in asked:
        out.print(Text.assemble(f"{verdict.claim_id} ", (verdict.outcome, OUTCOME_STYLES.get(verdict.outcome, "yellow")),
                                f": {verdict.claim}"), highlight=False)  # fmt: skip
    out.print()
    out.print(time_line(study), highlight=False)
    for what, path in (
        ("report", layout.REPORT),
        ("every number", f"{layout.TABLES}/ and table2.md"),
        ("why each verdict", layout.VERDICTS),
    ):
        out.print(f"{what}: {folder / path}", highlight=False, markup=False, soft_wrap=True)


def findings_lines(study: StudyFiles) -> Table:
    """The base's scores, each run's difference from them, and the requested pairs."""
    plan = study.plan
    labels = {run.name: run.label for run in plan.runs}
    table = Table(box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    table.add_column(plan.target.label, justify="right", no_wrap=True)
    if plan.retention:
        table.add_column("retention", justify="right", no_wrap=True)
    table.add_column("drift", no_wrap=True)
    base = next((row for row in study.comparison.rows if row.run == BASE), None)
    scores = {} if base is None else base.scores
    kept = [scores[task.name].value for task in plan.retention if task.name in scores]
    known = [value for value in kept if value is not None]
    mean = sum(known) / len(known) if known and len(known) == len(plan.retention) else None
    target = scores.get(plan.target.name)
    cells = [number(None if target is None else target.value, ".3f")]
    table.add_row("base", *cells, *([number(mean, ".3f")] if plan.retention else []), "")
    for (run, versus), found in by_pair(study).items():
        label = labels[run] if versus == BASE else f"{labels[run]} minus {labels.get(versus, versus)}"
        subjects = ["target", *(["retention"] if plan.retention else [])]
        table.add_row(
            Text(label), *[score_words(found.get(subject)) for subject in subjects], drift_words(found.get("drift"))
        )
    return table


def score_words(found: Finding | None) -> Text:
    """'+0.048 ± 0.022 ▲'."""
    if found is None:
        return Text(MISSING)
    sign, style = SIGNS[found.outcome]
    return Text.assemble(f"{difference(found.evidence.effect)} ", (sign, style))


def difference(effect: Estimate) -> str:
    if effect.value is None:
        return MISSING
    half = "" if effect.lo is None or effect.hi is None else f" ± {(effect.hi - effect.lo) / 2:.3f}"
    return f"{effect.value:+.3f}{half}"


def drift_words(found: Finding | None) -> Text:
    return Text("") if found is None else Text(*SIGNS[found.outcome])


def time_line(study: StudyFiles) -> str:
    """Where the seconds went, over all runs and seeds."""
    seconds: dict[str, float] = {}
    supervised = sampled = 0
    for record in records_of(study):
        supervised += record.num_supervised_tokens
        sampled += record.num_sampled_tokens
        for name, value in record.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + value
    return time_split(seconds, supervised, sampled)


def records_of(study: StudyFiles) -> list[RunRecord]:
    """Of all runs and seeds that have one."""
    return [seed.record for run in study.runs for seed in run.seeds if seed.record is not None]
