"""`stateshape methods`: every method and every combination of state source and signal, or one method as a tree."""

from __future__ import annotations

import json
from typing import Annotated

import tyro


def methods(
    name: tyro.conf.Positional[str | None] = None,
    *,
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """List the methods by state source, signal and loss (the paper's Table 1), what each does, then every combination of
    state source and signal, and why some are invalid.

    Args:
        name: Show one method as a tree with its settings: a name from the list, package.module:Class or file.py:Class.
        json_output: Print JSON instead of tables.
    """
    from stateshape.cli.grid import cells, grid_table, method_tree, methods_table, summaries_table
    from stateshape.cli.show import console
    from stateshape.core.files import plain
    from stateshape.recipes.recipe import all_methods, method_record, recipe_class

    if name is not None:
        if json_output:
            print(json.dumps(plain(method_record(name, recipe_class(name))), indent=1))
        else:
            console().print(method_tree(name), highlight=False)
        return
    if json_output:
        print(json.dumps({"methods": plain(all_methods()), "grid": [cell._asdict() for cell in cells()]}, indent=1))
        return
    out = console()
    out.print(methods_table(out.width))
    out.print()
    out.print(summaries_table())
    out.print()
    out.print(grid_table(out.width))
