"""Progress messages of a long run. The terminal decides how they look; here is only their content."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from stateshape.core.meter import Meter

Tick = Callable[[int, int], None]
"""(done, total)"""


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
        """Something finished, for machines to read."""
        ...

    def stop(self) -> None:
        """The work is over, or broke off: leaves the terminal as it was."""
        ...


class Silent:
    """Tells nothing."""

    def say(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def track(self, what: str, unit: str, meter: Meter | None = None) -> Tick:
        return lambda done, total: None

    def event(self, name: str, values: Mapping[str, object]) -> None: ...

    def stop(self) -> None: ...
