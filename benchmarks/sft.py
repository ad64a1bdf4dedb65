"""An SFT step beside trl.SFTTrainer: 32 rows of mixed length, loss on the completion alone, LoRA on all linear layers.

Ours tokenises the 32 items inside the timed step; TRL's rows are tokenised before (the same ids, given as input_ids and
completion_mask) and collated before its clock starts. A row counts prompt and completion tokens, without padding.

The peer's settings, beyond trl_peer.py, of which the fastest is timed: padded rows in micro-batches of 32, 8 and 4 (8, 4
and 2 for a real model, for its activations' sake), sorted by length by hand, the best a length-grouping sampler could do;
padding-free micro-batches of 8 (one flattened row, attention by a block mask, as there is no flash attention on a CPU);
best-fit packing into rows of 512 and 1,024 tokens, one packed row a micro-batch. TRL computes entropy and accuracy in its
fused head at every step; there is no switch for that.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

from benchmarks.common import DEVICE, Options, Row, Side, compared, interleave, load_policy, train_task
from benchmarks.our_steps import OurSteps
from benchmarks.trl_peer import TrlSide, fastest_side, peer_lora, peer_model, peer_tokenizer, plain_arguments
from stateshape.core.method import Draw
from stateshape.core.states import Trajectory
from stateshape.policy.policy import Policy
from stateshape.recipes.recipe import Parts
from stateshape.recipes.sft import SFT
from stateshape.sampling.local import LocalSampler
from stateshape.states.dataset import DatasetStates
from stateshape.tasks.task import GenerationTask
from stateshape.train.settings import TrainSettings


class Setting(NamedTuple):
    kind: str  # padded, padding-free or packed
    size: int  # rows of a micro-batch; packed: tokens of a packed row


def our_side(base: Policy, task: GenerationTask, num_rows: int, steps: int) -> OurSteps:
    ids = tuple(item.item_id for item in task.train[:num_rows])
    build = partial(SFT().build, Parts(task=task, sampler=LocalSampler(), teacher=lambda source: base))

    def draws(repeat: int) -> list[Draw]:
        return [Draw(item_ids=ids, step=step, seed=repeat) for step in range(steps)]

    return OurSteps(base, build, draws, TrainSettings())


def rows_of(policy: Policy, task: GenerationTask, num_rows: int) -> list[Trajectory]:
    states = DatasetStates(items={})
    rows = [states.trajectory(policy, item, 0) for item in task.train[:num_rows]]
    return sorted(rows, key=lambda row: len(row.ids))


def peer_side(model: str, rows: list[Trajectory], steps: int, setting: Setting) -> TrlSide:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    from trl.data_utils import pack_dataset

    data = Dataset.from_list(
        [
            {
                "input_ids": row.ids,
                "completion_mask": [0] * row.prompt_length + [1] * (len(row.ids) - row.prompt_length),
            }
            for row in rows
        ]
    )
    num_rows, micro_rows = len(rows), min(setting.size, len(rows))
    options: dict[str, Any] = {"max_length": None, "padding_free": setting.kind == "padding-free"}
    if setting.kind == "packed":
        num_rows, micro_rows = len(pack_dataset(data, setting.size, "bfd")), 1
        options = {"max_length": setting.size, "packing": True, "packing_strategy": "bfd"}
    trainer = SFTTrainer(
        model=peer_model(model),
        args=SFTConfig(
            **plain_arguments(rows=num_rows, micro_rows=micro_rows, steps=steps),
            completion_only_loss=True,
            shuffle_dataset=False,
            train_sampling_strategy="sequential",
            **options,
        ),
        train_dataset=data,
        processing_class=peer_tokenizer(model),
        peft_config=peer_lora(),
    )
    supervised = sum(len(row.ids) - row.prompt_length for row in rows)
    prepared: Any = trainer.train_dataset
    assert supervised == sum(label != -100 for labels in prepared["labels"] for label in labels)
    return TrlSide(trainer, lambda: supervised * steps)


def run(model: str, options: Options = Options()) -> list[Row]:  # noqa: B008
    num_rows, steps = options.pick(32, 4), options.pick(3 if model == "embedded" else 1, 1)
    base, task = load_policy(model), train_task(model)
    rows = rows_of(base, task, num_rows)
    longest = len(rows[-1].ids)
    micro = (32, 8, 4) if model == "embedded" or DEVICE.type == "cuda" else (8, 4, 2)
    settings = {f"padded, micro-batches of {n}": Setting("padded", n) for n in micro if n <= num_rows}
    settings["padding-free, micro-batches of 8"] = Setting("padding-free", 8)
    packed = {max(size, 2 ** math.ceil(math.log2(longest))) for size in (512, 1024)}
    settings |= {f"packed into rows of {size}": Setting("packed", size) for size in sorted(packed)}
    name, tried = fastest_side(model, settings, partial(peer_side, model, rows, 1))
    sides: dict[str, Side] = {
        "ours": our_side(base, task, num_rows, steps),
        "peer": peer_side(model, rows, steps, settings[name]),
    }
    measured = interleave(sides, repeats=options.num_repeats())
    row = compared("sft", model, measured["ours"], measured["peer"], peer="trl SFTTrainer", peer_settings=name)
    tokens = sum(len(each.ids) for each in rows) * steps
    return [
        row
        | {
            "rows": num_rows,
            "steps": steps,
            "tokens": tokens,
            "longest_row": longest,
            "ours_tokens_per_s": tokens / row["ours_seconds"],
            "peer_tokens_per_s": tokens / row["peer_seconds"],
            "peer_tried_seconds": tried,
        }
    ]
