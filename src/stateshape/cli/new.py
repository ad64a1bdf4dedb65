"""`stateshape new`: a commented file to start from: a study, a recipe of your own, or rows of your own."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal

import tyro

from stateshape.cli.schema import schema_text
from stateshape.core.files import BadInput, write_text

Kind = Literal["study", "recipe", "task"]
NEXT = {
    "study": "stateshape study {0} --dry-run",
    "recipe": "stateshape train {0}:Mine --help",
    "task": "stateshape data {0}",
}
ENDINGS = {"study": ".yaml", "recipe": ".py", "task": ".jsonl"}
SCHEMA = "study.schema.json"  # what the starting file's first line names, for editors


def new(kind: tyro.conf.Positional[Kind], name: tyro.conf.Positional[str]) -> None:
    """Write a commented starting file, and say what to do with it. Beside a study: its schema, for editors.

    Args:
        kind: study (a YAML file), recipe (a Python file with a method of your own), or task (rows of your own as JSON Lines).
        name: The file to write; its ending may be left out.
    """
    ending = ENDINGS[kind]
    path = Path(name if name.endswith(ending) else f"{name}{ending}")
    if path.exists():
        raise BadInput(f"name: {path} exists; expected a new file; choose another name")
    if not path.parent.is_dir():
        raise BadInput(f"name: {path.parent} is not a folder; expected one; create it first")
    text = (files("stateshape.cli") / "starters" / f"{kind}{ending}").read_text(encoding="utf-8")
    write_text(path, text.replace("THIS_FILE", str(path)))
    if kind == "study" and not (path.parent / SCHEMA).exists():
        write_text(path.parent / SCHEMA, schema_text() + "\n")
        print(f"wrote {path.parent / SCHEMA}, with which an editor completes and checks study files")
    print(f"wrote {path}; next: {NEXT[kind].format(path)}")
