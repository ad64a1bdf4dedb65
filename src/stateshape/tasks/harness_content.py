"""A checksum of what a task of lm-evaluation-harness is: the same wherever it lies, another for other definitions or documents.

Does not import the harness.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from stateshape.core.files import sha256_text
from stateshape.tasks.harness import HarnessOptions

if TYPE_CHECKING:
    from stateshape.tasks.harness_items import Found

PLACES = ("dataset_path", "dataset_name", "dataset_kwargs")  # of a definition: the documents themselves are compared


def digest(found: Sequence[Found], options: HarnessOptions) -> str:
    """Of the definitions, of all documents that are evaluated, shown or trained on, and of how prompts are written."""
    parts: list[Any] = [dataclasses.asdict(dataclasses.replace(options, metric=None))]
    for one in found:
        config = {key: value for key, value in vars(one.task.config).items() if key not in PLACES}
        config["metadata"] = {"version": str(one.task.VERSION)}
        splits = {"test": one.documents, "training": one.training}
        splits["examples"] = getattr(getattr(one.task, "sampler", None), "df", None) or []
        digests = {split: sha256_text(json.dumps([plain(row) for row in rows])) for split, rows in splits.items()}
        parts.append([plain(config), digests])
    return sha256_text(json.dumps(parts, sort_keys=True))


def plain(value: Any) -> Any:
    """JSON-ready, and the same in every process: a function is its source."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(vars(value))
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, partial):
        return [plain(value.func), plain(value.args), plain(value.keywords)]
    return _source(value) if callable(value) else type(value).__name__


def _source(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (TypeError, OSError):
        return str(getattr(function, "__qualname__", type(function).__name__))
