"""Progress messages of a long run. The terminal decides how they look; here is only their content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from stateshape.core.meter import Meter


class Tick(Protocol):
    def __call__(self, done: int, total: int, values: Mapping[str, float] | None = None, /) -> None:
        """values: the latest numbers of the work, by heading."""
        ...


class Reporter(Protocol):
    def say(self, text: str) -> None:
        """One line."""
        ...

    def warn(self, text: str) -> None:
        """One line about what was done and is not as it should be."""
        ...

    def track(self, what: str, unit: str, meter: Meter | None = None) -> Tick:
        """A progress bar; the tick with done == total ends it. With a meter it also shows tokens per second."""
        ...

    def event(self, name: str, values: Mapping[str, object]) -> None:
        """Something finished, for machines to read; "pace": how far a study is (study/pace.py)."""
        ...

    def stop(self) -> None:
        """The work is over, or broke off: leaves the terminal as it was."""
        ...


class Silent:
    """Tells nothing."""

    def say(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def track(self, what: str, unit: str, meter: Meter | None = None) -> Tick:
        return _nothing

    def event(self, name: str, values: Mapping[str, object]) -> None: ...

    def stop(self) -> None: ...


def _nothing(done: int, total: int, values: Mapping[str, float] | None = None, /) -> None: ...
