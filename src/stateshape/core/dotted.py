"""A user's own part by name: `package.module:Name`, or `path/to/file.py:Name` for a file outside any package."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from stateshape.core.files import BadInput
from stateshape.core.wording import MAX_PATH, one_line, shown


def load_object(path: str, *, what: str) -> Any:
    """What the path names. `what` is the field it was given for. Raises BadInput if it can't be imported."""
    module_name, _, name = path.rpartition(":")
    try:
        target: Any = module_of(module_name)
        for part in name.split("."):
            target = getattr(target, part)
    except (Exception, SystemExit) as error:  # a user's module may raise anything while it is imported
        reason = one_line(f"{type(error).__name__}: {error}", limit=200)
        raise BadInput(
            f"{what}: got {shown(path, limit=MAX_PATH)}, which can't be imported ({reason}); expected "
            "package.module:Name or file.py:Name"
        ) from None
    return target


def module_of(name: str) -> ModuleType:
    """A module by its import name or by its file; a file is run once a process."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    file = Path(name).resolve()
    known = f"stateshape_user_{file.stem}_{abs(hash(str(file)))}"
    if known in sys.modules:
        return sys.modules[known]
    spec = importlib.util.spec_from_file_location(known, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[known]
        raise
    return module
