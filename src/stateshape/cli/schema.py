"""`stateshape schema`: the JSON Schema of study files, with which an editor completes and checks them."""

from __future__ import annotations

import json


def schema() -> None:
    """Print the JSON Schema of study files, for editors that complete and check YAML (docs/studies.md)."""
    print(schema_text())


def schema_text() -> str:
    from stateshape.study.schema import study_schema

    return json.dumps(study_schema(), indent=1)
