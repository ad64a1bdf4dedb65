"""Where supervision was applied during training: each measure of locality.jsonl as a plot, and their last values as tables.

Measures are taken as they are named in the files: a name ends in its unit. Means over seeds are all that is computed.
Does not know how a measure is made.
"""

from __future__ import annotations

import math

from stateshape.core.measure_words import measure_name
from stateshape.core.records import LocalityRecord
from stateshape.report.drawing.figure import Plot
from stateshape.report.drawing.palette import looks
from stateshape.report.drawing.table import Cell, Column, Table
from stateshape.report.parts.curves import Curve, Series, mean_curve, series_plot
from stateshape.report.study_files import RunFiles, SeedFiles, StudyFiles

READING = {  # how to read a value, by the name in the file
    "reachability_gap_nats": "Learner surprisal of training states minus that of its own rollouts. 0: on-policy states.",
    "reachability_gap_p90_nats": "The reachability gap between 90th percentiles.",
    "c2st_auc": "AUC of a classifier that separates training states from the learner's own rollouts. 0.5: indistinguishable.",
    "ess_share": "Effective sample size (share) of the training states as samples of the current learner. 1: on-policy.",
    "forward_kl_new_task_nats": "KL(base || learner) on the base's rollouts, new task. The predictor of RL's Razor.",
    "reverse_kl_new_task_nats": "KL(learner || base) on the learner's rollouts, new task.",
    "forward_kl_retention_nats": "KL(base || learner) on the base's rollouts, retention prompts.",
    "reverse_kl_retention_nats": "KL(learner || base) on the learner's rollouts, retention prompts.",
    "locality_ratio": "Policy change per update at the learner's own states, divided by the change at the training states.",
    "neutral_ratio": "Policy change per update on retention prompts, divided by the change at the training states.",
    "teacher_recoverability": "Share of the training states from which the teacher still reaches the right answer.",
    "learner_recoverability": "Share of the training states from which the learner still reaches the right answer.",
    "topk_overlap": "Share of the teacher's top-k next tokens that are also in the learner's top k, at the training states.",
    "topk_mass": "Teacher probability of the learner's top-k next tokens, at the training states.",
    "update_frobenius": "Size of the whole weight update so far: its Frobenius norm.",
    "update_spectral": "Largest singular value of the weight update so far, over all modules.",
    "stable_rank": "Squared Frobenius norm over squared spectral norm of the update, mean over modules that changed.",
    "effective_rank": "Exponential of the entropy of the update's singular values, mean over modules that changed.",
    "mass": "Share of the training signal in each tenth of the response.",
}


def measures(study: StudyFiles) -> list[str]:
    """Names with a number in some record, in the files' order."""
    known = [name for record in _all(study) for name, value in record.values.items() if value is not None]
    return list(dict.fromkeys(known))


def depth_measures(study: StudyFiles) -> list[str]:
    known = [k for r in _all(study) for k, values in r.by_depth.items() if any(v is not None for v in values)]
    return list(dict.fromkeys(known))


def _all(study: StudyFiles) -> list[LocalityRecord]:
    return [record for files in study.runs for seed in files.seeds for record in seed.locality]


def locality_plots(study: StudyFiles) -> list[Plot]:
    marks, is_share = looks(study.plan, []), differ_in_length(study)
    plots = [
        series_plot(
            f"locality_{name}",
            measure_name(name),
            READING.get(name, ""),
            [Series(f.run.label, marks[f.run.name], over_steps(f, name, is_share=is_share)) for f in study.runs],
            x_label="share of the run, %" if is_share else "step",
        )
        for name in measures(study)
    ]
    plots += [
        series_plot(
            f"depth_{name}",
            f"{measure_name(name)}, by depth, at the end",
            READING.get(name, ""),
            [Series(f.run.label, marks[f.run.name], over_depth(f, name)) for f in study.runs],
            x_label="depth in the response, %",
        )
        for name in depth_measures(study)
    ]
    return [plot for plot in plots if plot is not None]


def differ_in_length(study: StudyFiles) -> bool:
    """Whether one axis of steps would leave the shorter runs in a corner."""
    return len({_last_step(seed) for files in study.runs for seed in files.seeds if seed.locality}) > 1


