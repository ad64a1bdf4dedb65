"""What a report holds: every plot and every table of a study. A part whose records are not there is empty.

Does not know files or pages.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from stateshape.report.drawing.figure import Plot
from stateshape.report.drawing.palette import looks
from stateshape.report.drawing.table import Table
from stateshape.report.parts.audit import finding_table, kl_table
from stateshape.report.parts.costs import cost_table, phase_table
from stateshape.report.parts.curves import curve_plot
from stateshape.report.parts.dose import dose_plots, dose_tables
from stateshape.report.parts.drift import drift_table, null_plots
from stateshape.report.parts.evals import eval_plots
from stateshape.report.parts.findings import findings_table
from stateshape.report.parts.forest import evidence_table, forest_plots
from stateshape.report.parts.locality import depth_table, last_table, locality_plots, locality_table
from stateshape.report.parts.predictors import correlation_table, gain_table, predictor_plot, score_table
from stateshape.report.parts.scatter import DRIFT_PLOTS, drift_plot, gain_plot
from stateshape.report.parts.state_map import map_plot, map_summary, map_table
from stateshape.report.parts.subjects import subject_tables
from stateshape.report.parts.supervision import supervision_plots, supervision_shares, supervision_table
from stateshape.report.parts.tables import (
    contrast_table,
    difference_table,
    per_seed_table,
    secondary_table,
    table1,
    table2,
)
from stateshape.report.study_files import StudyFiles


@dataclass(frozen=True, kw_only=True, slots=True)
class Plots:
    forest: list[Plot]
    gain: list[Plot]
    dose: list[Plot]
    drift: list[Plot]
    nulls: list[Plot]
    supervision: list[Plot]
    state_map: list[Plot]
    locality: list[Plot]
    predictors: list[Plot]
    evals: list[Plot]
    curves: list[Plot]

    def all(self) -> list[Plot]:
        return [plot for part in fields(self) for plot in getattr(self, part.name)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """`raw`: records as they are, for files only."""

    methods: Table
    findings: Table
    main: Table
    versus_base: Table
    versus_teacher: Table
    versus_start: Table
    audit: Table
    kl: Table
    contrasts: Table
    secondary: Table
    subjects: list[Table]
    dose: list[Table]
    per_seed: Table
    evidence: Table
    drift: Table
    locality_last: Table
    locality_depth: Table
    cost: Table
    phases: Table
    state_map_means: Table | None
    predictors: list[Table]
    raw: list[Table]

    def for_files(self) -> list[Table]:
        """Those with rows, without the two numbered ones."""
        tables = [
            self.findings, self.audit, self.kl, self.versus_base, self.versus_start, self.versus_teacher,
            self.contrasts, self.secondary, *self.subjects, *self.dose, self.per_seed, self.evidence,
            self.drift, self.locality_last, self.locality_depth, self.cost, self.phases, self.state_map_means, *self.predictors,
        ]  # fmt: skip
        return [table for table in tables if table is not None and table.rows]


def all_plots(study: StudyFiles) -> Plots:
    plan, comparison, state_map = study.plan, study.comparison, study.state_map
    marks = looks(plan, [])
    return Plots(
        forest=forest_plots(study.verdicts),
        gain=_known(gain_plot(plan, comparison)),
        dose=dose_plots(study.dose, plan) if study.dose else [],
        drift=_known(*(drift_plot(plan, comparison, distance=distance) for distance in DRIFT_PLOTS)),
        nulls=null_plots(study),
        supervision=supervision_plots(supervision_shares(study)),
        state_map=_known(map_plot(state_map, plan)) if state_map else [],
        locality=locality_plots(study),
        predictors=_known(predictor_plot(study.predictors)) if study.predictors else [],
        evals=eval_plots(study),
        curves=_known(*(curve_plot(files, marks[files.run.name]) for files in study.runs)),
    )


def _known(*plots: Plot | None) -> list[Plot]:
    return [plot for plot in plots if plot is not None]


def all_tables(study: StudyFiles) -> Tables:
    plan, comparison = study.plan, study.comparison
    raw = [supervision_table(study), locality_table(study)]
    if study.state_map:
        raw.append(map_table(study.state_map))
    return Tables(
        methods=table1(plan),
        findings=findings_table(study),
        main=table2(plan, comparison),
        versus_base=difference_table(plan, comparison, versus="base"),
        versus_teacher=difference_table(plan, comparison, versus="teacher"),
        versus_start=difference_table(plan, comparison, versus="start"),
        audit=finding_table(study),
        kl=kl_table(study),
        contrasts=contrast_table(plan, comparison),
        secondary=secondary_table(plan, comparison),
        subjects=subject_tables(study),
        dose=dose_tables(study.dose, plan) if study.dose else [],
        per_seed=per_seed_table(plan, comparison),
        evidence=evidence_table(study.verdicts, caption="Evidence for the verdicts."),
        drift=drift_table(study),
        locality_last=last_table(study),
        locality_depth=depth_table(study),
        cost=cost_table(study),
        phases=phase_table(study),
        state_map_means=map_summary(study.state_map, plan) if study.state_map else None,
        predictors=[make(study.predictors) for make in (score_table, gain_table, correlation_table)]
        if study.predictors
        else [],
        raw=[table for table in raw if table.rows],
    )
