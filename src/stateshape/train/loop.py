"""A whole run: steps, metrics, samples of the states trained on, checkpoints; resumed where it stopped.

Writes metrics.jsonl, states.jsonl and a checkpoint while it goes, and the adapter (or whole model) at chosen steps and at the
end. Knows no method by name, and of what looks on (watch.py) only that it does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch

from stateshape.core import layout
from stateshape.core.files import BadInput, append_jsonl, drop_cut_off_line, read_jsonl, write_jsonl
from stateshape.core.method import Carrying, Combination, Draw, Method, terms_of
from stateshape.core.ranks import ALONE, current, using
from stateshape.core.records import StateSample, StepRecord
from stateshape.core.seeds import seed_for
from stateshape.core.signals import Credit, Signal
from stateshape.core.states import Origin, States, origin_shares
from stateshape.core.watch import Watch
from stateshape.policy.policy import Policy
from stateshape.record.text import state_sample
from stateshape.train.checkpoint import Progress, load_checkpoint, remove_checkpoints, save_checkpoint
from stateshape.train.drawing import Ahead
from stateshape.train.kept_adapters import forget_kept_after, keep_adapter
from stateshape.train.settings import TrainSettings, lr_at
from stateshape.train.step import StepResult, train_step

SAMPLED = (Origin.LEARNER, Origin.TEACHER, Origin.MIXTURE)
SAMPLES_A_RUN = 24  # trajectories kept as readable samples, spread evenly over the run
OnStep = Callable[[int, int, StepRecord], None]


def train(
    method: Method | Combination,
    learner: Policy,
    item_ids: tuple[str, ...],
    settings: TrainSettings,
    *,
    seed: int,
    folder: Path,
    on_step: OnStep | None = None,
    watches: Sequence[Watch[Policy]] = (),
    keep_at: Collection[int] = (),
) -> Progress:
    """Trains `learner` in place. Resumes from `folder` if it holds a checkpoint. Raises TrainingDiverged.

    Of several ranks the first writes and is watched; all read the checkpoint.

    keep_at: numbers of completed steps after which the adapter is kept in a folder of its own.
    """
    num_steps = settings.num_steps(len(item_ids))
    item_ids = item_ids[: settings.num_items(len(item_ids))]
    optimiser = torch.optim.AdamW(learner.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    progress = load_checkpoint(folder, learner, optimiser) or Progress(0, 0, 0, {})
    ranks = current()
    check_together(ranks.gather(progress.step), folder)
    watches = watches if ranks.is_first else ()
    ranks.by_first(lambda: forget_after(folder, progress.step))
    for watch in watches:
        watch.resume(progress.step)
    carried = carried_adapters(method)
    draw_at = partial(draw_for, item_ids, batch=settings.batch_prompts, seed=seed, num_steps=num_steps)
    ahead = Ahead(lambda step: draw_at(step=step), num_prompts=settings.batch_prompts)
    for step in range(progress.step, num_steps):
        for group in optimiser.param_groups:
            group["lr"] = lr_at(settings, step, num_steps)
        result = train_step(method, learner, optimiser, draw_at(step=step), settings, watches, ahead)
        record = step_record(step, result, optimiser.param_groups[0]["lr"])
        progress = advanced(progress, result)
        if not ranks.is_first:
            continue
        append_jsonl(folder / layout.METRICS, [record])
        if step % max(1, num_steps // SAMPLES_A_RUN) == 0:
            append_jsonl(folder / layout.SAMPLES, samples_of(result, learner, step))
        if progress.step in keep_at:  # before the checkpoint: a run that resumes behind it finds it there
            keep_adapter(folder, learner, progress.step)
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == num_steps:
            save_checkpoint(folder, learner, optimiser, progress, carried)
        if on_step:
            on_step(step + 1, num_steps, record)
    with using(ALONE):
        for watch in watches:
            watch.finish(learner)
    ranks.by_first(lambda: save_trained(learner, folder))
    return progress


def save_trained(learner: Policy, folder: Path) -> None:
    """What the run leaves: its adapter, or its model."""
    assert learner.adapter is not None
    name = layout.MODEL if learner.weights.is_full(learner.adapter) else layout.ADAPTER
    learner.weights.save_adapter(learner.adapter, folder / name)


def check_together(steps: Sequence[int], folder: Path) -> None:
    """Whether all ranks have read the same checkpoint. Raises BadInput."""
    if len(set(steps)) > 1:
        raise BadInput(
            f"out: {folder}: the ranks read checkpoints of different steps ({', '.join(map(str, steps))}); expected one folder "
            "that all of them see as it is; put it on a file system that all machines share, and run the same command again"
        )


def finish(folder: Path) -> None:
    """Drops what only an unfinished run needs."""
    remove_checkpoints(folder)


def forget_after(folder: Path, num_done: int) -> None:
    """Removes what a killed run wrote after its last checkpoint."""
    forget_kept_after(folder, num_done)
    kinds: dict[str, type[StepRecord] | type[StateSample]] = {"metrics.jsonl": StepRecord, "states.jsonl": StateSample}
    for name, kind in kinds.items():
        path = folder / name
        if not path.exists():
            continue
        drop_cut_off_line(path)
        records = read_jsonl(path, kind)
        write_jsonl(path, [record for record in records if record.step is not None and record.step < num_done])


def carried_adapters(method: Method | Combination) -> list[str]:
    """Adapters that a signal changes from step to step, and a resumed run must find as they were."""
    signals = [term.method.signal for term in terms_of(method).values()]
    return [name for signal in signals if isinstance(signal, Carrying) for name in signal.carries]


def own_signals(result: StepResult) -> list[Signal]:
    """Without those of terms apart, which are about other prompts than the run's."""
    return [signal for name, signal in result.signals.items() if name not in result.apart]