def _last_step(seed: SeedFiles) -> int:
    """Of the whole run, also while it goes on, where its record says how long it is."""
    probed = max(record.step for record in seed.locality)
    return max(probed, seed.record.num_steps - 1) if seed.record and seed.record.num_steps else probed


def over_steps(files: RunFiles, name: str, *, is_share: bool = False) -> list[Curve]:
    """A curve per seed; x is the step, or its percentage of the run."""
    curves = []
    for seed in files.seeds:
        if seed.locality:
            scale = 100 / max(1, _last_step(seed)) if is_share else 1.0
            xs = [record.step * scale for record in seed.locality]
            curves.append(Curve(xs, [_or_gap(record.values.get(name)) for record in seed.locality]))
    return curves


def over_depth(files: RunFiles, name: str) -> list[Curve]:
    """A curve per seed, of its last record; x is the middle of each depth, in percent of the response."""
    found = []
    for seed in files.seeds:
        values = seed.locality[-1].by_depth.get(name, []) if seed.locality else []
        xs = [100 * (i + 0.5) / len(values) for i in range(len(values))]
        found.append(Curve(xs, [_or_gap(value) for value in values]))
    return [curve for curve in found if curve.xs]


def _or_gap(value: float | None) -> float:
    return math.nan if value is None else value


def last_table(study: StudyFiles) -> Table:
    """Each measure's last value by run: the mean over seeds of what each seed's last record holds."""
    marks, names = looks(study.plan, []), measures(study)
    columns = [
        Column(key="label", heading="Run"),
        Column(key="step", heading="Step", kind="number", decimals=0),
        *[Column(key=name, heading=measure_name(name), kind="number") for name in names],
    ]
    rows = []
    for files in study.runs:
        last = [seed.locality[-1] for seed in files.seeds if seed.locality]
        if last:
            values = [_mean([r.values.get(name) for r in last]) for name in names]
            cells = [Cell(value=value) for value in [_mean([float(r.step) for r in last]), *values]]
            rows.append([Cell(text=files.run.label, colour=marks[files.run.name].colour), *cells])
    return Table(
        name="locality_last",
        caption="Measures of locality at the last probed step: means over seeds.",
        columns=columns,
        rows=rows,
    )


def depth_table(study: StudyFiles) -> Table:
    """The depth plots in numbers."""
    marks, names = looks(study.plan, []), depth_measures(study)
    means = [(files, name, mean_curve(over_depth(files, name))) for name in names for files in study.runs]
    depths = max((len(curve.xs) for _, _, curve in means), default=0)
    columns = [
        Column(key="measure", heading="Measure"),
        Column(key="label", heading="Run"),
        *[Column(key=f"depth{i}", heading=f"Part {i + 1}", kind="number") for i in range(depths)],
    ]
    rows = []
    for files, name, curve in means:
        if not curve.xs:
            continue
        cells = [Cell(value=None if math.isnan(y) else y) for y in curve.ys]
        run = Cell(text=files.run.label, colour=marks[files.run.name].colour)
        rows.append([Cell(text=measure_name(name)), run, *cells, *[Cell()] * (depths - len(cells))])
    caption = "Measures by depth in the response (Part 1 is the beginning), at the last probed step: means over seeds."
    return Table(name="locality_depth", caption=caption, columns=columns, rows=rows)


def locality_table(study: StudyFiles) -> Table:
    """Every record, as it was written."""
    names = measures(study)
    columns = [
        Column(key="run", heading="Run"),
        Column(key="seed", heading="Seed"),
        Column(key="step", heading="Step", kind="number", decimals=0),
        *[Column(key=name, heading=measure_name(name), kind="number") for name in names],
    ]
    rows = [
        [
            Cell(text=files.run.name),
            Cell(text=str(seed.seed)),
            Cell(value=record.step),
            *[Cell(value=record.values.get(name)) for name in names],
        ]
        for files in study.runs
        for seed in files.seeds
        for record in seed.locality
    ]
    return Table(name="locality", caption="Measures of locality.", columns=columns, rows=rows)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
