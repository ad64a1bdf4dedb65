"""The watch for transformers' Trainer and all that are built on it: TRL's, Unsloth's, Axolotl's.

A callback is told when steps end, but is not given the trainer: what it measures goes to its own files and to the state's
log_history, and no tracker hears of it. `attach(trainer)` gives it the trainer. Then the values are in the trainer's log, too,
by `Trainer.log` itself: TRL's own would average and forget the metrics of the steps since the last line. And batches are seen
where the loss is computed, which is where supervision is known.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stateshape.core.files import BadInput
from stateshape.trainers.choices import check_new, watched
from stateshape.trainers.live import Live
from stateshape.trainers.watch import TrainingWatch, Values


class StateshapeCallback(TrainerCallback):
    """Forgetting, drift, KL and where supervision lands, while a Trainer trains (docs/guides/other-trainers.md).

    The first process measures. The training is the same to the bit with and without it.
    """

    def __init__(
        self,
        *,
        task: str,
        out: str | Path,
        retention: Sequence[str] = (),
        every: float = 0.1,
        limit: int = 64,
        positions: int = 512,
        data_dir: str | Path | None = None,
        save_model: bool = True,
    ) -> None:
        """Raises BadInput before anything is loaded.

        Args:
            task: what is trained for: the name of a task, or a .jsonl file of rows; answered in free text.
            out: folder for what is measured, and at the end for the adapter or model.
            retention: tasks that should not suffer.
            every: steps from one evaluation to the next; below 1, a share of the training.
            limit: items of each task.
            positions: token states at which the distance from the base is measured, at most; 0: none.
            data_dir: folder with the official files of gsm8k, truthfulqa and mmlu.
            save_model: whether the trained adapter or model is put into `out`.
        """
        self.choice = watched(
            task=task, out=out, retention=retention, every=every, limit=limit, positions=positions, data_dir=data_dir
        )
        self.save_model = save_model
        self.watch: TrainingWatch | None = None  # None in all processes but the first
        self.trainer: Trainer | None = None

    def attach(self, trainer: Trainer) -> StateshapeCallback:
        """Adds it to the trainer, unless it is there, with the trainer's log and its batches. Raises BadInput."""
        if not isinstance(trainer, Trainer):
            raise BadInput(
                f"trainer: got {type(trainer).__name__}; expected a transformers Trainer; for a loop of your own use "
                "stateshape.watch_training"
            )
        if self.trainer is not None:
            raise BadInput("trainer: got a second one; expected one for each callback; make another callback")
        self.trainer = trainer
        if self not in trainer.callback_handler.callbacks:
            trainer.add_callback(self)
        original = trainer.compute_loss

        @functools.wraps(original)
        def compute_loss(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            if self.watch is not None and trainer.model is not None and trainer.model.training:
                self.watch.see(inputs)
            return original(model, inputs, *args, **kwargs)

        trainer.compute_loss = compute_loss  # type: ignore[method-assign]
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluates the model before its first step. Raises BadInput for one that can't be read."""
        if not state.is_world_process_zero:
            return
        is_again = self.watch is not None and args.auto_find_batch_size
        if state.global_step == 0 and not is_again:
            check_new(self.choice.folder)
        live = Live(kwargs["model"], kwargs.get("processing_class"), autocast=autocast_of(args))
        if live.is_whole and state.global_step > 0:
            raise BadInput(
                f"model: got one whose own parameters are trained, from step {state.global_step} on; expected the base, which "
                "is gone by then; leave the callback out, and audit the result"
            )
        self.watch = TrainingWatch(self.choice, live, num_steps=state.max_steps, num_done=state.global_step)
        self._log(state, control, self.watch.values)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.watch is not None:
            self._log(state, control, self.watch.step(state.global_step))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.watch is not None:
            is_last = not args.load_best_model_at_end
            self._log(state, control, self.watch.finish(save_model=self.save_model, is_last=is_last))

    def _log(self, state: TrainerState, control: TrainerControl, values: Values) -> None:
        if not values:
            return
        # integrations show "eval_x" as eval/x and all else below train/
        logs = {name.replace("eval/", "eval_", 1): value for name, value in values.items()}
        if self.trainer is None:
            state.log_history.append({**logs, "epoch": state.epoch, "step": state.global_step})
            return
        is_due = control.should_log  # telling the callbacks of a log would cancel the trainer's own of this step
        Trainer.log(self.trainer, logs)
        control.should_log = is_due


def autocast_of(args: TrainingArguments) -> torch.dtype | None:
    """The dtype of the trainer's mixed precision."""
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
