"""A GRPO step beside trl.GRPOTrainer: 8 prompts x 8 samples, up to 128 new tokens, LoRA on all linear layers.

Both sides: temperature 1, no top-k or top-p, rows end at the same EOS ids and nowhere else (no stop texts), the task's
exact-answer reward, advantages over the group's standard deviation, token-mean loss, one update a batch, no KL term.
Several steps, each on its own prompts, are summed. The sides draw different samples from the same distribution, so the
row shows how many tokens each wrote, and the ratio per sampled token beside the plain one.

The peer's settings, beyond trl_peer.py: beta 0 (no reference model), num_iterations 1 and as many generation steps as
accumulation steps (so TRL skips the pass for old log-probs), the dapo loss, transformers' own generate (no vLLM on a
CPU). TRL generates all 64 rows at once. What is tried first, the fastest being timed: training micro-batches of 64, 16
and 8 rows (16, 8 and 4 for a real model, which has no room for the activations of 64), and a static instead of the
dynamic cache. TRL computes the entropy it logs in the same fused head; there is no switch for that. Its continuous
batching is for accelerators: it sizes its pages by their free memory.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from benchmarks.common import Options, Row, Side, compared, interleave, load_policy, train_task
from benchmarks.our_steps import OurSteps
from benchmarks.rollout_sizes import Sizes, draws, items_of, sizes_of, trial_of
from benchmarks.trl_peer import TrlSide, drained, fastest_side, peer_lora, peer_model, peer_tokenizer, plain_arguments
from stateshape.recipes.grpo import GRPO
from stateshape.recipes.recipe import Parts
from stateshape.sampling.local import LocalSampler
from stateshape.tasks.task import GenerationTask
from stateshape.train.settings import TrainSettings

Setting = tuple[int, str | None]  # rows of a training micro-batch, cache implementation


def our_side(model: str, task: GenerationTask, sizes: Sizes) -> OurSteps:
    base = load_policy(model)
    recipe = GRPO(group=sizes.group, rollout_tokens=sizes.new_tokens)
    parts = Parts(task=task, sampler=LocalSampler(), teacher=lambda source: base)
    return OurSteps(base, partial(recipe.build, parts), partial(draws, task, sizes), TrainSettings())


def peer_side(model: str, task: GenerationTask, sizes: Sizes, setting: Setting) -> TrlSide:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    micro_rows, cache = setting
    items = {item.item_id: item for item in items_of(task, sizes)}
    lengths: list[int] = []

    def reward(completions: list[str], completion_ids: list[list[int]], item_id: list[str], **_: Any) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return [float(task.grade(text, items[i]).strict.is_correct) for text, i in zip(completions, item_id)]

    rewards: Any = [reward]
    trainer = GRPOTrainer(
        model=peer_model(model),
        reward_funcs=rewards,
        args=GRPOConfig(
            **plain_arguments(rows=sizes.rows, micro_rows=micro_rows, steps=sizes.steps),
            num_generations=sizes.group,
            max_completion_length=sizes.new_tokens,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            beta=0.0,
            num_iterations=1,
            loss_type="dapo",
            scale_rewards="group",
            shuffle_dataset=False,
            cache_implementation=cache,
        ),
        train_dataset=Dataset.from_list([{"prompt": item.prompt, "item_id": key} for key, item in items.items()]),
        processing_class=peer_tokenizer(model),
        peft_config=peer_lora(),
    )
    return TrlSide(trainer, partial(drained, lengths))


def run(model: str, options: Options = Options()) -> list[Row]:  # noqa: B008
    sizes, task = sizes_of(model, options), train_task(model)
    settings: dict[str, Setting] = {f"micro-batches of {n}, dynamic cache": (n, None) for n in sizes.micro_rows}
    settings[f"micro-batches of {sizes.micro_rows[-1]}, static cache"] = (sizes.micro_rows[-1], "static")
    trial = trial_of(model, sizes)
    name, tried = fastest_side(model, settings, partial(peer_side, model, task, trial))
    sides: dict[str, Side] = {
        "ours": our_side(model, task, sizes),
        "peer": peer_side(model, task, sizes, settings[name]),
    }
    measured = interleave(sides, repeats=options.num_repeats(3 if model == "embedded" else 2))
    row = compared("grpo", model, measured["ours"], measured["peer"], peer="trl GRPOTrainer", peer_settings=name)
    return [row | lengths_of(row, sizes) | {"peer_tried_seconds": tried}]


def lengths_of(row: Row, sizes: Sizes) -> Row:
    """Mean new tokens of a row on both sides, and the sizes of the run."""
    rows = sizes.rows * sizes.steps
    return {
        "ours_new_tokens_a_row": row["ours_tokens"] / rows,
        "peer_new_tokens_a_row": row["peer_tokens"] / rows,
        **dataclasses.asdict(sizes),
    }
