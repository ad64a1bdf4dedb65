"""Where and what: the states of a step and the signals at them, by term. Some are made for several steps at once.

A step of a few prompts has too few rows to keep a machine busy. What the learner has no part in (a teacher's own samples, its
continuations of the dataset's prefixes) needs no learner of this step, so the steps to come are sampled with it. They
get what they would have got alone, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from stateshape.core.method import Draw, DrawnAhead, Method, ReadAhead, Term
from stateshape.core.seeds import seed_for
from stateshape.core.signals import Signal
from stateshape.core.states import States
from stateshape.policy.policy import Policy

DrawAt = Callable[[int], Draw]


class Drawn(NamedTuple):
    """A term's states, and its share of the step's prompts."""

    states: States
    draw: Draw


@dataclass(slots=True)
class Batch:
    """Steps of one term that are made together."""

    drawn: dict[int, Drawn]
    signals: dict[int, Signal] | None = None  # read when the first of them is asked for


class Ahead:
    """The batches of one run. Steps 0 to n - 1 are made together, then n to 2n - 1, and so on, wherever a run resumes.

    draw_at: the run's prompts in a step. num_prompts: how many these are, of all terms together.
    """

    def __init__(self, draw_at: DrawAt, *, num_prompts: int) -> None:
        self._draw_at, self._num_prompts = draw_at, num_prompts
        self._batches: dict[str, Batch] = {}

    def states(self, name: str, term: Term, learner: Policy, own: Draw) -> States:
        """What the term's source draws. own: the term's share of the step."""
        source = term.method.states
        size = steps_together(term.method, num_prompts=self._num_prompts)
        if size == 1 or not isinstance(source, DrawnAhead):
            return source.draw(learner, own)
        batch = self._batches.get(name)
        if batch is None or own.step not in batch.drawn:
            first = own.step // size * size
            shares = (
                own_draw(name, term, self._draw_at(step)) for step in range(first, min(first + size, own.num_steps))
            )
            draws = [share for share in shares if share is not None]
            states = source.draw_several(learner, draws)
            batch = Batch({draw.step: Drawn(one, draw) for draw, one in zip(draws, states, strict=True)})
            self._batches[name] = batch
        return batch.drawn[own.step].states

    def signal(self, name: str, term: Term, learner: Policy, drawn: Drawn) -> Signal:
        """What the term's signal says there."""
        signal, step = term.method.signal, drawn.draw.step
        batch = self._batches.get(name)
        is_of_batch = batch is not None and step in batch.drawn and batch.drawn[step].states is drawn.states
        if batch is None or not is_of_batch or not isinstance(signal, ReadAhead) or not signal.steps_ahead(1):
            return signal.read(learner, *drawn)
        if batch.signals is None:
            states, draws = zip(*batch.drawn.values(), strict=True)
            batch.signals = dict(zip(batch.drawn, signal.read_several(learner, states, draws), strict=True))
        return batch.signals[step]


def steps_together(method: Method, *, num_prompts: int) -> int:
    """How many steps of so many prompts are best made together: one where the learner has a part in the states."""
    states, signal = method.states, method.signal
    drawn = states.steps_ahead(num_prompts) if isinstance(states, DrawnAhead) else 0
    if drawn == 0:
        return 1
    return max(drawn, signal.steps_ahead(num_prompts) if isinstance(signal, ReadAhead) else 0)


def own_draw(name: str, term: Term, draw: Draw) -> Draw | None:
    """The term's share of a step, with a seed of its own; None where no prompt of the step is the term's."""
    if term.takes is None:
        return draw
    ids = tuple(item_id for item_id in draw.item_ids if term.takes(item_id))
    return draw._replace(item_ids=ids, seed=seed_for(draw.seed, f"term {name}")) if ids else None


@torch.no_grad()
def draw_states(terms: Mapping[str, Term], learner: Policy, draw: Draw, ahead: Ahead | None = None) -> dict[str, Drawn]:
    """Where. A term none of whose prompts are in the draw has no states.

    Terms that take prompts of their own have chance of their own; those that share a source and its prompts share the states.
    """
    by_source: dict[tuple[int, tuple[str, ...]], States] = {}
    drawn: dict[str, Drawn] = {}
    for name, term in terms.items():
        own = own_draw(name, term, draw)
        if own is None:
            continue
        key = (id(term.method.states), own.item_ids)
        if key not in by_source:
            by_source[key] = (
                term.method.states.draw(learner, own) if ahead is None else ahead.states(name, term, learner, own)
            )
        drawn[name] = Drawn(by_source[key], own)
    return drawn


@torch.no_grad()
def read_signals(
    terms: Mapping[str, Term], learner: Policy, drawn: Mapping[str, Drawn], ahead: Ahead | None = None
) -> dict[str, Signal]:
    """What is said there, by term."""
    return {
        name: terms[name].method.signal.read(learner, *one)
        if ahead is None
        else ahead.signal(name, terms[name], learner, one)
        for name, one in drawn.items()
    }
