"""A study as a file: which runs, on which model, measured by which tasks. Read, checked and ordered before any model loads.

    study: name            model: embedded            seeds: [0, 1, 2]
    target: {task: arithmetic, limit: 1000}           retention: [{task: facts}, {task: exam}]
    train: {lr: 1e-4, lora: {rank: 16}}               what every run shares
    runs:
      sft_stress: {recipe: sft, train: {epochs: 5, lr: 5e-4}}
      opd: {recipe: opd_continuation, teacher: sft_stress, with: {max_new_tokens: 96}}
      opd_then_rl: {recipe: grpo, start: opd}           goes on from opd's adapter
      theirs: {checkpoint: some/folder}                 loaded, not trained

Loads no model and writes nothing.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, replace
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

from stateshape.core.decoding import read_text
from stateshape.core.files import LATER, BadInput, comparable, parse, plain, sha256_text
from stateshape.core.limits import check_most
from stateshape.core.records import Json
from stateshape.core.study_records import BASE, ClaimChoice
from stateshape.core.wording import MAX_PATH, MAX_SHOWN, shown
from stateshape.evals.settings import EvalSettings
from stateshape.locality.settings import LocalitySettings
from stateshape.policy.settings import ModelSettings
from stateshape.recipes.recipe import Recipe, fields_of, made_of_by, recipe_class, teachers_of
from stateshape.sampling.served.check import SamplerName, check_servers
from stateshape.study.checkpoints import CheckpointSpec, checkpoint_spec
from stateshape.study.earlier import as_before
from stateshape.study.execute_choice import ExecuteChoice
from stateshape.study.plan_claims import check_claims
from stateshape.study.yaml_file import read_yaml
from stateshape.tasks.harness import named
from stateshape.tasks.reading import Reading
from stateshape.trackers.names import check_trackers
from stateshape.train.kept_adapters import Spacing
from stateshape.train.settings import TrainSettings

SOURCES = ("teacher", "states", "reference")  # fields of recipes that name runs, folders or models
RUN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
MOST_CHARACTERS = 100  # of a run's name: file systems take 255 bytes


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
    limit: int | None = None
    """Items of each task at a point: the first, of an exam some of each subject. Default: all that the task evaluates."""
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


class RunSpec(NamedTuple):
    """One run, ready to be built: its recipe filled in except for the locations of the policies and states it names."""

    name: str
    label: str
    recipe_name: str
    settings: dict[str, Json]  # the recipe's fields but the sources
    sources: dict[str, str]  # by field: another run, "base", a folder or a hub id
    train: TrainSettings
    given_class: type[Recipe] | None = None  # of a recipe object; other processes find the class by its name
    data: str | None = None  # the task whose training items it trains on; None: the study's target
    read: Reading = Reading()  # of the rows of `data`
    start: str | None = None  # another run, or a folder, whose adapter it goes on from

    @property
    def recipe_class(self) -> type[Recipe]:
        return self.given_class or recipe_class(self.recipe_name)

    @property
    def teacher(self) -> str | None:
        return self.sources.get("teacher")

    def named(self) -> dict[str, list[str]]:
        """By field, the runs, folders and models it names: a teacher field may name several."""
        found = {
            name: list(teachers_of(text).values()) if name == "teacher" else [text]
            for name, text in self.sources.items()
        }
        return found if self.start is None else {**found, "start": [self.start]}

    def needs(self) -> list[str]:
        """All sources that it names."""
        return list(chain.from_iterable(self.named().values()))

    def recipe(self, stands: Callable[[str], str] | None = None) -> Recipe:
        """The recipe object. `stands`: from a named source to its location; None: as it is named."""
        where = stands or (lambda source: source)
        found = {
            name: ",".join(f"{tag}={where(one)}" if tag else where(one) for tag, one in teachers_of(text).items())
            if name == "teacher"
            else where(text)
            for name, text in self.sources.items()
        }
        return parse(self.settings | found, self.recipe_class, where=f"runs.{self.name}.with")


AnySpec = RunSpec | CheckpointSpec


class Plan(NamedTuple):
    file: StudyFile
    runs: list[AnySpec]  # teachers before their students
    sha256: str  # of everything but the seeds: a study may be given more seeds later

    @property
    def trained(self) -> list[RunSpec]:
        return [spec for spec in self.runs if isinstance(spec, RunSpec)]

    @property
    def checkpoints(self) -> list[CheckpointSpec]:
        return [spec for spec in self.runs if isinstance(spec, CheckpointSpec)]


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


def on_device(plan: Plan, device: str | None) -> Plan:
    """The same plan, with the same checksum, on another device than its file's; None: on its file's."""
    if device is None:
        return plan
    return plan._replace(file=replace(plan.file, model_settings=replace(plan.file.model_settings, device=device)))


def make_plan(file: StudyFile) -> Plan:
    """Checks every run by building its recipe and settings, and puts teachers first."""
    if not file.seeds or len(set(file.seeds)) != len(file.seeds):
        raise BadInput(f"seeds: got {shown(file.seeds)}; expected one or more different numbers")
    if any(seed < 0 for seed in file.seeds):
        raise BadInput(f"seeds: got {shown(file.seeds)}; expected numbers from 0")
    check_most(seed=max(file.seeds))
    names = [choice.task for choice in (file.target, *file.retention)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInput(f"retention: got task {twice[0]} twice; expected each task once, as target or for retention")
    specs = {name: any_spec(name, choice, file.train) for name, choice in file.runs.items()}
    check_runs_named(file)
    check_servers(file.sampler, file.servers)
    check_trackers(file.report_to)
    check_claims(file.claims, runs=[BASE, *file.runs], tasks=[choice.task for choice in (file.target, *file.retention)])
    return Plan(file=file, runs=in_order(specs), sha256=plan_sha256(file, list(specs.values())))


def check_runs_named(file: StudyFile) -> None:
    """Roles and contrasts name runs of the study. Raises BadInput."""
    known = (BASE, *file.runs)
    for key, pair in (
        *((f"roles.{role}", [run]) for role, run in file.roles.items()),
        *(("contrasts", c) for c in file.contrasts),
    ):
        if odd := [run for run in pair if run not in known]:
            raise BadInput(f"{key}: got {shown(odd[0])}; expected one of {', '.join(known)}")
    if odd_pairs := [pair for pair in file.contrasts if len(pair) != 2 or pair[0] == pair[1]]:
        raise BadInput(f"contrasts: got {shown(odd_pairs[0])}; expected two different runs: [first, second]")


def plan_sha256(file: StudyFile, specs: Sequence[AnySpec]) -> str:
    """Of what is done, not of how it is written (5e-4 and 0.0005 are one plan) or how its results are read and called.

    Left out: seeds, labels, notes, roles, contrasts, claims, trackers, servers' addresses, where runs are done, and whether
    layers are compiled or split. They may change in a folder that the plan has begun; so may whether adapters are kept once
    they are measured. Left out where they are not chosen, so that plans of before there was a choice stay the same: lengths of
    completions, samples, how answers and rows are read, chat templates, four bits, what samples, evaluations and measurements
    along a run, and fields of recipes and of training that are declared LATER.
    """
    runs = {spec.name: meaning_of(spec) for spec in specs}
    done = replace(file, seeds=[], train={}, runs={}, notes="", roles={}, contrasts=[], claims={})
    meaning = {**plain(done), "runs": runs}
    del meaning["claims"]
    del meaning["servers"]
    if meaning["sampler"] == "local":
        del meaning["sampler"]
    del meaning["execute"]
    del meaning["report_to"]
    for name in ("compile", "shard_base"):
        del meaning["model_settings"][name]
    for name in ("chat_template", "quantize"):
        if meaning["model_settings"][name] is None:
            del meaning["model_settings"][name]
    for choice in (meaning["target"], *meaning["retention"]):
        for name in ("max_new_tokens", "samples", "metric"):
            if choice[name] is None:
                del choice[name]
        if choice["read"] == plain(Reading()):
            del choice["read"]
    if file.locality is not None:
        meaning["locality"] = comparable(file.locality)
    if file.eval == EvalSettings():
        del meaning["eval"]
    if meaning["along"] is None:
        del meaning["along"]
    else:
        meaning["along"] = comparable(file.along)
        del meaning["along"]["keep"]
    return sha256_text(json.dumps(meaning, sort_keys=True))


def meaning_of(spec: AnySpec) -> list[Json]:
    """What a run does, for the plan's checksum."""
    if isinstance(spec, CheckpointSpec):
        return [{"checkpoint": spec.checkpoint}]
    meaning: list[Json] = [spec.recipe_name, comparable(spec.recipe()), as_before(comparable(spec.train))]
    if spec.data is not None:
        meaning.append(spec.data)
    if not spec.read.is_default:
        meaning.append(comparable(spec.read))
    if spec.start is not None:
        meaning.append({"start": spec.start})
    return meaning


