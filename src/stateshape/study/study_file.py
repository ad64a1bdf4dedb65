"""A study as a file: which runs, on which model, measured by which tasks.

    study: name            model: embedded            seeds: [0, 1, 2]
    target: {task: arithmetic, limit: 1000}           retention: [{task: facts}, {task: exam}]
    train: {lr: 1e-4, lora: {rank: 16}}               what every run shares
    runs:
      sft_stress: {recipe: sft, train: {epochs: 5, lr: 5e-4}}
      opd: {recipe: opd_continuation, teacher: sft_stress, with: {max_new_tokens: 96}}
      opd_then_rl: {recipe: grpo, start: opd}           goes on from opd's adapter
      theirs: {checkpoint: some/folder}                 loaded, not trained

Reads, and checks each field on its own; plan.py checks what they say together. Loads no model and writes nothing.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Literal

from stateshape.core.decoding import read_text
from stateshape.core.files import LATER, BadInput, parse
from stateshape.core.limits import check_most
from stateshape.core.records import Json
from stateshape.core.study_records import ClaimChoice
from stateshape.core.wording import MAX_PATH, shown
from stateshape.evals.settings import EvalSettings
from stateshape.locality.settings import LocalitySettings
from stateshape.policy.settings import ModelSettings
from stateshape.sampling.served.choice import SamplerName
from stateshape.study.execute_choice import ExecuteChoice
from stateshape.study.yaml_file import read_yaml
from stateshape.tasks.harness import named
from stateshape.tasks.reading import Reading
from stateshape.train.kept_adapters import CANDIDATES, FINE, Spacing, kept_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleChoice:
    """A second evaluation of a task, on several samples per item."""

    n: int = 4
    """Samples per item."""
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise BadInput(f"samples n: got {self.n}; expected at least 1")
        check_most("samples ", samples=self.n)
        if not 0 < self.temperature < math.inf:
            raise BadInput(f"samples temperature: got {self.temperature}; expected a number above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskChoice:
    """A task and how many of its items to evaluate."""

    task: str
    limit: int | None = None
    shots: int = 0
    max_new_tokens: int | None = None
    """Longest completion in tokens. Default: the task's own."""
    samples: SampleChoice | None = None
    """Also answer every item several times at a temperature (free text only). Default: only once, greedily."""
    metric: Literal["strict", "flexible"] | None = None
    """How answers in free text are read, for scores, claims and the reward exact-answer. Default: the task's own."""
    read: Reading = field(default_factory=Reading)
    """How rows of your own are read: columns, kind, split, turns, as_chat, grader (docs/guides/your-data.md)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AlongChoice:
    """At which steps of each run its adapter is kept and measured (docs/dose.md)."""

    points: int = 6
    """Steps at most, the last one included."""
    spacing: Spacing = field(default="doubling", metadata=LATER)
    """doubling: each step is half of the next; even: all are equally far apart; kl: about equally far apart in the root of the
    KL to the base, chosen among five times as many steps."""
    around: list[float] = field(default_factory=list, metadata=LATER)
    """KLs to the base, in nats, at which claims compare: the steps right before and after each are points, too (spacing kl)."""
    limit: int | None = None
    """Items of each task at a point: the first, of an exam some of each subject. Default: all that the task evaluates."""
    samples: bool = field(default=False, metadata=LATER)
    """Also the samples of the tasks that have `samples`, at each point: claims may then name their scores at a dose."""
    positions: int = 2048
    """Token states of the base's rollouts on which the distance from the base is measured, at most."""
    keep: bool = True
    """Keep the adapters; if not, each is deleted once it is measured."""

    def __post_init__(self) -> None:
        for name in ("points", "limit", "positions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BadInput(f"along {name}: got {value}; expected at least 1")
            check_most("along ", **{name: value})
        if self.around and self.spacing != "kl":
            raise BadInput(f"along around: got {self.around} with spacing {self.spacing}; expected spacing: kl")
        if wrong := [distance for distance in self.around if not distance > 0]:
            raise BadInput(f"along around: got {wrong[0]:g}; expected KLs above 0, in nats")

    @property
    def most(self) -> int:
        """Steps at most, with those around a distance."""
        return self.points + 2 * len(self.around)

    def steps(self, num_steps: int) -> list[int]:
        """At which the adapter is kept; by KL those among which points are chosen."""
        return kept_steps(num_steps, self.points, self.spacing, per_point=FINE if self.around else CANDIDATES)


@dataclass(frozen=True, kw_only=True, slots=True)
class DriftChoice:
    """The fixed prompt set on which rollouts are compared."""

    prompts: int = 128
    """Training prompts the drift rollouts start from: the last ones, so that a limited run does not train on them."""
    cuts: int = 2
    """Prefix states per rollout."""
    max_new_tokens: int = 128
    temperature: float = 1.0
    hidden: bool = True
    """Also compute distances on hidden states of the untrained base."""
    encoder: str | None = None
    """Also compute distances on the embeddings of this sentence-transformers model."""

    def __post_init__(self) -> None:
        for name in ("prompts", "cuts", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise BadInput(f"drift {name}: got {getattr(self, name)}; expected at least 1")
            check_most("drift ", **{name: getattr(self, name)})
        if self.temperature < 0:
            raise BadInput(f"drift temperature: got {self.temperature}; expected 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunChoice:
    """One run of a study file: trained by a recipe, or a checkpoint. `settings` is written as `with:` there."""

    recipe: str | None = None
    checkpoint: str | None = None
    """A model or adapter to load instead: a folder or a hub id."""
    label: str = ""
    start: str | None = None
    """Another run, or a folder, whose adapter this run goes on from. Default: a fresh adapter on the base."""
    teacher: str | None = None
    states: str | None = None
    data: str | None = None
    """Another task, on whose training items the run trains. Default: the study's target."""
    read: Reading = field(default_factory=Reading)
    """How the rows of `data` are read, where they are your own."""
    settings: dict[str, Json] = field(default_factory=dict)
    train: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyFile:
    """The contents of the YAML file."""

    study: str
    model: str
    target: TaskChoice
    retention: list[TaskChoice]
    runs: dict[str, RunChoice]
    seeds: list[int] = field(default_factory=lambda: [0])
    train: dict[str, Json] = field(default_factory=dict)
    drift: DriftChoice = field(default_factory=DriftChoice)
    locality: LocalitySettings | None = field(default_factory=LocalitySettings)
    """How closely each run is watched while it trains (docs/locality.md); null: not at all."""
    eval: EvalSettings = field(default_factory=EvalSettings)
    """Evaluate each run while it trains (docs/guides/watch.md). Default: only at its end."""
    report_to: list[str] = field(default_factory=list)
    """Experiment trackers that runs report to: tensorboard, trackio, wandb, mlflow. Default: none."""
    along: AlongChoice | None = None
    """Measure each run also on its way (docs/dose.md). Default: only at its end."""
    model_settings: ModelSettings = field(default_factory=ModelSettings)
    sampler: SamplerName = "local"
    """What samples: this machine, or vLLM servers (docs/guides/servers.md)."""
    servers: list[str] = field(default_factory=list)
    """Addresses of the vLLM servers, e.g. http://localhost:8000. May change in a folder that the plan has begun."""
    notes: str = ""
    roles: dict[str, str] = field(default_factory=dict)
    """Which run plays which role of the claims, e.g. sft_stress: my_run. A run named like a role plays it."""
    contrasts: list[list[str]] = field(default_factory=list)
    """Further pairs of runs to compare, as [first, second]. Each run is always compared with the base and with its teacher."""
    claims: dict[str, ClaimChoice] = field(default_factory=dict)
    """What the study is to decide, by name, written before its first run (docs/verdicts.md)."""
    execute: ExecuteChoice = field(default_factory=ExecuteChoice)
    """Where its runs are done and what each is given there (docs/guides/cluster.md)."""


def presets() -> list[str]:
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in (files("stateshape.study") / "presets").iterdir()
        if entry.name.endswith(".yaml")
    )


def read_study_file(preset_or_file: str) -> StudyFile:
    """A preset by name, or a YAML file. Raises BadInput with the field, the value and the expected one."""
    if preset_or_file in presets():
        text = (files("stateshape.study") / "presets" / f"{preset_or_file}.yaml").read_text(encoding="utf-8")
    else:
        path = Path(preset_or_file)
        if not os.path.isfile(path):  # unlike Path.is_file, also False for a name that is too long
            near = difflib.get_close_matches(preset_or_file, presets(), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise BadInput(
                f"study: got {shown(preset_or_file, limit=MAX_PATH)}; expected one of {', '.join(presets())}, "
                f"or a YAML file{hint}"
            )
        text = read_text(path)
    value = read_yaml(text, where=preset_or_file)
    if not isinstance(value, dict):
        raise BadInput(
            f"{preset_or_file}: got {type(value).__name__}; expected a mapping with study, model, target, runs"
        )
    if isinstance(target := value.get("target"), dict):
        value["target"] = named(target)
    if isinstance(kept := value.get("retention"), list):
        value["retention"] = [named(entry) if isinstance(entry, dict) else entry for entry in kept]
    runs = value.get("runs")
    for run in runs.values() if isinstance(runs, dict) else ():
        if isinstance(run, dict) and "with" in run:
            run["settings"] = run.pop("with")
    return parse(value, StudyFile, where=preset_or_file)


def with_seeds(file: StudyFile, seeds: Sequence[int]) -> StudyFile:
    return replace(file, seeds=list(seeds))
