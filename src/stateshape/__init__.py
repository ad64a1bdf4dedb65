"""stateshape: where does a post-training signal land?

The names below are the whole public Python interface; each is imported when first used, so `import stateshape` is quick.

    policy = open_policy("embedded")                                   # or a folder, a run, a hub id
    rows = evaluate(policy, load_task("arithmetic", limit=200))
    run = train_run(SFT(), model="embedded", task="arithmetic", out="runs/sft", settings=TrainSettings(steps=50))
    study = run_study("quickstart", out="studies/q", seeds=[0])            # trains, measures, compares, reports
    open_study("studies/q").table2().to_pandas()                           # at any later time, also while it runs
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stateshape.analysis.dose import common_dose as common_dose
    from stateshape.analysis.dose import matched as matched
    from stateshape.analysis.dose import scores_at_dose as scores_at_dose
    from stateshape.analysis.reading import load_scores as load_scores
    from stateshape.api import audit as audit
    from stateshape.api import evaluate as evaluate
    from stateshape.api import lm_eval_model as lm_eval_model
    from stateshape.api import load_task as load_task
    from stateshape.api import measure_drift as measure_drift
    from stateshape.api import open_policy as open_policy
    from stateshape.api import open_study as open_study
    from stateshape.api import publish as publish
    from stateshape.api import run_study as run_study
    from stateshape.api import train_run as train_run
    from stateshape.core.files import BadInput as BadInput
    from stateshape.core.method import Composition as Composition
    from stateshape.core.method import Method as Method
    from stateshape.evals.evaluate import summarise as summarise
    from stateshape.evals.settings import EvalSettings as EvalSettings
    from stateshape.locality.settings import LocalitySettings as LocalitySettings
    from stateshape.policy.settings import LoraSettings as LoraSettings
    from stateshape.policy.settings import ModelSettings as ModelSettings
    from stateshape.recipes.grpo import GRPO as GRPO
    from stateshape.recipes.opd import OPD as OPD
    from stateshape.recipes.opd_continuation import OPDContinuation as OPDContinuation
    from stateshape.recipes.sft import SFT as SFT
    from stateshape.study.study_file import DriftChoice as DriftChoice
    from stateshape.study.study_file import RunChoice as RunChoice
    from stateshape.study.study_file import StudyFile as StudyFile
    from stateshape.study.study_file import TaskChoice as TaskChoice
    from stateshape.tasks.reading import Reading as Reading
    from stateshape.train.settings import TrainSettings as TrainSettings
    from stateshape.trainers.callback import StateshapeCallback as StateshapeCallback
    from stateshape.trainers.watch import watch_training as watch_training
    from stateshape.views.study import Study as Study

_HOME = {
    "BadInput": "core.files",
    "Composition": "core.method",
    "DriftChoice": "study.study_file",
    "EvalSettings": "evals.settings",
    "GRPO": "recipes.grpo",
    "LocalitySettings": "locality.settings",
    "LoraSettings": "policy.settings",
    "Method": "core.method",
    "ModelSettings": "policy.settings",
    "OPD": "recipes.opd",
    "OPDContinuation": "recipes.opd_continuation",
    "Reading": "tasks.reading",
    "RunChoice": "study.study_file",
    "SFT": "recipes.sft",
    "StateshapeCallback": "trainers.callback",
    "Study": "views.study",
    "StudyFile": "study.study_file",
    "TaskChoice": "study.study_file",
    "TrainSettings": "train.settings",
    "audit": "api",
    "common_dose": "analysis.dose",
    "evaluate": "api",
    "lm_eval_model": "api",
    "load_scores": "analysis.reading",
    "load_task": "api",
    "matched": "analysis.dose",
    "measure_drift": "api",
    "open_policy": "api",
    "open_study": "api",
    "publish": "api",
    "run_study": "api",
    "scores_at_dose": "analysis.dose",
    "summarise": "evals.evaluate",
    "train_run": "api",
    "watch_training": "trainers.watch",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'stateshape' has no attribute {name!r}")
    return getattr(import_module(f"stateshape.{_HOME[name]}"), name)
