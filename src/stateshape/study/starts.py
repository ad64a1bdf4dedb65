"""Where a run begins if not at a fresh adapter: at another run's adapter, or one in a folder. Checked before a model loads.

The start is neither the base nor the teacher: forgetting and drift are measured against the base as ever, and beside that
against the start.
"""

from __future__ import annotations

from pathlib import Path

from stateshape.core import layout
from stateshape.core.files import BadInput
from stateshape.core.sealed import check_source
from stateshape.core.wording import MAX_PATH, shown
from stateshape.policy.adapter_files import check_adapter, shape_difference
from stateshape.policy.open import resolve, shares_base
from stateshape.study.checkpoints import CheckpointSpec
from stateshape.study.plan import Plan, RunSpec


def check_start(plan: Plan, spec: RunSpec) -> None:
    """The start must be an adapter of the same base and of the shape that the run trains. Raises BadInput."""
    if spec.start is None:
        return
    field = f"runs.{spec.name}.start" if plan.file.runs else "start"
    other = next((run for run in plan.runs if run.name == spec.start), None)
    if isinstance(other, RunSpec):
        if other.train.lora != spec.train.lora:
            raise BadInput(
                f"{field}: got {spec.start}, whose adapter is {other.train.lora}; expected the shape of this run, "
                f"{spec.train.lora}; give both the same train.lora"
            )
        return
    source = other.checkpoint if isinstance(other, CheckpointSpec) else spec.start
    check_source(source)
    resolved = resolve(source)
    told = shown(source, limit=MAX_PATH)
    if resolved.adapter is None:
        raise BadInput(
            f"{field}: got {told}, which holds no adapter; expected a run or adapter folder; to start from a whole model, "
            "name it as the model and leave start out"
        )
    if not shares_base(resolved.model, plan.file.model):
        raise BadInput(
            f"{field}: got {told}, an adapter on {resolved.model!r}; expected one on {plan.file.model!r}, the base of this "
            f"run; train on {resolved.model!r}, or start from another adapter"
        )
    difference = shape_difference(check_adapter(resolved.adapter), spec.train.lora)
    if difference is not None:
        raise BadInput(
            f"{field}: got {told} with {difference}; expected the shape that this run trains; set train.lora to it"
        )


def adapter_of(location: str) -> Path:
    """The adapter's folder. location: of a run or an adapter. Raises BadInput where it has none."""
    adapter = resolve(location).adapter
    if adapter is None:
        raise BadInput(
            f"start: got {location!r} without {layout.ADAPTER}/; expected a finished run or an adapter folder"
        )
    return adapter
