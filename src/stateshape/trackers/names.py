"""Which trackers there are, and whether they are installed. Loads none of them."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Sequence

from stateshape.core.files import BadInput
from stateshape.core.wording import shown

TRACKERS = ("tensorboard", "trackio", "wandb", "mlflow")
NONE = "none"


def check_trackers(names: Sequence[str]) -> list[str]:
    """The trackers to report to: empty for none. Raises BadInput for a name that is none, and for one not installed."""
    for name in names:
        if name not in (*TRACKERS, NONE):
            near = difflib.get_close_matches(name, TRACKERS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise BadInput(f"report_to: got {shown(name)}; expected {', '.join(TRACKERS)} or {NONE}{hint}")
    if NONE in names and len(names) > 1:
        raise BadInput(f"report_to: got {NONE} among {len(names)}; expected {NONE} alone, or trackers")
    wanted = [name for name in dict.fromkeys(names) if name != NONE]
    for name in wanted:
        if importlib.util.find_spec(name) is None:
            raise BadInput(
                f"report_to: got {name}, which is not installed; expected an installed tracker; pip install {name}"
            )
    return wanted
