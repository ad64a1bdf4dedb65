"""Flags that several commands share, and their conversion."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from stateshape.core.files import BadInput, check_output, parse
from stateshape.core.wording import MAX_PATH, shown

if TYPE_CHECKING:
    from stateshape.policy.settings import ModelSettings

DATA_VARIABLE = "STATESHAPE_DATA"


def data_folder(flag: str | None) -> Path | None:
    """--data, or the environment's STATESHAPE_DATA; None: read from the hub."""
    chosen = flag or os.environ.get(DATA_VARIABLE)
    if chosen is None:
        return None
    if not os.path.isdir(chosen):  # unlike Path.is_dir, also False for a name that is too long
        raise BadInput(
            f"data: got {shown(chosen, limit=MAX_PATH)}, which is not a folder; expected one that holds "
            "gsm8k/, truthfulqa/, mmlu/"
        )
    return Path(chosen)


def out_folder(name: str) -> Path:
    """--out as a folder that can be written to. Raises BadInput."""
    if not name.strip():
        raise BadInput(f"out: got {name!r}; expected the name of a folder (an unset variable of the shell?)")
    check_output(Path(name))
    return Path(name)


def model_settings_from(device: str, dtype: str) -> ModelSettings:
    from stateshape.policy.settings import ModelSettings

    return parse({"device": device, "dtype": dtype}, ModelSettings, where="command line")
