"""How long a study takes on a GPU, and the same study with a share of its steps. Steps and lengths are upper limits.

    training step   decoding steps, one after another, at DECODE_S each + one pass of our own (kernels, or its operations)
    evaluation      decoding steps of each wave of rows + operations of the options
    drift           decoding steps + the distances on the CPU

A decoding step of few rows waits for kernels to start, not for memory: its seconds grow with the layers. The rates below are
assumptions until a GPU has told; where the sampling and training stages have run beside this, theirs are taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.gpu.stages import Scale
from stateshape.study.plan import Plan
from stateshape.study.run_spec import RunSpec
from stateshape.study.study_file import StudyFile
from stateshape.tasks.task import GenerationTask, Task

LARGE_BATCH = 2.0  # a step of hundreds of rows over a step of few: its cache is no longer small
DRIFT_PROMPTS = 128
LEAST_ITEMS = 16  # a batch: with fewer, an epoch is no step
LENGTHS = ("rollout_tokens", "max_new_tokens")  # of a recipe: what is written one token after another


@dataclass(frozen=True, kw_only=True, slots=True)
class Assumed:
    """Seconds, by layer where a layer's kernels are what is waited for."""

    decode_layer_s: float = 9e-5  # a dozen recorded kernels of about 5 us, and some reserve
    pass_layer_s: float = 3e-3  # forward and backward with LoRA, a hundred kernels that are started one by one
    step_s: float = 0.05  # checkpoint, records, tokenizer
    probes: int = 4  # of locality, per run: see locality/settings.py
    probe_s: float = 0.5
    record_shape_s: float = 0.1  # a recorded step for a new shape
    shapes: int = 24  # of an evaluation
    drift_prompt_s: float = 0.08  # distances on the CPU, per prompt; 20 s for 256 were measured beside an H100
    choice_item_s: float = 0.01  # tokens and layout of a multiple-choice item
    wave_rows: int = 256
    start_s: float = 10.0  # loading, the report


class Speed(NamedTuple):
    """What an estimate depends on beside the study. `num_train`: training items there are."""

    num_layers: int
    num_train: int
    assumed: Assumed

    @property
    def decode_s(self) -> float:
        return self.num_layers * self.assumed.decode_layer_s


class Spent(NamedTuple):
    """Seconds of one run."""

    training: float
    evaluation: float
    drift: float

    @property
    def total(self) -> float:
        return sum(self)


def estimated(plan: Plan, tasks: Sequence[Task], speed: Speed) -> dict[str, Spent]:
    """By run; the base is among them."""
    evaluation = sum(evaluation_s(task, speed) for task in tasks)
    rollouts = plan.file.drift.max_new_tokens * speed.decode_s * LARGE_BATCH
    distances = plan.file.drift.prompts * speed.assumed.drift_prompt_s
    found = {"base": Spent(0.0, evaluation, 2 * rollouts)}
    for spec in plan.runs:
        steps = spec.train.num_steps(speed.num_train)
        found[spec.name] = Spent(training_s(spec, steps, speed), evaluation, rollouts + distances)
    return found


def total_s(found: Mapping[str, Spent], speed: Speed, *, seeds: int = 1) -> float:
    """Of all runs one after another; the base is measured once."""
    trained = sum(one.total for name, one in found.items() if name != "base")
    return found["base"].total + seeds * trained + speed.assumed.start_s


def training_s(spec: RunSpec, steps: int, speed: Speed) -> float:
    recipe, assumed = spec.recipe(), speed.assumed
    written = sum(getattr(recipe, name, None) or 0 for name in LENGTHS)
    one = written * speed.decode_s + speed.num_layers * assumed.pass_layer_s + assumed.step_s
    return steps * one + min(assumed.probes, steps) * assumed.probe_s


def evaluation_s(task: Task, speed: Speed) -> float:
    assumed = speed.assumed
    if not isinstance(task, GenerationTask):
        return len(task.items) * assumed.choice_item_s
    waves = -(-len(task.test) // assumed.wave_rows)
    return waves * task.max_new_tokens * speed.decode_s * LARGE_BATCH + assumed.shapes * assumed.record_shape_s


def with_share(file: StudyFile, share: float) -> StudyFile:
    """Fewer training items where a run has epochs, fewer steps where it has steps; at least one."""
    if share == 1:
        return file
    train = scaled(file.train, share)
    runs = {name: dataclasses.replace(run, train=scaled(run.train, share)) for name, run in file.runs.items()}
    return dataclasses.replace(file, train=train, runs=runs)


def scaled(train: dict[str, Any], share: float) -> dict[str, Any]:
    least = {"steps": 1, "train_items": LEAST_ITEMS}
    return train | {key: max(few, round(train[key] * share)) for key, few in least.items() if train.get(key)}


def measured_rates(sampling: dict[str, Any] | None, training: dict[str, Any] | None, num_layers: int) -> Assumed:
    """What the stages beside this measured on the largest model, in the place of what was assumed."""
    found: dict[str, float] = {}
    ours = [row for row in (sampling or {}).get("rows", ()) if row.get("engine") == "ours" and "decode_step_s" in row]
    if ours:
        found["decode_layer_s"] = ours[0]["decode_step_s"] / num_layers
    steps = [
        row for row in (training or {}).get("rows", ()) if row.get("method") == "sft" and "seconds_per_step" in row
    ]
    if steps:
        found["pass_layer_s"] = steps[0]["seconds_per_step"] / num_layers
    return dataclasses.replace(Assumed(), **found)


def with_less_drift(file: StudyFile) -> StudyFile:
    """Half of the preset's prompts: distances take the CPU longer than the GPU takes for all else of a short run."""
    return dataclasses.replace(
        file, drift=dataclasses.replace(file.drift, prompts=min(file.drift.prompts, DRIFT_PROMPTS))
    )


def items_limited(file: StudyFile, scale: Scale) -> StudyFile:
    """A rehearsal's items."""
    if scale.study_items is None:
        return file

    def fewer(choice: Any) -> Any:
        return dataclasses.replace(choice, limit=min(choice.limit or scale.study_items, scale.study_items))

    drift = dataclasses.replace(file.drift, prompts=min(file.drift.prompts, 2 * scale.study_items), max_new_tokens=16)
    return dataclasses.replace(
        file, target=fewer(file.target), retention=[fewer(choice) for choice in file.retention], drift=drift
    )