def any_spec(name: str, choice: RunChoice, shared: dict[str, Json]) -> AnySpec:
    """Raises BadInput where the entry does not say one thing: how to train, or what to load."""
    check_run_name(name)
    if choice.checkpoint is not None:
        return checkpoint_spec(name, choice)
    if choice.recipe is None:
        raise BadInput(
            f"runs.{name}.recipe: is missing; expected a recipe (see stateshape methods), or checkpoint: a model or adapter"
        )
    return run_spec(name, choice.recipe, choice, shared)


def check_run_name(name: str) -> None:
    if name == BASE:
        raise BadInput("runs.base: the untrained base is always part of a study; leave it out or rename the run")
    if not RUN_NAME.fullmatch(name) or len(name) > MOST_CHARACTERS:
        raise BadInput(
            f"runs.{name[:MAX_SHOWN]}: got {shown(name)}; expected up to {MOST_CHARACTERS} letters, digits, "
            "'_', '-' and '.': it names a folder; rename it"
        )


def run_spec(name: str, recipe: str, choice: RunChoice, shared: dict[str, Json]) -> RunSpec:
    found = recipe_class(recipe)
    sources = given_sources(name, choice, found)
    spec = RunSpec(
        name=name,
        label=choice.label or name,
        recipe_name=recipe,
        settings={key: value for key, value in choice.settings.items() if key not in sources},
        sources=sources,
        train=parse(merged(shared, choice.train), TrainSettings, where=f"runs.{name}.train"),
        data=choice.data,
        read=choice.read,
        start=choice.start,
    )
    check_most(f"runs.{name}.", **plain(spec.recipe()))
    check_budget(spec)
    if choice.data is None and not choice.read.is_default:
        raise BadInput(
            f"runs.{name}.read: got some without data; expected it next to data, whose rows it reads; add data"
        )
    return spec