def distinct_states(signals: Iterable[Signal]) -> list[States]:
    """The signals' states, each once: terms may speak of the same ones."""
    return list({id(signal.states): signal.states for signal in signals}.values())


def step_record(step: int, result: StepResult, lr: float) -> StepRecord:
    states = distinct_states(own_signals(result))
    return StepRecord(
        step=step,
        loss=result.loss,
        grad_norm=result.grad_norm,
        lr=lr,
        num_supervised=result.num_supervised,
        num_rows=sum(len(one) for one in states),
        seconds=result.seconds,
        origin_shares=origin_shares(states),
        stats=result.stats,
    )


def advanced(progress: Progress, result: StepResult) -> Progress:
    sampled = sum(int(states.written_by(*SAMPLED).sum()) for states in distinct_states(result.signals.values()))
    costs = dict(progress.costs)
    for phase, cost in result.costs.items():
        costs[phase] = costs[phase].plus(cost) if phase in costs else cost
    return Progress(
        step=progress.step + 1,
        num_supervised=progress.num_supervised + result.num_supervised,
        num_sampled=progress.num_sampled + sampled,
        costs=costs,
    )


def samples_of(result: StepResult, learner: Policy, step: int) -> list[StateSample]:
    """The first row of each of the run's own terms, readable."""
    samples = []
    for signal in own_signals(result):
        reward = signal.reward_B[0].item() if isinstance(signal, Credit) else None
        row = signal.states.trajectories()[0]
        supervised = signal.supervise_BT[0, : len(row.ids)].tolist()
        reward = None if reward != reward else reward
        samples.append(state_sample(row, learner, step=step, supervised=supervised, reward=reward))
    return samples


def draw_for(item_ids: tuple[str, ...], *, batch: int, step: int, seed: int, num_steps: int = 1) -> Draw:
    """The `step`-th batch of the endless stream epoch 0, epoch 1, ..., each shuffled by its own seed."""
    num_items = len(item_ids)
    orders: dict[int, list[int]] = {}
    chosen = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(position, num_items)
        if epoch not in orders:
            orders[epoch] = list(range(num_items))
            random.Random(seed_for(seed, "order", epoch)).shuffle(orders[epoch])
        chosen.append(item_ids[orders[epoch][place]])
    return Draw(item_ids=tuple(chosen), step=step, seed=seed, num_steps=num_steps, epoch=step * batch // num_items)
