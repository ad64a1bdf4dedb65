"""What a study will have measured, by the names that its claims may use. Loads no model."""

from __future__ import annotations

from collections.abc import Iterable

from stateshape.analysis.line import NAMES as ALONG_NAMES
from stateshape.analysis.planned_effects import (
    ALONG_PREFIX,
    BEFORE_PREFIX,
    COUNTS,
    DRIFT_PREFIX,
    LOCALITY_PREFIX,
    RUN_PREFIX,
)
from stateshape.analysis.probe_values import OF_A_STEP, VALUES
from stateshape.analysis.reading import GOLD_LOGP, GOLD_MASS
from stateshape.analysis.sampled import sampled_names
from stateshape.analysis.scores import EXTRACTIONS
from stateshape.drift.names import DISTANCES, FULL_STATE, GEOMETRIC
from stateshape.study.study_file import DriftChoice, SampleChoice, StudyFile
from stateshape.tasks.harness import HarnessTask, is_answered_in_text
from stateshape.tasks.task import Task


def measured_names(file: StudyFile) -> list[str]:
    """Numbers of a run and seed, as a claim's `measure` names them."""
    is_probed = file.locality is not None and (file.locality.share > 0 or file.locality.every is not None)
    return [
        *(DRIFT_PREFIX + name for name in drift_names(file.drift)),
        *(LOCALITY_PREFIX + name for name in VALUES if is_probed),
        *(BEFORE_PREFIX + name for name in OF_A_STEP if is_probed),
        *(ALONG_PREFIX + name for name in ALONG_NAMES if file.along is not None),
        *(RUN_PREFIX + name for name in COUNTS),
    ]


def drift_names(choice: DriftChoice) -> list[str]:
    """Of the distances in drift.json."""
    encoders = [name for name, is_used in (("hidden", choice.hidden), ("encoder", choice.encoder)) if is_used]
    return [
        *(prefix + name for prefix in ("", FULL_STATE) for name in DISTANCES),
        *(f"{encoder}_{name}" for encoder in encoders for name in GEOMETRIC),
    ]


def score_names(task: Task, samples: SampleChoice | None) -> list[str]:
    """Secondary scores of a task's rows, as a claim's `score` names them."""
    if not is_answered_in_text(task):
        return [GOLD_LOGP, GOLD_MASS]
    extractions: Iterable[str] = () if isinstance(task, HarnessTask) else EXTRACTIONS
    sampled = [] if samples is None else sampled_names(samples.temperature, samples.n)
    return [*(name for name in extractions if name != task.metric), *sampled]
