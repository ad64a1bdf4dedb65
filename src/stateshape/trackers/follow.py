"""New lines of a run's files, as what a tracker is told: numbers by name at a step, and tables of sampled states.

Names are those that users of trackers know: train/loss, train/learning_rate, eval/<task>/<metric>. Knows no tracker.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

from stateshape.core import layout
from stateshape.core.files import parse
from stateshape.core.records import EvalStep, LocalityRecord, StateSample, StepRecord

T = TypeVar("T")
COLUMNS = ("step", "reward", "state")


class Told(NamedTuple):
    """What happened after `step` completed steps. rows: of the table of sampled states, by COLUMNS."""

    step: int
    values: Mapping[str, float]
    rows: list[list[object]]


class Follower:
    """Reads what was added to a run's files since it looked last; what was there before it is left out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.read_until: dict[str, int] = {}
        for name in (layout.METRICS, layout.LOCALITY, layout.EVAL_STEPS, layout.SAMPLES):
            path = folder / name
            self.read_until[name] = path.stat().st_size if path.exists() else 0

    def news(self) -> list[Told]:
        """In the order of steps."""
        told = [
            *(Told(r.step, eval_values(r), []) for r in self._new(layout.EVAL_STEPS, EvalStep)),
            *(Told(r.step + 1, train_values(r), []) for r in self._new(layout.METRICS, StepRecord)),
            *(Told(r.step, locality_values(r), []) for r in self._new(layout.LOCALITY, LocalityRecord)),
            *(Told(r.step + 1, {}, [row(r)]) for r in self._new(layout.SAMPLES, StateSample) if r.step is not None),
        ]
        return sorted(told, key=lambda one: one.step)

    def _new(self, name: str, kind: type[T]) -> Iterator[T]:
        path = self.folder / name
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self.read_until[name])
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.read_until[name] += len(whole)
        for line in whole.splitlines():
            yield parse(json.loads(line), kind, where=str(path))


def train_values(record: StepRecord) -> dict[str, float]:
    values: dict[str, float | None] = {
        "loss": record.loss,
        "grad_norm": record.grad_norm,
        "learning_rate": record.lr,
        "num_supervised": record.num_supervised,
        "num_rows": record.num_rows,
        **record.stats,
        **{f"origin/{name}": share for name, share in record.origin_shares.items()},
        **{f"seconds/{name}": seconds for name, seconds in record.seconds.items()},
    }
    return {f"train/{name}": value for name, value in values.items() if value is not None}


def eval_values(record: EvalStep) -> dict[str, float]:
    values = {
        f"eval/{task}/{metric}": score
        for task, scores in record.scores.items()
        for metric, score in scores.items()
        if score is not None
    }
    distances = {f"eval/{name}": value for name, value in record.distances.items()}
    return {
        **values,
        **distances,
        "eval/neutral_nats": record.neutral_nats,
        "eval/neutral_change": record.neutral_change,
    }


def locality_values(record: LocalityRecord) -> dict[str, float]:
    return {f"locality/{name}": value for name, value in record.values.items() if value is not None}


def row(sample: StateSample) -> list[object]:
    """The text with the writer of each part: [dataset]...[learner]..., a star where it is supervised."""
    parts = [f"[{span.origin}{'*' if span.is_supervised else ''}]{span.text}" for span in sample.spans]
    return [None if sample.step is None else sample.step + 1, sample.reward, "".join(parts)]
