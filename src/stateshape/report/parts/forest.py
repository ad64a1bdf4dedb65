"""The effects that each verdict rests on, as a forest plot: estimate, 95% interval and the threshold it must pass.

Effects of one claim share a scale if they share a test: accuracies, distances and correlations do not compare. An effect
that holds is filled, one that fails is crossed, an open one is hollow. Does not know how a verdict is reached.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from stateshape.core.study_records import Evidence, Verdict
from stateshape.report.drawing import text
from stateshape.report.drawing.figure import Plot, finished, rows_only, whisker, wrapped, write_above
from stateshape.report.drawing.svg import INK, new_figure, plot_style
from stateshape.report.drawing.table import Cell, Column, Table, estimate_cell

_ROW_IN, _LINE_IN, _SCALE_IN = 0.38, 0.11, 0.4  # inches: a row with its label, a second line of it, and a scale
_MAX_LABEL = 60  # characters in a line
DECIDING = ("holds", "fails", "equivalent", "open")
_UNKNOWN = "unknown"  # records of older versions name no state and no threshold
_COLOURS = {
    "holds": "#009E73",
    "fails": "#D55E00",
    "open": "#808080",
    "equivalent": "#CC79A7",
    "shown": "#56B4E9",
    _UNKNOWN: "#0072B2",
}
_MARKERS = {"holds": "o", "fails": "X", "open": "o", "equivalent": "v", "shown": "D", _UNKNOWN: "s"}


CAPTION = (
    "Effects behind the verdicts. Bars: 95% intervals. Dashed line: the threshold an effect must exceed for the claim to hold; "
    "thin line: zero. Filled circle: holds; cross: fails; hollow circle: undecided; triangle: smaller than its margin; "
    "diamond: shown, not used for the verdict; square: state not recorded. Scales differ between claims and between "
    "types of measure within a claim."
)


def forest_plots(verdicts: Sequence[Verdict]) -> list[Plot]:
    """One for each claim that has an effect with a value, in order."""
    return [plot for plot in (_forest_plot(verdict) for verdict in verdicts) if plot is not None]


def _forest_plot(verdict: Verdict) -> Plot | None:
    drawn = _by_test(verdict)
    if not drawn:
        return None
    heights = [_SCALE_IN + (_ROW_IN + _LINE_IN * _has_long(alike)) * len(alike) for alike in drawn]
    with plot_style():
        figure = new_figure(3.6, sum(heights))
        panels = figure.subplots(len(drawn), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, alike in zip(panels, drawn):
            _draw(axes, alike)
    described = "; ".join(f"{e.label}: {_words(e)}" for alike in drawn for e in alike)
    return finished(f"verdict_{verdict.claim_id}", f"{verdict.claim_id}: {verdict.outcome}", "", described, figure)


def _by_test(verdict: Verdict) -> list[list[Evidence]]:
    """Evidence with a value, what was tested alike together."""
    found: dict[str, list[Evidence]] = {}
    for evidence in verdict.evidence:
        if evidence.effect.value is not None:
            found.setdefault(evidence.test, []).append(evidence)
    return list(found.values())


def _has_long(alike: Sequence[Evidence]) -> bool:
    """Whether some label takes two lines."""
    return any(len(evidence.label) > _MAX_LABEL for evidence in alike)


def _draw(axes: Axes, alike: Sequence[Evidence]) -> None:
    rows_only(axes, len(alike))
    for row, evidence in enumerate(alike):
        state = evidence.state or _UNKNOWN
        at, colour = row + 0.2, _COLOURS[state]
        if (ends := whisker(evidence.effect)) is not None:
            axes.plot(ends, [at, at], color=colour, linewidth=1.8, solid_capstyle="butt")
        axes.plot(
            [evidence.effect.value or 0.0], [at], color=colour, marker=_MARKERS[state], markersize=6.5, linestyle="",
            mfc="none" if state == "open" else colour,
        )  # fmt: skip
        axes.plot([0, 0], [row + 0.02, row + 0.38], color=INK, linewidth=0.7, alpha=0.6)
        if state in DECIDING:
            axes.plot(
                [evidence.threshold] * 2, [row - 0.02, row + 0.42], color=INK, linewidth=1.2, linestyle=(0, (2, 1))
            )
        write_above(axes, row - 0.24, wrapped(evidence.label, limit=_MAX_LABEL), size=7.0)
    axes.margins(x=0.06)


def _words(evidence: Evidence) -> str:
    effect = evidence.effect
    ends = text.interval(effect.lo, effect.hi, decimals=4, is_signed=True)
    value = text.number(effect.value, decimals=4, is_signed=True)
    above = f", must be above {text.number(evidence.threshold, decimals=4)}" if evidence.state in DECIDING else ""
    return " ".join(part for part in (value, ends) if part) + above + (f", {evidence.state}" if evidence.state else "")


def evidence_table(verdicts: Sequence[Verdict], *, name: str = "evidence", caption: str) -> Table:
    """One row per number a verdict rests on. Over several claims, columns of words are in the CSV only: it is wide enough."""
    is_one = len(verdicts) == 1
    columns = [
        Column(key="claim", heading="Claim", is_shown=not is_one),
        Column(key="outcome", heading="Outcome", is_shown=False),
        Column(key="label", heading="Effect"),
        Column(key="effect", heading="Estimate", kind="estimate", decimals=4, is_signed=True),
        Column(key="threshold", heading="Must be above", kind="number", decimals=4),
        Column(key="state", heading="State"),
        Column(key="p", heading="p", kind="number", decimals=4),
        Column(key="p_holm", heading="p (Holm)", kind="number", decimals=4),
        Column(key="n_items", heading="Items", kind="number", decimals=0),
        Column(key="n_seeds", heading="Seeds", kind="number", decimals=0),
        Column(key="power", heading="Power", kind="number", decimals=2),
        Column(key="power_effect", heading="Power: effect size", kind="number", decimals=4),
        Column(key="minimal_effect", heading="Smallest detectable effect (80% power)", kind="number", decimals=4),
        Column(key="needs", heading="Needed to decide", is_shown=is_one),
        Column(key="test", heading="Test", is_shown=is_one),
        Column(key="note", heading="Note", is_shown=is_one),
    ]
    rows = [
        [
            Cell(text=verdict.claim_id),
            Cell(text=verdict.outcome),
            Cell(text=e.label),
            estimate_cell(e.effect),
            Cell(value=e.threshold),
            Cell(text=e.state),
            Cell(value=e.p),
            Cell(value=e.p_holm),
            Cell(value=e.effect.n_items),
            Cell(value=e.effect.n_seeds),
            Cell(value=e.power),
            Cell(value=e.power_effect),
            Cell(value=e.minimal_effect),
            Cell(text=e.needs),
            Cell(text=e.test),
            Cell(text=e.effect.note),
        ]
        for verdict in verdicts
        for e in verdict.evidence
    ]
    notes = [
        "In brackets: 95% intervals. p (Holm) is corrected for the number of primary tests. Power: the probability that a "
        "study of this size reaches a decision if the true effect exceeds the threshold by the given effect size."
    ]
    return Table(name=name, caption=caption, columns=columns, rows=rows, notes=notes)
