"""Which numbers lie far outside the others of a plot, so that one of them need not set its axis. Draws nothing.

Far outside: beyond Tukey's outer fence, the quartiles and three times their distance on either side. Of a curve only a spike is
left out, a lone point: a run that is apart from the others, that stays out there or that begins or ends there is what the
plot is to show.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

FENCE, FENCE_FROM = 3.0, 4  # Tukey's outer fence; fewer points have no quartiles worth the name
EDGE = 0.25  # where points beyond the range are drawn, as a share of the others' range


class Span(NamedTuple):
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """False of NaN, a gap."""
        return value < self.low or value > self.high

    def at_edge(self, value: float) -> float:
        """Where the value is drawn: at its place inside, a little beyond the end outside."""
        room = EDGE * (self.high - self.low)
        return self.high + room if value > self.high else self.low - room if value < self.low else value


EVERYTHING = Span(-math.inf, math.inf)


def outer_fence(values: Sequence[float]) -> Span:
    """EVERYTHING where there are too few values, or where half of them are equal."""
    if len(values) < FENCE_FROM:
        return EVERYTHING
    quarter, _, three_quarters = statistics.quantiles(values, n=4, method="inclusive")
    reach = FENCE * (three_quarters - quarter)
    return Span(quarter - reach, three_quarters + reach) if reach > 0 else EVERYTHING


def range_without_spikes(means: Sequence[Sequence[float]], seeds: Sequence[Sequence[float]] = ()) -> Span:
    """What the axis of these curves has to show: all but the spikes, and those spikes that would at most double it.

    A gap in a curve is NaN.
    """
    thick, thin = ([[y for y in curve if not math.isnan(y)] for curve in curves] for curves in (means, seeds))
    values = [y for curve in (*thick, *thin) for y in curve]
    fence = outer_fence(values)
    kept = [y for curve in thick for y in _without_spikes(curve, fence, ends_stay=True)]
    kept += [y for curve in thin for y in _without_spikes(curve, fence, ends_stay=False)]
    length = max(kept) - min(kept)
    near = Span(min(kept) - length, max(kept) + length)
    shown = [y for y in values if not near.excludes(y)]
    return Span(min(shown), max(shown))


def _without_spikes(curve: Sequence[float], fence: Span, *, ends_stay: bool) -> list[float]:
    """A spike is beyond the fence, at least twice as far as the points before and after it."""
    beyond = [max(fence.low - y, y - fence.high, 0.0) for y in curve]
    beside = [max(beyond[max(0, i - 1) : i] + beyond[i + 1 : i + 2], default=math.inf) for i in range(len(curve))]
    is_end = [ends_stay and i in (0, len(curve) - 1) for i in range(len(curve))]
    return [y for y, own, other, stays in zip(curve, beyond, beside, is_end) if stays or own == 0 or own < 2 * other]
