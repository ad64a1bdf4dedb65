"""Evaluates a run while it trains: scores on a fixed part of each task, distance from the base, loss on a neutral text.

Writes eval_steps.jsonl, and keeps the best adapter where that is asked for. Implements core/watch.py's Watch: it changes
nothing, since what it samples is seeded by itself. How often, and on what: evals/settings.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from stateshape.core import layout
from stateshape.core.files import append_jsonl, drop_cut_off_line, read_jsonl, write_json, write_jsonl
from stateshape.core.records import BestStep, EvalStep
from stateshape.core.seeds import seed_for
from stateshape.core.watch import StepRead, StepUpdate
from stateshape.evals.evaluate import evaluate, summarise
from stateshape.evals.neutral import neutral_nats, neutral_texts
from stateshape.locality.doses import DoseStates, dose_states, doses
from stateshape.policy.policy import Policy
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import SamplingSettings
from stateshape.tasks.task import GenerationTask, Task
from stateshape.train.kept_adapters import keep_adapter

REFERENCE_PROMPTS = 16
REFERENCE_TOKENS = 64


class Reference(NamedTuple):
    """What every evaluation of every run is compared with: made once, of the base."""

    states: DoseStates | None  # None: no distance is asked for
    texts: list[str]
    neutral_nats: float


def reference_of(base: Policy, task: GenerationTask, *, positions: int) -> Reference:
    """The base's rollouts from test prompts of the run's task, and its loss on the neutral text.

    Sampled on this machine, also where servers sample for the run: a run that resumes must find the same states.
    """
    texts = neutral_texts(is_embedded=base.weights.source == "embedded")
    states = None
    if positions:
        prompts, settings = reference_prompts(base, task)
        rows = LocalSampler().sample(base, prompts, settings, seed=seed_for(0, "eval reference"))
        states = dose_states(base, prompts, [row.ids for row in rows], limit=positions, temperature=1.0)
    return Reference(states, texts, neutral_nats(base, texts))


def reference_prompts(base: Policy, task: GenerationTask) -> tuple[list[list[int]], SamplingSettings]:
    """What the base writes on, and how."""
    items = (task.test or task.train)[:REFERENCE_PROMPTS]
    prompts = [base.fitted_prompt(item.asked, behind=REFERENCE_TOKENS) for item in items]
    return prompts, SamplingSettings(max_new_tokens=REFERENCE_TOKENS, stops=task.stops)


class EvalWatch:
    """Of one run. steps: numbers of completed steps at which it is evaluated; kept: those whose adapter stays in any case."""

    phase = "evaluation"

    def __init__(
        self,
        tasks: Sequence[Task],
        reference: Reference,
        *,
        steps: Sequence[int],
        folder: Path,
        best: Task | None = None,
        kept: Collection[int] = (),
    ) -> None:
        self.tasks, self.reference, self.steps, self.folder = tasks, reference, steps, folder
        self.best, self.kept = best, kept

    def resume(self, num_done: int) -> None:
        path = self.folder / layout.EVAL_STEPS
        if path.exists():
            drop_cut_off_line(path)
            records = [record for record in read_jsonl(path, EvalStep) if record.step <= num_done]
            write_jsonl(path, records)
            self._name_best(records)

    def before_update(self, learner: Policy, read: StepRead) -> None:
        self._evaluate(learner, read.step)

    def after_update(self, learner: Policy, read: StepRead, update: StepUpdate) -> None:
        pass

    def finish(self, learner: Policy) -> None:
        self._evaluate(learner, self.steps[-1])

    def _evaluate(self, learner: Policy, step: int) -> None:
        """Adds a line, unless it is there."""
        path = self.folder / layout.EVAL_STEPS
        before = read_jsonl(path, EvalStep) if path.exists() else []
        if step not in self.steps or any(record.step == step for record in before):
            return
        record = eval_step(learner, step, self.tasks, self.reference)
        if self.best is not None:
            self._keep_best(learner, before, record)
        append_jsonl(path, [record])

    def _keep_best(self, learner: Policy, before: Sequence[EvalStep], record: EvalStep) -> None:
        """The new adapter is there before the old one goes."""
        old, new = self._best_of(before), self._best_of([*before, record])
        if new is None or new == old:
            return
        if not layout.kept_checkpoint(self.folder, new.step).exists():
            keep_adapter(self.folder, learner, new.step)
        write_json(self.folder / layout.BEST, new)
        if old is not None and old.step not in self.kept:
            shutil.rmtree(layout.kept_checkpoint(self.folder, old.step), ignore_errors=True)

    def _name_best(self, records: Sequence[EvalStep]) -> None:
        best = self._best_of(records)
        if best is None:
            (self.folder / layout.BEST).unlink(missing_ok=True)
        else:
            write_json(self.folder / layout.BEST, best)

    def _best_of(self, records: Sequence[EvalStep]) -> BestStep | None:
        """The highest score after the first step, the earliest of equals. None: no task is named, or none has a score."""
        if self.best is None:
            return None
        name, metric = self.best.name, self.best.metric
        scored = [(record.scores[name][metric], record.step) for record in records if record.step > 0]
        found = [(score, -step) for score, step in scored if score is not None]
        if not found:
            return None
        score, step = max(found)
        return BestStep(step=-step, task=name, metric=metric, score=score)


def eval_step(policy: Policy, step: int, tasks: Sequence[Task], reference: Reference) -> EvalStep:
    """Evaluates a policy on all of it."""
    scores: dict[str, dict[str, float | None]] = {}
    num_items: dict[str, int] = {}
    for task in tasks:
        rows = evaluate(policy, task)
        num_items[task.name] = len(rows)
        scores[task.name] = {metric: found.value for metric, found in summarise(rows, task.metrics).items()}
    states = reference.states
    nats = neutral_nats(policy, reference.texts)
    return EvalStep(
        step=step,
        scores=scores,
        num_items=num_items,
        distances={} if states is None else doses(policy, states),
        num_states=0 if states is None else len(states.states),
        neutral_nats=nats,
        neutral_change=nats - reference.neutral_nats,
    )
