"""`stateshape methods`: the recipes as the paper's Table 1, and the whole grid of state source x signal."""

from __future__ import annotations

import json
import sys
from typing import Annotated, NamedTuple

import tyro
from rich.table import Table

from stateshape.core.files import plain
from stateshape.core.method import FACTS, SIGNALS, STATES, LossKind, SignalKind, StateKind, nearest_legal, why_illegal
from stateshape.recipes.names import BUILT_IN
from stateshape.recipes.recipe import all_methods, recipe_class


class GridCell(NamedTuple):
    """`reason`: why the cell makes no sense, with the nearest that does; None where it is a method."""

    states: StateKind
    signal: SignalKind
    loss: LossKind
    recipes: list[str]
    reason: str | None


def cells() -> list[GridCell]:
    """Every signal at every state source, with the loss that reads it."""
    made: dict[tuple[StateKind, SignalKind], list[str]] = {}
    for name in BUILT_IN:
        for one in recipe_class(name).compositions:
            made.setdefault((one.states, one.signal), []).append(name)
    return [
        GridCell(
            states,
            signal,
            FACTS[signal].read_by,
            made.get((states, signal), []),
            why_illegal(states, signal, FACTS[signal].read_by),
        )
        for signal in SIGNALS
        for states in STATES
    ]


def methods_table() -> Table:
    table = Table(title="Table 1. Post-training methods by state source, signal and loss", title_justify="left")
    for name in ("method", "states", "signal", "density", "loss", "on-policy", "source"):
        table.add_column(name, overflow="fold")
    for row in all_methods():
        on_policy = "yes" if row.is_on_policy else "no"
        table.add_row(row.method, row.state_source, row.signal, row.density, row.loss, on_policy, row.source)
    return table


def grid_table() -> Table:
    """A row a signal, a column a state source."""
    table = Table(
        title="The grid: what is said (rows) where (columns). '-': a method without a built-in recipe; numbers: why not",
        title_justify="left",
        show_lines=True,
    )
    table.add_column("signal")
    for states in STATES:
        table.add_column(states, overflow="fold")
    notes: list[str] = []
    found = {(cell.signal, cell.states): cell for cell in cells()}
    for signal in SIGNALS:
        shown = []
        for states in STATES:
            cell = found[signal, states]
            if cell.reason is None:
                shown.append(", ".join(cell.recipes) or "-")
                continue
            near = nearest_legal(states, signal, FACTS[signal].read_by)
            note = f"{cell.reason.partition(';')[0]}; use {near[0]} states"
            if note not in notes:
                notes.append(note)
            shown.append(f"({notes.index(note) + 1})")
        table.add_row(f"{signal}\n-> {FACTS[signal].read_by}", *shown)
    table.caption = "\n".join(f"({k + 1}) {note}" for k, note in enumerate(notes))
    table.caption_justify = "left"
    return table


def methods(json_output: Annotated[bool, tyro.conf.arg(name="json")] = False) -> None:
    """The methods by state source, signal and loss (the paper's Table 1), and every cell of the grid or why it is none.

    Args:
        json_output: Print JSON instead of tables.
    """
    from rich.console import Console

    # dropped
    from stateshape.recipes.recipe import all_methods

    if json_output:
        print(json.dumps({"methods": plain(all_methods()), "grid": [cell._asdict() for cell in cells()]}, indent=1))
        return
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(methods_table())
    console.print(grid_table())
