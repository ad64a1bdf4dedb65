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
from stateshape.policy.open import check_teacher
from stateshape.policy.settings import ModelSettings
from stateshape.policy.source import Resolved, resolve, shares_base
from stateshape.study.checkpoints import CheckpointSpec
from stateshape.study.plan import Plan
from stateshape.study.run_spec import RunSpec


def check_start(plan: Plan, spec: RunSpec) -> None:
    """The start must be an adapter of the same base and of the shape that the run trains. Raises BadInput."""
    if spec.start is None:
        return
    field = f"runs.{spec.name}.start" if plan.file.runs else "start"
    other = next((run for run in plan.runs if run.name == spec.start), None)
    if isinstance(other, RunSpec):
        if other.train.parameters != spec.train.parameters:
            raise BadInput(
                f"{field}: got {spec.start}, which trains parameters {other.train.parameters}; expected those of this run, "
                f"{spec.train.parameters}; give both the same train.parameters"
            )
        if not spec.train.is_full and other.train.lora != spec.train.lora:
            raise BadInput(
                f"{field}: got {spec.start}, whose adapter is {other.train.lora}; expected the shape of this run, "
                f"{spec.train.lora}; give both the same train.lora"
            )
        return
    source = other.checkpoint if isinstance(other, CheckpointSpec) else spec.start
    check_source(source)
    resolved = resolve(source)
    told = shown(source, limit=MAX_PATH)
    if spec.train.is_full:
        check_full_start(field, told, resolved, plan.file.model)
        return
    if resolved.adapter is None:
        raise BadInput(
            f"{field}: got {told}, which holds no adapter; expected a run or adapter folder; to start from a whole model, "
            "name it as the model and leave start out, or train parameters full"
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


def check_full_start(field: str, told: str, resolved: Resolved, base: str) -> None:
    """All parameters start from a model folder; that its tensors are the base's is seen when both are read. Raises BadInput."""
    if resolved.adapter is not None:
        raise BadInput(
            f"{field}: got {told}, an adapter; expected a whole model, since all parameters are trained; merge it into its "
            "base (peft's merge_and_unload, then save_pretrained), or train parameters lora"
        )
    if not Path(resolved.model).is_dir():
        raise BadInput(
            f"{field}: got {told}; expected the folder of a run that trained all parameters, or of a model; give one"
        )
    check_teacher(base, resolved.model, ModelSettings())


def start_of(spec: RunSpec, location: str) -> Path:
    """The folder with the weights that a run begins at. location: of a run, an adapter or, for a full run, a model."""
    return Path(resolve(location).model) if spec.train.is_full else adapter_of(location)


def adapter_of(location: str) -> Path:
    """The adapter's folder. location: of a run or an adapter. Raises BadInput where it has none."""
    adapter = resolve(location).adapter
    if adapter is None:
        raise BadInput(
            f"start: got {location!r} without {layout.ADAPTER}/; expected a finished run or an adapter folder"
        )
    return adapter
