"""A study's folder as an object: its tables, verdicts, states and figures. Opening one reads its plan, and nothing else.

Every call reads the files as they are then, also while the study runs. Does not know how the numbers are computed.
"""

from __future__ import annotations

import os
from pathlib import Path

from stateshape.core import html, layout
from stateshape.core.files import BadInput, read_json
from stateshape.core.records import RunRecord
from stateshape.core.study_records import Comparison, Findings, PlanRecord, Verdict
from stateshape.core.wording import MAX_PATH, shown
from stateshape.report.contents import all_tables
from stateshape.report.drawing.table import Cell, Column, Table
from stateshape.report.parts.findings import findings_table
from stateshape.report.parts.tables import table1, table2
from stateshape.report.parts.verdict_list import verdict_table
from stateshape.report.study_files import empty_comparison, read_study_folder
from stateshape.views.figure import Figure, figure_names, read_figure
from stateshape.views.frame import Frame
from stateshape.views.states import States


class Study:
    """A study on disk. Tables are frames: shown in a notebook, and taken by to_pandas(), to_polars() or to_arrow()."""

    def __init__(self, folder: Path) -> None:
        if not os.path.isfile(folder / layout.PLAN):
            raise BadInput(
                f"study: got {shown(str(folder), limit=MAX_PATH)}, which contains no {layout.PLAN}; expected the folder of a "
                "study or an audit, as --out named it"
            )
        self.folder = folder
        self.plan = read_json(folder / layout.PLAN, PlanRecord)

    @property
    def report(self) -> Path:
        """The report's page."""
        return self.folder / layout.REPORT

    @property
    def comparison(self) -> Comparison:
        """Every number and interval, as typed records; without any number where nothing was compared yet."""
        path = self.folder / layout.COMPARISON
        return read_json(path, Comparison) if path.exists() else empty_comparison(self.plan)

    @property
    def headline(self) -> list[str]:
        """What was compared, what changed and what cannot be told, in sentences; empty where nothing was compared yet."""
        path = self.folder / layout.FINDINGS
        return read_json(path, Findings).headline if path.exists() else []

    def table1(self) -> Frame:
        """The methods: state source, signal, density and loss."""
        return Frame.of(table1(self.plan))

    def table2(self) -> Frame:
        """A row per run: scores, forgetting, retention and drift, with 95% intervals."""
        return Frame.of(table2(self.plan, self.comparison))

    def verdicts(self) -> Frame:
        """A row per claim: its outcome and the sentence with the numbers."""
        path = self.folder / layout.VERDICTS
        return Frame.of(verdict_table(read_json(path, list[Verdict]) if path.exists() else []))

    def findings(self) -> Frame:
        """What each run gained, lost and drifted against the base, and how the requested pairs differ."""
        return Frame.of(findings_table(read_study_folder(self.folder)))

    def tables(self) -> list[str]:
        """Names for `table`."""
        return list(self._tables())

    def table(self, name: str) -> Frame:
        """A further table of the report, such as per_seed. Raises BadInput where it has none of this name."""
        known = self._tables()
        if name not in known:
            raise BadInput(f"table: got {shown(name)}; expected one of {', '.join(known)}")
        return Frame.of(known[name])

    def _tables(self) -> dict[str, Table]:
        found = all_tables(read_study_folder(self.folder))
        return {one.name: one for one in (found.methods, found.main, *found.for_files(), *found.raw)}

    def figures(self) -> list[str]:
        """Names for `figure`; empty before the first report."""
        return figure_names(self.folder)

    def figure(self, name: str) -> Figure:
        """A plot of the report, such as gain_retention. Raises BadInput where it has none of this name."""
        return read_figure(self.folder, name)

    def states(self) -> States:
        """The states that runs trained on. Raises BadInput where none were recorded."""
        return States(self.folder)

    def run_folder(self, run: str, seed: int | None = None) -> str:
        """A run's folder, for open_policy and the commands. seed: None takes the first. Raises BadInput where there is none."""
        names = [one.name for one in self.plan.runs]
        if run not in names:
            raise BadInput(f"run: got {shown(run)}; expected one of {', '.join(names)}")
        there = layout.seed_folders(self.folder, run) if seed is None else [layout.run_folder(self.folder, run, seed)]
        if not there or not there[0].is_dir():
            raise BadInput(
                f"run: got {shown(run)}, seed {seed}, which has not begun; expected one of the study's seeds, "
                f"{', '.join(map(str, self.plan.seeds))}; run the study first"
            )
        return str(there[0])

    def runs(self) -> Frame:
        """A row per run and seed: whether it is complete, its steps, tokens, seconds and warnings."""
        keys = ("run", "seed", "complete", "steps", "supervised tokens", "sampled tokens", "seconds", "warnings")
        rows = []
        for folder in layout.run_folders(self.folder):
            if (folder / layout.RUN).exists():
                rows.append(
                    [
                        Cell(text=str(one), value=number)
                        for one, number in of_run(read_json(folder / layout.RUN, RunRecord))
                    ]
                )
        columns = [Column(key=key.replace(" ", "_"), heading=key.capitalize()) for key in keys]
        return Frame.of(Table(name="runs", caption="Runs", columns=columns, rows=rows))

    def __repr__(self) -> str:
        trained = sum(one.method is not None for one in self.plan.runs)
        seeds = len(self.plan.seeds)
        counts = f"{trained} trained run{'s'[: trained != 1]}, {seeds} seed{'s'[: seeds != 1]}"
        return f"<Study {self.plan.study!r} in {self.folder}: {counts}>"

    def _repr_html_(self) -> str:
        plan = self.plan
        pairs: list[tuple[str, object]] = [
            ("base", plan.model),
            ("target", plan.target.label),
            ("retention", ", ".join(task.label for task in plan.retention)),
            ("runs", ", ".join(run.name for run in plan.runs)),
            ("seeds", ", ".join(map(str, plan.seeds))),
            ("report", self.report if self.report.exists() else "not written yet"),
            ("more", "table2(), verdicts(), findings(), runs(), states(), tables(), figures()"),
        ]
        return html.facts(f"Study {plan.study}", pairs, paragraphs=self.headline)


def of_run(record: RunRecord) -> list[tuple[object, float | None]]:
    """The cells of a run's row: what is shown, and the number that a frame holds."""
    counts = [record.num_steps, record.num_supervised_tokens, record.num_sampled_tokens]
    return [
        (record.name, None),
        (record.seed, record.seed),
        ("yes" if record.is_complete else "no", None),
        *((f"{count:,}", count) for count in counts),
        (f"{sum(record.seconds.values()):.0f}", sum(record.seconds.values())),
        ("; ".join(record.warnings), None),
    ]
