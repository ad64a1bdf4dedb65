"""Tells experiment trackers how a run is doing, through accelerate's tracker classes.

A tracker that fails is named once and dropped: it never stops a run. What each is told comes from follow.py. Where they write:
TensorBoard into the run's folder; trackio, Weights & Biases and MLflow where their own settings say (TRACKIO_DIR,
WANDB_MODE=offline, MLFLOW_TRACKING_URI, ...). WANDB_PROJECT, TRACKIO_PROJECT and MLFLOW_EXPERIMENT_NAME name the project.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stateshape.core.ranks import current
from stateshape.trackers.follow import COLUMNS, Follower, Told

TENSORBOARD = "tensorboard"  # the folder of its event files, in the run's
TABLE = "states"
MAX_ROWS = 200  # of the table of states: it is logged whole each time
Say = Callable[[str], None]


class Trackers:
    """Of one run, open: `update` tells them what is new in the run's folder."""

    def __init__(self, opened: Mapping[str, Any], folder: Path, say: Say) -> None:
        self.opened, self.follower, self.say = dict(opened), Follower(folder), say
        self.rows: list[list[object]] = []

    def update(self) -> None:
        if not self.opened:
            return
        for told in self.follower.news():
            self.rows = [*self.rows, *told.rows][-MAX_ROWS:]
            self._each(lambda name, tracker, told=told: tell(name, tracker, told, self.rows))  # type: ignore[misc]

    def close(self) -> None:
        self.update()
        self._each(lambda name, tracker: tracker.finish())

    def _each(self, do: Callable[[str, Any], None]) -> None:
        for name, tracker in list(self.opened.items()):
            with self._dropped_if_it_fails(name):
                do(name, tracker)

    @contextlib.contextmanager
    def _dropped_if_it_fails(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is: a run is worth more than its curve
            self.opened.pop(name, None)
            self.say(failed(name, error))


def failed(name: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
    return f"{name}: reporting has stopped ({reason[0][:160]}); the run goes on, and its files hold everything"


@contextlib.contextmanager
def reporting(
    names: Sequence[str], folder: Path, *, project: str, run: str, settings: Mapping[str, object], say: Say
) -> Iterator[Trackers]:
    """The trackers of one run, of the first rank alone. settings: its configuration, shown beside the curves."""
    opened = {}
    for name in names if current().is_first else ():
        try:
            tracker = new_tracker(name, folder, project=project, run=run)
            tracker.start()
            tracker.store_init_configuration(flat(settings))
            opened[name] = tracker
        except Exception as error:
            say(failed(name, error))
    trackers = Trackers(opened, folder, say)
    try:
        yield trackers
    finally:
        trackers.close()


def new_tracker(name: str, folder: Path, *, project: str, run: str) -> Any:
    """Not started. The same run of the same folder goes on where its tracker can do that."""
    from accelerate import tracking

    if name == "tensorboard":
        return tracking.TensorBoardTracker(TENSORBOARD, logging_dir=folder)
    if name == "trackio":
        return tracking.TrackioTracker(os.environ.get("TRACKIO_PROJECT", project), name=run, resume="allow")
    if name == "wandb":
        return tracking.WandBTracker(os.environ.get("WANDB_PROJECT", project), name=run, dir=str(folder))
    return tracking.MLflowTracker(project, run_name=run)


def tell(name: str, tracker: Any, told: Told, rows: Sequence[Sequence[object]]) -> None:
    if told.values:
        tracker.log(dict(told.values), step=told.step)
    if told.rows:
        TABLES[name](tracker, told.step, rows)


def flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, bool | str | float | int]:
    """Nested settings with dotted names; what is no number or text is written out."""
    found: dict[str, bool | str | float | int] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value if isinstance(value, bool | str | float | int) else str(value)
    return found


def _text_table(tracker: Any, step: int, rows: Sequence[Sequence[object]]) -> None:
    tracker.writer.add_text(TABLE, "\n\n".join(" | ".join(str(cell) for cell in row) for row in rows[-1:]), step)


def _trackio_table(tracker: Any, step: int, rows: Sequence[Sequence[object]]) -> None:
    import pandas
    import trackio

    tracker.log({TABLE: trackio.Table(dataframe=pandas.DataFrame(rows, columns=list(COLUMNS)))}, step=step)


def _wandb_table(tracker: Any, step: int, rows: Sequence[Sequence[object]]) -> None:
    tracker.log_table(TABLE, columns=list(COLUMNS), data=[list(row) for row in rows], step=step)


def _mlflow_table(tracker: Any, step: int, rows: Sequence[Sequence[object]]) -> None:
    import mlflow

    mlflow.log_text("\n".join(" | ".join(str(cell) for cell in row) for row in rows[-1:]), f"{TABLE}/step{step}.txt")


TABLES = {"tensorboard": _text_table, "trackio": _trackio_table, "wandb": _wandb_table, "mlflow": _mlflow_table}
