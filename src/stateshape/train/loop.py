"""A whole run: steps, metrics, samples of the states trained on, checkpoints; resumed where it stopped.

Writes metrics.jsonl, states.jsonl and a checkpoint while it goes, and the adapter at the end. Knows no method by name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from stateshape.core.files import append_jsonl, read_jsonl, write_jsonl
from stateshape.core.method import Method
from stateshape.core.records import StateSample, StepRecord
from stateshape.core.signals import Credit
from stateshape.core.states import Origin
from stateshape.policy.policy import Policy
from stateshape.train.checkpoint import Progress, load_checkpoint, remove_checkpoints, save_checkpoint
from stateshape.train.data import draw_for
from stateshape.train.samples import state_sample
from stateshape.train.settings import TrainSettings, lr_at
from stateshape.train.step import StepResult, train_step

SAMPLED = (Origin.LEARNER, Origin.TEACHER)
SAMPLES_A_RUN = 24  # trajectories kept as readable samples, spread evenly over the run
OnStep = Callable[[int, int, StepRecord], None]


def train(
    method: Method,
    learner: Policy,
    item_ids: tuple[str, ...],
    settings: TrainSettings,
    *,
    seed: int,
    folder: Path,
    on_step: OnStep | None = None,
) -> Progress:
    """Trains `learner` in place. Resumes from `folder` if it holds a checkpoint. Raises TrainingDiverged."""
    num_steps = settings.num_steps(len(item_ids))
    item_ids = item_ids[: settings.num_items(len(item_ids))]
    optimiser = torch.optim.AdamW(learner.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    progress = load_checkpoint(folder, learner, optimiser) or Progress(0, 0, 0, {})
    forget_after(folder, progress.step)
    for step in range(progress.step, num_steps):
        for group in optimiser.param_groups:
            group["lr"] = lr_at(settings, step, num_steps)
        draw = draw_for(item_ids, batch=settings.batch_prompts, step=step, seed=seed)
        result = train_step(method, learner, optimiser, draw, settings)
        record = step_record(step, result, optimiser.param_groups[0]["lr"])
        append_jsonl(folder / "metrics.jsonl", [record])
        if step % max(1, num_steps // SAMPLES_A_RUN) == 0:
            append_jsonl(folder / "states.jsonl", [sample_of(result, learner, step)])
        progress = advanced(progress, result)
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == num_steps:
            save_checkpoint(folder, learner, optimiser, progress)
        if on_step:
            on_step(step + 1, num_steps, record)
    assert learner.adapter is not None
    learner.weights.save_adapter(learner.adapter, folder / "adapter")
    return progress


def finish(folder: Path) -> None:
    """Drops what only an unfinished run needs."""
    remove_checkpoints(folder)


def forget_after(folder: Path, num_done: int) -> None:
    """Removes what a killed run wrote after its last checkpoint."""
    kinds: dict[str, type[StepRecord] | type[StateSample]] = {"metrics.jsonl": StepRecord, "states.jsonl": StateSample}
    for name, kind in kinds.items():
        path = folder / name
        if not path.exists():
            continue
        text = path.read_text(encoding="utf-8")
        if not text.endswith("\n"):  # a write that was cut off
            path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
        records = read_jsonl(path, kind)
        write_jsonl(path, [record for record in records if record.step is not None and record.step < num_done])


def step_record(step: int, result: StepResult, lr: float) -> StepRecord:
    return StepRecord(
        step=step,
        loss=result.loss,
        grad_norm=result.grad_norm,
        lr=lr,
        num_supervised=result.num_supervised,
        num_rows=len(result.signal.states),
        seconds=result.seconds,
        origin_shares=result.signal.states.origin_shares(),
        stats=result.stats,
    )


def advanced(progress: Progress, result: StepResult) -> Progress:
    states = result.signal.states
    sampled = int(states.written_by(*SAMPLED).sum())
    costs = dict(progress.costs)
    for phase, cost in result.costs.items():
        costs[phase] = costs[phase].plus(cost) if phase in costs else cost
    return Progress(
        step=progress.step + 1,
        num_supervised=progress.num_supervised + result.num_supervised,
        num_sampled=progress.num_sampled + sampled,
        costs=costs,
    )


def sample_of(result: StepResult, learner: Policy, step: int) -> StateSample:
    """The step's first row, readable."""
    signal = result.signal
    reward = signal.reward_B[0].item() if isinstance(signal, Credit) else None
    row = signal.states.trajectories()[0]
    supervised = signal.supervise_BT[0, : len(row.ids)].tolist()
    return state_sample(row, learner, step=step, supervised=supervised, reward=None if reward != reward else reward)
