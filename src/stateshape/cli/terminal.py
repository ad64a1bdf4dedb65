"""Progress of long work: in a terminal bars with rate and ETA, and below them how far the study is; or JSON lines.

Everything but results goes to stderr, so that stdout can be piped. Knows nothing about the work itself.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from stateshape.cli.processes import is_first
from stateshape.core.progress import Reporter, Silent, Tick
from stateshape.core.wording import duration

if TYPE_CHECKING:
    from stateshape.core.meter import Meter

SHOW_AFTER_S = 2.0  # shorter work needs no bar
BAR_WIDTH = 10


class RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        rate = task.fields["tokens"]() or ("" if speed is None else f"{speed:,.1f} {task.fields['unit']}/s")
        return Text(rate, style="cyan", overflow="ellipsis", no_wrap=True)


def token_rate(meter: Meter | None) -> Callable[[], str]:
    """Reports tokens per second through the models, from now on; empty where none were counted."""
    first, began = meter.num_tokens if meter else 0, time.monotonic()

    def told() -> str:
        done = meter.num_tokens - first if meter else 0
        return f"{done / (time.monotonic() - began):,.0f} tokens/s" if done else ""

    return told


def values_in_words(values: Mapping[str, float] | None) -> str:
    """'loss 0.31, reward 0.22'."""
    return ", ".join(f"{heading} {value:.3g}" for heading, value in (values or {}).items())


class StudyLine:
    """'run 3 of 7, about 18 min left', counted down between what the study reports."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self.values, self.told_at = values, time.monotonic()

    def __str__(self) -> str:
        running, left = self.values["running"], self.values["seconds_left"]
        assert isinstance(running, list)
        place = (
            f"run {self.values['number']} of {self.values['of']}" if len(running) < 2 else f"now {', '.join(running)}"
        )
        if not isinstance(left, float):
            return place
        left -= time.monotonic() - self.told_at
        return f"{place}; study: {'less than a minute' if left < 60 else f'about {duration(left)}'} left"


class Bars(Progress):
    """Rich's, with the study's line below."""

    study: StudyLine | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.study is not None:
            yield Text(f"  {self.study}", style="dim", overflow="ellipsis", no_wrap=True)


class Terminal:
    """Bars and lines on stderr."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.progress: Bars | None = None
        self.study: StudyLine | None = None

    def say(self, text: str) -> None:
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", markup=False, style="yellow", soft_wrap=True)

    def event(self, name: str, values: Mapping[str, object]) -> None:
        if name == "pace":
            self.study = StudyLine(values)
            if self.progress is not None:
                self.progress.study = self.study

    def track(self, what: str, unit: str, meter: Meter | None = None) -> Tick:
        began = time.monotonic()
        tokens = token_rate(meter)
        shown: list[tuple[Progress, object]] = []

        def tick(done: int, total: int, values: Mapping[str, float] | None = None, /) -> None:
            is_long = done == 0 or time.monotonic() - began > SHOW_AFTER_S  # what reports before it begins is long
            if not shown and self.console.is_terminal and is_long and done < total:
                shown.append(self._bar(what, unit, tokens, done, total))
            if shown:
                bar, task = shown[0]
                bar.update(task, completed=done, values=values_in_words(values))  # type: ignore[arg-type]
            if done >= total:
                if shown:
                    shown[0][0].stop()
                seconds = time.monotonic() - began
                if seconds > SHOW_AFTER_S:
                    said = [f"  {what}: {total:,} {unit} in {seconds:.1f} s", tokens(), values_in_words(values)]
                    self.say(", ".join(filter(None, said)))

        return tick

    def _bar(self, what: str, unit: str, tokens: Callable[[], str], done: int, total: int) -> tuple[Progress, object]:
        self.stop()
        self.progress = Bars(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=BAR_WIDTH),
            MofNCompleteColumn(),
            RateColumn(),
            TextColumn("{task.fields[values]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
        )
        self.progress.study = self.study
        self.progress.start()
        return self.progress, self.progress.add_task(
            what, total=total, completed=done, unit=unit, tokens=tokens, values=""
        )

    def stop(self) -> None:
        """Takes a bar that was left behind (an error, Ctrl-C) off the screen."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


class JsonLines:
    """One JSON object per line on stderr, for other programs: one per step, and one for whatever is done."""

    def say(self, text: str) -> None:
        self._write({"event": "say", "text": text})

    def warn(self, text: str) -> None:
        self._write({"event": "warning", "text": text})

    def event(self, name: str, values: Mapping[str, object]) -> None:
        self._write({"event": name, **values})

    def track(self, what: str, unit: str, meter: Meter | None = None) -> Tick:
        began, first = time.monotonic(), meter.num_tokens if meter else 0

        def tick(done: int, total: int, values: Mapping[str, float] | None = None, /) -> None:
            if values:
                self._write({"event": "step", "what": what, "done": done, "total": total, **values})
            if done >= total:
                seconds = round(time.monotonic() - began, 3)
                done_record = {"event": "done", "what": what, "unit": unit, "total": total, "seconds": seconds}
                self._write(done_record | ({"tokens": meter.num_tokens - first} if meter else {}))

        return tick

    def stop(self) -> None: ...

    def _write(self, record: Mapping[str, object]) -> None:
        print(json.dumps(record), file=sys.stderr, flush=True)


class Quiet(Silent):
    """Prints warnings only."""

    def warn(self, text: str) -> None:
        print(f"warning: {text}", file=sys.stderr)


def reporter_for(*, quiet: bool, json_events: bool) -> Reporter:
    if not is_first():
        return Silent()
    if json_events:
        return JsonLines()
    return Quiet() if quiet else Terminal()
