"""What predicts forgetting: R^2 on held-out runs by set of predictors, as a plot and as tables.

Does not know how a prediction is made.
"""

from __future__ import annotations

from stateshape.core.study_records import HeldoutScore, PredictorReport
from stateshape.report.drawing import text
from stateshape.report.drawing.figure import Plot, finished, rows_only, short, whisker, write_above
from stateshape.report.drawing.svg import INK, new_figure, plot_style
from stateshape.report.drawing.table import Cell, Column, Table, estimate_cell

_LOWEST = -1.0  # further down is drawn at the edge: worse than the mean is all that matters there
_LOOKS = {"configuration": ("#0072B2", "o"), "run": ("#E69F00", "D")}


def predictor_plot(report: PredictorReport) -> Plot | None:
    known = [score for score in report.scores if score.r2.value is not None]
    if not known:
        return None
    names = list(dict.fromkeys(score.name for score in known))
    with plot_style():
        figure = new_figure(4.4, 0.6 + 0.5 * len(names))
        axes = figure.add_subplot()
        rows_only(axes, len(names))
        for row, name in enumerate(names):
            write_above(axes, row - 0.3, short(name, limit=60))
            for place, score in enumerate(score for score in known if score.name == name):
                colour, marker = _LOOKS[score.by]
                at = row + 0.22 * place
                if (ends := whisker(score.r2)) is not None and ends[1] > _LOWEST:
                    axes.plot([max(end, _LOWEST) for end in ends], [at, at], color=colour, linewidth=1.6)
                value = score.r2.value or 0.0
                is_below = value < _LOWEST
                filled = "none" if is_below else colour
                axes.plot(
                    [max(value, _LOWEST)], [at], color=colour, marker=marker, markersize=5.5, linestyle="", mfc=filled
                )
                if is_below:
                    axes.annotate(f"← {text.number(value, decimals=1)}", (_LOWEST, at), xytext=(8, 0),
                                  textcoords="offset points", fontsize=7, va="center")  # fmt: skip
        axes.axvline(0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set_xlim(_LOWEST - 0.08, 1.05)
        axes.set_xlabel("R² on held-out runs", fontsize=8)
    caption = (
        "1: forgetting is predicted exactly; 0 (dashed): no better than the mean of the other runs. Circle: all seeds of a "
        "configuration held out together; diamond: one run held out at a time, which is easier. Bars: 95% intervals."
    )
    described = "; ".join(f"{s.name}, by {s.by}: {_words(s)}" for s in known)
    return finished("predictors", "What predicts forgetting", caption, described, figure)


def _words(score: HeldoutScore) -> str:
    ends = text.interval(score.r2.lo, score.r2.hi, is_signed=True)
    return f"{text.number(score.r2.value, is_signed=True)} {ends}".strip()


def score_table(report: PredictorReport) -> Table:
    columns = [
        Column(key="name", heading="Predictors"),
        Column(key="predictors", heading="Predictor names", is_shown=False),
        Column(key="by", heading="Held out"),
        Column(key="r2", heading="R²", kind="estimate", is_signed=True),
        Column(key="p", heading="p", kind="number"),
        Column(key="num_left_out", heading="Runs with a missing predictor", kind="number", decimals=0),
        Column(key="note", heading="Note"),
    ]
    rows = [
        [
            Cell(text=s.name),
            Cell(text=" ".join(s.predictors)),
            Cell(text=s.by),
            estimate_cell(s.r2),
            Cell(value=s.p),
            Cell(value=s.num_left_out),
            Cell(text=s.r2.note),
        ]
        for s in report.scores
    ]
    notes = ["In brackets: 95% intervals.", *report.notes]
    return Table(
        name="predictors",
        caption="R² of predicted forgetting on held-out runs.",
        columns=columns,
        rows=rows,
        notes=notes,
    )


def gain_table(report: PredictorReport) -> Table:
    columns = [
        Column(key="name", heading="Predictors"),
        Column(key="versus", heading="Minus"),
        Column(key="by", heading="Held out"),
        Column(key="difference", heading="Δ R²", kind="estimate", is_signed=True),
        Column(key="note", heading="Note"),
    ]
    rows = [
        [
            Cell(text=g.name),
            Cell(text=g.versus),
            Cell(text=g.by),
            estimate_cell(g.difference),
            Cell(text=g.difference.note),
        ]
        for g in report.gains
    ]
    return Table(
        name="predictor_gains", caption="Added predictive value of one set over another.", columns=columns, rows=rows
    )


def correlation_table(report: PredictorReport) -> Table:
    columns = [
        Column(key="predictor", heading="Predictor"),
        Column(key="kind", heading="Correlation"),
        Column(key="value", heading="Value", kind="estimate", is_signed=True),
        Column(key="p", heading="p", kind="number"),
        Column(key="note", heading="Note"),
    ]
    rows = [
        [Cell(text=c.predictor), Cell(text=c.kind), estimate_cell(c.value), Cell(value=c.p), Cell(text=c.value.note)]
        for c in report.correlations
    ]
    caption = "Correlation of single predictors with forgetting."
    return Table(name="predictor_correlations", caption=caption, columns=columns, rows=rows)
