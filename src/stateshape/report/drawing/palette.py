"""One fixed colour, marker and dash per run, in every plot and table of a report.

Colours: Okabe & Ito (2008), safe for the common colour-vision deficiencies, without their yellow and black, which
vanish on white and on dark pages; two more hues for large studies. The base is always grey. Colours repeat after nine
runs and markers after eight, so a pair repeats only after 72. Does not know what the runs are.
"""

from __future__ import annotations

from typing import NamedTuple

from stateshape.core.study_records import PlanRecord

BASE_COLOUR = "#808080"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#A6761D", "#E7298A")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")


class Look(NamedTuple):
    colour: str
    marker: str


def looks(plan: PlanRecord, extra_runs: list[str]) -> dict[str, Look]:
    """By run name. A run keeps its look when others are missing, since it follows from the plan's order."""
    names = [run.name for run in plan.runs if run.name != "base"]
    names += [name for name in extra_runs if name not in names and name != "base"]
    by_run = {name: Look(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)}
    return {"base": Look(BASE_COLOUR, "*"), **by_run}
