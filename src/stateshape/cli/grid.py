"""The recipes as the paper's Table 1, the whole grid of state source x signal, and one recipe as a tree. Imports torch."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from typing import NamedTuple

from rich import box
from rich.table import Table
from rich.tree import Tree

from stateshape.core.method import FACTS, SIGNALS, STATES, LossKind, SignalKind, StateKind, nearest_legal, why_illegal
from stateshape.recipes.names import BUILT_IN
from stateshape.recipes.recipe import (
    Diverging,
    LearnerRollouts,
    Recipe,
    Rewarded,
    Taught,
    TeacherText,
    all_methods,
    method_record,
    recipe_class,
)

WIDE = 140  # columns: the longest names side by side


class GridCell(NamedTuple):
    """`reason`: why the combination is invalid, with the nearest valid one; None where it is valid."""

    states: StateKind
    signal: SignalKind
    loss: LossKind
    recipes: list[str]
    reason: str | None


def cells() -> list[GridCell]:
    """Every signal at every state source, with the loss that reads it."""
    recipes_by_cell: dict[tuple[StateKind, SignalKind], list[str]] = {}
    for name in BUILT_IN:
        for one in recipe_class(name).compositions:
            recipes_by_cell.setdefault((one.states, one.signal), []).append(name)
    return [
        GridCell(
            states,
            signal,
            FACTS[signal].read_by,
            recipes_by_cell.get((states, signal), []),
            why_illegal(states, signal, FACTS[signal].read_by),
        )
        for signal in SIGNALS
        for states in STATES
    ]


def methods_table(width: int) -> Table:
    """Table 1. On a narrow terminal, what each method is made of and no more: names are never cut."""
    is_wide = width >= WIDE
    table = Table(
        title="Table 1. Post-training methods by state source, signal and loss",
        title_justify="left",
        box=box.HEAVY_HEAD if is_wide else box.SIMPLE_HEAD,
        padding=(0, 1) if is_wide else (0, 1, 0, 0),
        show_edge=is_wide,
    )
    for name in ("method", "states", "signal", *(["density"] if is_wide else []), "loss"):
        table.add_column(name, no_wrap=name == "method")
    if is_wide:
        table.add_column("on-policy")
        table.add_column("source")
    for row in all_methods():
        made_of = [row.state_source, row.signal, *([row.density] if is_wide else []), row.loss]
        beside = ["yes" if row.is_on_policy else "no", row.source] if is_wide else []
        table.add_row(row.method, *made_of, *beside)
    return table


def summaries_table() -> Table:
    """What each method does, in a sentence."""
    table = Table(title="What they do. One with its settings: stateshape methods NAME", title_justify="left", box=None,
                  pad_edge=False, show_header=False)  # fmt: skip
    table.add_column("method", no_wrap=True)
    table.add_column("summary")
    for row in all_methods():
        table.add_row(row.method, row.summary)
    return table


def grid_table(width: int) -> Table:
    """One row per signal, one column per state source; on a narrow terminal, a mark in place of the recipes' names."""
    is_wide = width >= WIDE
    built_in = "" if is_wide else "'+': valid, see Table 1; "
    table = Table(
        title=f"Every signal (row) on every state source (column). {built_in}'-': valid, no built-in recipe; "
        "numbers: why it is invalid",
        title_justify="left",
        show_lines=is_wide,
        box=box.HEAVY_HEAD if is_wide else box.SIMPLE_HEAD,
        show_edge=is_wide,
    )
    table.add_column("signal", no_wrap=not is_wide)
    for states in STATES:
        table.add_column(states, no_wrap=not is_wide)
    notes: list[str] = []
    cell_at = {(cell.signal, cell.states): cell for cell in cells()}
    for signal in SIGNALS:
        shown = []
        for states in STATES:
            cell = cell_at[signal, states]
            if cell.reason is None:
                shown.append((",\n".join(cell.recipes) if is_wide else "+" * bool(cell.recipes)) or "-")
                continue
            near = nearest_legal(states, signal, FACTS[signal].read_by)
            note = f"{cell.reason.partition(';')[0]}; use {near[0]} states"
            if note not in notes:
                notes.append(note)
            shown.append(f"({notes.index(note) + 1})")
        table.add_row(f"{signal}\n-> {FACTS[signal].read_by}" if is_wide else signal, *shown)
    table.caption = "\n".join(f"({k + 1}) {note}" for k, note in enumerate(notes))
    table.caption_justify = "left"
    return table


def method_tree(name: str) -> Tree:
    """One recipe as states -> signal -> loss, each with the settings that belong to it, their defaults and meaning."""
    recipe = recipe_class(name)
    record = method_record(name, recipe)
    docs = field_docs(recipe)
    homes: dict[type, str] = {
        LearnerRollouts: "states", Taught: "signal", TeacherText: "signal", Rewarded: "signal", Diverging: "loss",
    }  # fmt: skip
    placed: dict[str, list[str]] = {"states": [], "signal": [], "loss": [], "own": []}
    for field in dataclasses.fields(recipe):  # type: ignore[arg-type]
        home = next((part for base, part in homes.items() if field.name in vars(base)["__dataclass_fields__"]
                     and issubclass(recipe, base)), "own")  # fmt: skip
        placed[home].append(f"{field.name} {default_of(field)}  [dim]{docs.get(field.name, '')}[/dim]")
    tree = Tree(f"[bold]{name}[/bold]  {record.summary}\n[dim]{record.source}[/dim]")
    for part, value in (
        ("states", record.state_source),
        ("signal", f"{record.signal}  [dim]{record.density}[/dim]"),
        ("loss", record.loss),
    ):
        branch = tree.add(f"{part}: {value}")
        for line in placed[part]:
            branch.add(line)
    if placed["own"]:
        branch = tree.add("other settings")
        for line in placed["own"]:
            branch.add(line)
    return tree


def default_of(field: dataclasses.Field[object]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"= {field.default}"
    if field.default_factory is not dataclasses.MISSING:
        return f"= {field.default_factory()}"
    return "(required)"


def field_docs(recipe: type[Recipe]) -> dict[str, str]:
    """The text under each field of the class and its bases, on one line."""
    docs: dict[str, str] = {}
    for kind in reversed(recipe.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        assert isinstance(body, ast.ClassDef)
        for node, below in zip(body.body, body.body[1:]):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(below, ast.Expr):
                text = below.value.value if isinstance(below.value, ast.Constant) else None
                if isinstance(text, str):
                    docs[node.target.id] = " ".join(text.split())
    return docs
