"""Watches one training from outside: evaluates it, measures how far it is from its base, and where its supervision lands.

Writes what a run of our own writes (docs/guides/watch.md): eval_steps.jsonl, locality.jsonl, supervision.json, and at the end
the trained adapter or model. Once it has begun it never stops the training: whatever goes wrong is said once, and the watch is
off from there on. Knows no trainer; callback.py tells it of transformers'.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch

from stateshape.core import layout
from stateshape.core.files import BadInput, append_jsonl, drop_cut_off_line, read_jsonl, write_json, write_jsonl
from stateshape.core.records import EvalStep, LocalityRecord
from stateshape.core.wording import one_line
from stateshape.locality.counts import StepCounts, kept, step_counts
from stateshape.locality.doses import UPDATE_NORM
from stateshape.locality.recoverability import GradeCounts
from stateshape.locality.supervision import Tally
from stateshape.study.eval_watch import eval_step, reference_of, reference_prompts
from stateshape.trackers.follow import eval_values, locality_values
from stateshape.trainers.batches import read_batch
from stateshape.trainers.choices import Watched, check_new, watched
from stateshape.trainers.landing import Landing, landing_of
from stateshape.trainers.live import Live
from stateshape.trainers.reading import reading
from stateshape.trainers.saved import save
from stateshape.trainers.visited import REVERSE_KL, visited

LOGGER = logging.getLogger(__name__)
Values = dict[str, float]


def watch_training(
    model: Any,
    tokenizer: Any,
    *,
    task: str,
    out: str | Path,
    num_steps: int,
    retention: Sequence[str] = (),
    every: float = 0.1,
    limit: int = 64,
    positions: int = 512,
    data_dir: str | Path | None = None,
    num_done: int = 0,
    autocast: torch.dtype | None = None,
) -> TrainingWatch:
    """Begins to watch a model that a loop of your own trains, and evaluates it as it is now.

    Args:
        model: a causal language model of transformers, or one with adapters of peft's.
        tokenizer: its own.
        task: what it is trained for: the name of a task, or a .jsonl file of rows; answered in free text.
        out: folder for what is measured, and at the end for the adapter or model.
        num_steps: of the training, from its beginning.
        retention: tasks that should not suffer.
        every: steps from one evaluation to the next; below 1, a share of the training.
        limit: items of each task.
        positions: token states at which the distance from the base is measured, at most; 0: none.
        data_dir: folder with the official files of gsm8k, truthfulqa and mmlu.
        num_done: completed steps, where the training goes on from a checkpoint.
        autocast: dtype of mixed precision, where the training has it.

    Raises: BadInput for what can't be watched. Nothing is raised later.
    """
    choice = watched(
        task=task, out=out, retention=retention, every=every, limit=limit, positions=positions, data_dir=data_dir
    )
    if num_done == 0:
        check_new(choice.folder)
    return TrainingWatch(choice, Live(model, tokenizer, autocast=autocast), num_steps=num_steps, num_done=num_done)


class TrainingWatch:
    """Of one training. values: the latest, by the names that trackers are told; seconds: spent on measuring."""

    def __init__(self, choice: Watched, live: Live, *, num_steps: int, num_done: int = 0) -> None:
        """Raises BadInput."""
        self.choice, self.live, self.num_done = choice, live, num_done
        self.steps = choice.settings.steps(num_steps)
        self.folder = choice.folder
        self.seconds = 0.0
        self.values: Values = {}
        self.is_on = True
        self.is_landing_read = True
        self._pending: tuple[int, float | None] | None = None  # an evaluated step, and the surprisal of own texts then
        self._landing = Landing()
        self._keep_until(num_done)
        try:
            self._begin()
        except BadInput:
            raise
        except Exception as error:
            raise BadInput(
                f"watch: the evaluation before the first step failed ({one_line(str(error), limit=200)}); expected a model "
                "that can be run here; give a smaller limit if memory was short, or leave the watch out"
            ) from error

    def _begin(self) -> None:
        """Measures the base, while it is there."""
        with self._reading():
            base = self.live.base()
            self.base = None if self.live.is_whole else base
            self.reference = reference_of(base, self.choice.task, positions=self.choice.settings.positions)
            self.prompts = reference_prompts(base, self.choice.task)
        if self.num_done in self.steps:
            self._evaluate(self.num_done)

    def _keep_until(self, num_done: int) -> None:
        """Forgets what a stopped training left after the checkpoint that it goes on from.

        An evaluation at the checkpoint itself is made again: what belongs to it is read from the step after it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / layout.EVAL_STEPS
        if path.exists():
            drop_cut_off_line(path)
            first_gone = num_done if num_done in self.steps else num_done + 1
            write_jsonl(path, [record for record in read_jsonl(path, EvalStep) if record.step < first_gone])
        kept(self.folder / layout.LOCALITY, LocalityRecord, num_done)
        self.total = Tally()
        for counts in kept(self.folder / layout.SUPERVISION_STEPS, StepCounts, num_done):
            self.total = self.total.plus(counts.tally())

    # What the loop calls

    def see(self, batch: Mapping[str, Any]) -> None:
        """A batch, before its loss is computed: read in the step after an evaluation."""
        if self.is_on and self._pending is not None and self.is_landing_read:
            self._or_off(lambda: self._read(batch))

    def step(self, num_done: int) -> Values:
        """To be called after every step. What was measured by it, by name; empty where nothing was."""
        return self._or_off(lambda: self._step(num_done)) if self.is_on else {}

    def finish(self, *, save_model: bool = True, is_last: bool = True) -> Values:
        """Evaluates the end, if it was not, and saves the adapter or the model.

        is_last: whether the model is that of the last step; a trainer may have put an earlier one back.
        """
        self._pending = None
        values = self._or_off(lambda: self._evaluate(self.num_done)) if is_last and self.is_on else {}
        if save_model:
            self._or_off(self._save)  # also where measuring has failed
        return values

    def _or_off(self, do: Callable[[], Values]) -> Values:
        """Whatever goes wrong switches the watch off: a training is worth more than its curves."""
        try:
            return do()
        except Exception as error:
            self.is_on = False
            LOGGER.warning(
                "stateshape: watching has stopped after step %d (%s); the training goes on, and %s holds what was measured",
                self.num_done,
                one_line(str(error) or type(error).__name__, limit=200),
                self.folder,
            )
        if self.live.device.type == "cuda":
            torch.cuda.empty_cache()  # what was begun would otherwise stay reserved beside the training
        return {}

    def _read(self, batch: Mapping[str, Any]) -> Values:
        found = read_batch(batch)
        if found is None:
            self.is_landing_read = False
            LOGGER.warning(
                "stateshape: no supervision map, since this trainer's batches have neither labels nor advantages (but %s)",
                one_line(", ".join(sorted(map(str, batch)))),
            )
            return {}
        with self._reading():
            self._landing = self._landing.plus(landing_of(self.live.learner(), self.base, found))
        return {}

    def _step(self, num_done: int) -> Values:
        self.num_done = num_done
        values = self._land()
        return values | (self._evaluate(num_done) if num_done in self.steps else {})

    def _save(self) -> Values:
        save(self.live, self.folder)
        return {}

    # Measuring

    def _evaluate(self, step: int) -> Values:
        """Adds a line, unless it is there."""
        path = self.folder / layout.EVAL_STEPS
        if path.exists() and any(record.step == step for record in read_jsonl(path, EvalStep)):
            return {}
        began = self.seconds
        with self._reading():
            learner, settings = self.live.learner(), self.choice.settings
            record = eval_step(learner, step, self.choice.tasks, self.reference)
            own = visited(learner, self.base, *self.prompts, limit=max(1, settings.positions), step=step)
        distances = dict(record.distances)
        if settings.positions and own.reverse_kl_nats is not None:
            distances[REVERSE_KL] = own.reverse_kl_nats
        if not self._has_plain_lora():
            distances.pop(UPDATE_NORM, None)
        record = replace(record, distances=distances)
        append_jsonl(path, [record])
        self._pending, self._landing = (step, own.surprisal_nats), Landing()
        self.values = {**eval_values(record), "eval/watch_seconds": self.seconds - began}
        return self.values

    def _has_plain_lora(self) -> bool:
        """Whether the length of the update is that of its factors."""
        if self.live.adapter is None:
            return False
        config = self.live.whole.peft_config[self.live.adapter]
        return isinstance(config, peft.LoraConfig) and not config.use_dora and not config.modules_to_save

    def _land(self) -> Values:
        """Adds what was read of the step's batches, if anything was."""
        pending, landing = self._pending, self._landing
        self._pending, self._landing = None, Landing()
        if pending is None or landing.num_supervised == 0:
            return {}
        step, own_surprisal = pending
        record = LocalityRecord(
            step=step, values=landing.values(own_surprisal), by_depth={"mass": landing.tally.mass_by_depth()}
        )
        append_jsonl(self.folder / layout.LOCALITY, [record])
        counts = step_counts(step, 1, landing.tally, Tally(), GradeCounts())
        append_jsonl(self.folder / layout.SUPERVISION_STEPS, [counts])
        self.total = self.total.plus(landing.tally)
        write_json(self.folder / layout.SUPERVISION, self.total.as_map())
        return locality_values(record)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            with reading(self.live.whole, self.live.device, self.live.autocast):
                yield
        finally:
            self.seconds += time.perf_counter() - began
