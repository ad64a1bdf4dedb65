"""A trajectory as readable text, split where the writer or the supervision changes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from stateshape.core.records import Span, StateSample
from stateshape.core.states import Trajectory
from stateshape.policy.policy import Policy


def state_sample(
    row: Trajectory, policy: Policy, *, step: int | None, supervised: Sequence[bool], reward: float | None = None
) -> StateSample:
    marks = list(zip(row.origins, supervised, strict=True))
    spans, start = [], 0
    for (origin, is_supervised), run in groupby(marks):
        end = start + len(list(run))
        text = policy.tokenizer.decode(row.ids[start:end], skip_special_tokens=False)
        spans.append(Span(origin=origin.name.lower(), text=text, is_supervised=is_supervised))
        start = end
    return StateSample(item_id=row.item_id, step=step, spans=spans, finish=row.finish, reward=reward)
