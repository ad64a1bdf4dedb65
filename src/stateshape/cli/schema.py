"""`stateshape schema`: the JSON Schema of study files, with which an editor completes and checks them."""

from __future__ import annotations

import json
from pathlib import Path

from stateshape.core.files import check_path, write_text


def schema(*, out: str | None = None) -> None:
    """Write the JSON Schema of study files, for editors that complete and check YAML (docs/studies.md).

    Args:
        out: The file to write; one that is there is replaced. Default: it is printed.
    """
    if out is None:
        print(schema_text())
        return
    check_path(Path(out), where="out")
    write_text(Path(out), schema_text() + "\n")
    print(f"wrote {out}; name it on the first line of a study file: # yaml-language-server: $schema={out}")


def schema_text() -> str:
    from stateshape.study.schema import study_schema

    return json.dumps(study_schema(), indent=1)