def check_budget(spec: RunSpec) -> None:
    """A pair compares whole responses: its tokens can't be chosen from. Raises BadInput."""
    is_preference = any(one.signal == "preference" for one in made_of_by(spec.recipe()))
    train = spec.train
    if train.supervised_per_step is not None and is_preference:
        raise BadInput(
            f"runs.{spec.name}.train.supervised_per_step: got {train.supervised_per_step} for a preference, which "
            "compares whole responses; expected none; leave it out, or take fewer prompts per step"
        )
    if not train.band.is_everything and is_preference:
        raise BadInput(
            f"runs.{spec.name}.train.band: got low {train.band.low}, high {train.band.high} for a preference, which compares "
            "whole responses; expected none; leave it out, or use a recipe that supervises token by token"
        )


def given_sources(name: str, choice: RunChoice, recipe: type[Recipe]) -> dict[str, str]:
    """The fields that name policies and states. Raises BadInput where one is missing or not the recipe's."""
    given: dict[str, Json] = {"teacher": choice.teacher, "states": choice.states}
    given |= {key: value for key, value in choice.settings.items() if key in SOURCES}
    fields = fields_of(recipe)
    for key, value in given.items():
        is_needed = key in fields and fields[key].default is MISSING
        if (value is not None and key not in fields) or (value is None and is_needed):
            wanted = f"a {key}: another run's name, base, or a folder or model" if is_needed else f"no {key}"
            raise BadInput(f"runs.{name}.{key}: got {shown(value)}; recipe {choice.recipe} takes {wanted}")
    return {key: str(value) for key, value in given.items() if value is not None}


def merged(shared: dict[str, Json], own: dict[str, Json]) -> dict[str, Json]:
    """`own` over `shared`, also inside nested mappings."""
    result = dict(shared)
    for key, value in own.items():
        below = result.get(key)
        result[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    if own.get("epochs") is not None:
        result.pop("steps", None)
    if own.get("steps") is not None:
        result.pop("epochs", None)
    return result


def outside(plan: Plan) -> list[AnySpec]:
    """The runs with only those sources that are not runs of the plan."""
    inside = {spec.name for spec in plan.runs}
    return [
        spec._replace(
            sources={key: text for key, text in spec.sources.items() if inside.isdisjoint(spec.named()[key])},
            start=None if spec.start in inside else spec.start,
        )
        if isinstance(spec, RunSpec)
        else spec
        for spec in plan.runs
    ]


def in_order(specs: dict[str, AnySpec]) -> list[AnySpec]:
    """File order, except that a run comes after those it names. Raises BadInput on a circle."""
    ordered: dict[str, AnySpec] = {}

    def place(spec: AnySpec, waiting: tuple[str, ...]) -> None:
        if spec.name in waiting:
            raise BadInput(f"runs.{spec.name}: runs need each other in a circle: {' -> '.join((*waiting, spec.name))}")
        if spec.name in ordered:
            return
        for source in spec.needs():
            if source in specs:
                place(specs[source], (*waiting, spec.name))
        ordered[spec.name] = spec

    for spec in specs.values():
        check_names(spec, specs)
        place(spec, ())
    return list(ordered.values())


def check_names(spec: AnySpec, specs: Mapping[str, AnySpec]) -> None:
    """A source that is not a run of the study must be base, embedded, a folder or a hub id. Raises BadInput."""
    if isinstance(spec, CheckpointSpec):
        if spec.checkpoint in (BASE, *specs) and not os.path.exists(spec.checkpoint):
            raise BadInput(
                f"runs.{spec.name}.checkpoint: got {shown(spec.checkpoint)}, a run of this study, which is measured already; "
                "expected a folder or a hub id"
            )
        return
    if spec.start == BASE:
        raise BadInput(
            f"runs.{spec.name}.start: got base; expected a run or adapter folder; leave it out, since a run without a start "
            "begins from the base"
        )
    for key, sources in spec.named().items():
        for source in sources:
            if source in (BASE, "embedded", *specs) or "/" in source or os.path.exists(source):
                continue
            near = difflib.get_close_matches(source, specs, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise BadInput(
                f"runs.{spec.name}.{key}: got {shown(source, limit=MAX_PATH)}; expected another run ({', '.join(specs)}), "
                f"base, a folder or a hub id like owner/name{hint}"
            )
