"""When a row ends: an end-of-text id, a chat template's end of turn, or a stop text in its completion. Knows nothing of "
"batches."""

from __future__ import annotations

from collections.abc import Sequence

from stateshape.core.chat import END_OF_TURN
from stateshape.policy.policy import Policy
from stateshape.sampling.settings import Completion, Finish

TAIL_TOKENS = 16  # how far back a stop text may begin, at least


class StopWatch:
    """Text is decoded only when the last token could complete a stop text, which is rare."""

    def __init__(self, policy: Policy, stops: tuple[str, ...]) -> None:
        is_chat = END_OF_TURN in stops
        self.policy = policy
        self.stops = stops = tuple(stop for stop in stops if stop != END_OF_TURN)
        self.tail_tokens = max(TAIL_TOKENS, *(len(stop.encode()) + 1 for stop in stops)) if stops else TAIL_TOKENS
        self.eos_ids = frozenset((*policy.eos_ids, *(policy.turn_ends if is_chat else ())))
        self.last_characters = frozenset(stop[-1] for stop in stops)
        self._may_complete: dict[int, bool] = {}

    def ending(self, ids: Sequence[int]) -> Finish | None:
        """Why a row ends with its last token, or None. `ids`: all new tokens of the row."""
        token = ids[-1]
        if token in self.eos_ids:
            return "eos"
        if not self.stops:
            return None
        if token not in self._may_complete:
            text = self.policy.decode([token])
            # U+FFFD: an incomplete character, which may end a stop text
            self._may_complete[token] = "\ufffd" in text or any(c in text for c in self.last_characters)
        if self._may_complete[token]:
            tail = self.policy.decode(ids[-self.tail_tokens :])
            if any(stop in tail for stop in self.stops):
                return "stop"
        return None


def ended_across(watch: StopWatch, before: Sequence[int], part: Completion) -> Completion:
    """The completion, cut where it completes a stop text that began earlier in the response, before its sampler started."""
    tail = list(before[-watch.tail_tokens :])
    for n in range(1, min(len(part.ids), watch.tail_tokens) + 1) if tail else ():
        if watch.ending([*tail, *part.ids[:n]]) == "stop":
            return Completion(part.ids[:n], part.logps[:n], "stop")
    return part
