"""An audit as a study file: a base and finished checkpoints, nothing trained. Loads no model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from stateshape.core.files import BadInput
from stateshape.core.study_records import BASE
from stateshape.core.wording import shown
from stateshape.policy.settings import ModelSettings
from stateshape.study.run_spec import MOST_CHARACTERS
from stateshape.study.study_file import DriftChoice, RunChoice, StudyFile, TaskChoice

UNNAMED = "tuned"
COMMON = (
    "adapter",
    "model",
    "merged",
    "final",
    "output",
)  # names of folders that say nothing: their parent's comes first


def audit_file(
    base: str,
    tuned: Sequence[str],
    *,
    task: str,
    retention: Sequence[str] = (),
    limit: int | None = None,
    drift: DriftChoice | None = None,
    settings: ModelSettings | None = None,
) -> StudyFile:
    """Raises BadInput where a checkpoint is named twice, or none is."""
    if not tuned:
        raise BadInput("tuned: got none; expected one or more models, adapters or runs to compare with the base")
    if twice := [one for one in tuned if list(tuned).count(one) > 1]:
        raise BadInput(f"tuned: got {shown(twice[0])} twice; expected each once")
    return StudyFile(
        study=f"Audit of checkpoints of {label_of(base)}",
        model=base,
        target=TaskChoice(task=task, limit=limit),
        retention=[TaskChoice(task=name, limit=limit) for name in retention],
        runs={name: RunChoice(checkpoint=one, label=label_of(one)) for name, one in zip(names_of(tuned), tuned)},
        drift=drift or DriftChoice(),
        locality=None,
        model_settings=settings or ModelSettings(),
    )


def label_of(source: str) -> str:
    """The last part of a path or a hub id; with the part before it where that one says nothing."""
    parts = [part for part in Path(source).parts if part not in ("/", ".", "..")] or [source]
    return (
        "/".join(parts[-2:]) if parts[-1] in COMMON or re.fullmatch(r"(seed|checkpoint-?)\d+", parts[-1]) else parts[-1]
    )


def names_of(sources: Sequence[str]) -> list[str]:
    """A run's name for each, all different: they are folders of the study."""
    names: list[str] = []
    for source in sources:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", label_of(source)).strip("_.-")[: MOST_CHARACTERS - 4] or UNNAMED
        number, name = 2, UNNAMED if plain == BASE else plain
        while name in names:
            number, name = number + 1, f"{plain}_{number}"
        names.append(name)
    return names
