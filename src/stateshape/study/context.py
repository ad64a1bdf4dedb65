"""Shared by every run of a study: the weights, the tasks, the sampler, the folder and the reporter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from stateshape.core import layout
from stateshape.core.files import BadInput, read_jsonl
from stateshape.core.progress import Reporter
from stateshape.core.records import Operators
from stateshape.core.study_records import BASE
from stateshape.core.wording import shown
from stateshape.drift.rulers import Encoder
from stateshape.locality.compared import Compared
from stateshape.locality.doses import DoseStates, dose_states
from stateshape.policy.policy import Policy
from stateshape.policy.weights import SharedWeights
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.settings import Sampler
from stateshape.study.drift_rollouts import TokensRecord, encoders_of
from stateshape.study.plan import Plan
from stateshape.study.run_spec import RunSpec
from stateshape.study.study_file import StudyFile, TaskChoice
from stateshape.tasks.harness import is_answered_in_text
from stateshape.tasks.items import ChoiceItem, GenerationItem
from stateshape.tasks.load import check_evaluable, load_task
from stateshape.tasks.reading import Reading
from stateshape.tasks.task import GenerationTask, Task

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class StudyContext:
    """Shared by every run of a study: weights, tasks, sampler, folder and reporter."""

    plan: Plan
    folder: Path
    weights: SharedWeights
    target: GenerationTask
    retention: list[Task]
    data: Mapping[str, GenerationTask] = field(default_factory=dict)  # what runs name as their `data`
    protects: Mapping[str, Task] = field(default_factory=dict)  # what runs name as train.protect.task
    eval_tasks: Sequence[Task] = ()  # what runs are evaluated on while they train
    reporter: Reporter
    sampler: Sampler = field(default_factory=LocalSampler)
    operators: Operators | None = None  # filled where it is given
    claim_wait_s: float = 0.0  # for a run's folder that another process holds

    _remembered: dict[str, Any] = field(default_factory=dict)  # by what it is of, see remembered

    def run_folder(self, run: str, seed: int) -> Path:
        return layout.run_folder(self.folder, run, seed)

    @property
    def first_seed(self) -> int:
        return self.plan.file.seeds[0]

    def fixed_folder(self, run: str) -> Path:
        """The one folder of a run without a training seed: the base, or a checkpoint."""
        return next(iter(layout.seed_folders(self.folder, run)), self.run_folder(run, self.first_seed))

    def remembered(self, name: str, make: Callable[[], T]) -> T:
        """What is made once for all runs, e.g. of the base."""
        if name not in self._remembered:
            self._remembered[name] = make()
        return self._remembered[name]  # type: ignore[no-any-return]

    @cached_property
    def compared(self) -> Compared | None:
        """The reference of every run's locality probes; None where the study does not ask for them."""
        settings = self.plan.file.locality
        if settings is None:
            return None
        base = Policy(self.weights, None)
        scored = [task for task in self.retention if not is_answered_in_text(task)]
        questions = [item.prompt for task in scored for item in evaluated_items(task)]
        return Compared(
            base=base,
            new_task=[
                base.fitted_prompt(item.asked, behind=settings.max_new_tokens)
                for item in self.target.test[: settings.prompts]
            ],
            retention=[
                base.fitted(base.encode_prompt(text), behind=settings.retention_tokens)
                for text in spread_over(questions, settings.prompts)
            ],
            sampler=self.sampler,
            stops=self.target.stops,
            settings=settings,
            seed=0,
        )

    @cached_property
    def encoders(self) -> dict[str, Encoder]:
        """Encoders for drift, in addition to words."""
        return encoders_of(self.plan.file.drift, Policy(self.weights, None))

    @cached_property
    def dose_states(self) -> DoseStates:
        """The states at which every run's distance from the base is measured: of the base's rollouts in its folder."""
        assert self.plan.file.along is not None
        base_folder = next(iter(layout.seed_folders(self.folder, BASE)))
        rolled = read_jsonl(layout.tokens(base_folder), TokensRecord)
        return dose_states(
            Policy(self.weights, None),
            [record.prompt for record in rolled],
            [record.response for record in rolled],
            limit=self.plan.file.along.positions,
            temperature=self.plan.file.drift.temperature,
        )

    def data_of(self, spec: RunSpec) -> GenerationTask:
        """The task whose training items a run trains on."""
        return data_of(spec, self.target, self.data)

    @property
    def tasks(self) -> list[Task]:
        return [self.target, *self.retention]

    def choice_of(self, task: Task) -> TaskChoice:
        """The entry of a task in the study's file."""
        return [self.plan.file.target, *self.plan.file.retention][self.tasks.index(task)]


def evaluated_items(task: Task) -> Sequence[GenerationItem | ChoiceItem]:
    return task.test if isinstance(task, GenerationTask) else task.items


def spread_over(texts: list[str], num: int) -> list[str]:
    """`num` of them at even distances, so that all tasks and subjects are represented."""
    return texts[:: max(1, len(texts) // num)][:num]


def graded_by(metric: str, task: Task) -> GenerationTask:
    """The task with another headline metric. Raises BadInput where it has no such one."""
    if not isinstance(task, GenerationTask) or not {"strict", "flexible"} <= set(task.metrics):
        raise BadInput(
            f"metric: got {metric} for {task.name}, which is scored by {task.metric}; expected a task whose answers in "
            "free text are read strictly or flexibly; leave it out there"
        )
    return replace(task, metric=metric)


def load_tasks(file: StudyFile, data_dir: Path | None) -> tuple[GenerationTask, list[Task]]:
    """The study's tasks. Raises BadInput if the target is not a task that is answered in free text."""

    def load(choice: TaskChoice) -> Task:
        task = load_task(
            choice.task,
            data_dir=data_dir,
            limit=choice.limit,
            shots=choice.shots,
            max_new_tokens=choice.max_new_tokens,
            reading=choice.read,
        )
        check_evaluable(task)
        if choice.metric is not None:
            task = graded_by(choice.metric, task)
        if choice.samples is not None and not is_answered_in_text(task):
            raise BadInput(
                f"samples: got some for {choice.task}, a multiple-choice task; expected none, since its options are "
                "scored and "
                "nothing is sampled; leave it out there"
            )
        return task

    target = load(file.target)
    if not isinstance(target, GenerationTask):
        raise BadInput(
            f"target.task: got {file.target.task}, a multiple-choice task; expected one answered in free text"
        )
    tasks = [target, *(load(choice) for choice in file.retention)]
    names = [task.name for task in tasks]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInput(
            f"retention: got two tasks named {shown(twice[0])}, which names their files; expected different names; leave one "
            "out, or rename it"
        )
    return target, tasks[1:]


def load_data(file: StudyFile, tasks: Sequence[Task], data_dir: Path | None) -> dict[str, GenerationTask]:
    """The tasks that runs name as their `data`, by that name. Raises BadInput."""
    found: dict[str, GenerationTask] = {}
    reads: dict[str, Reading] = {}
    for run, choice in file.runs.items():
        if choice.data is None:
            continue
        if choice.data in found:
            if choice.read != reads[choice.data]:
                raise BadInput(
                    f"runs.{run}.read: got {choice.data} read in two ways; expected one way for all runs of a study; give "
                    "every "
                    "run the same"
                )
            continue
        reads[choice.data] = choice.read
        task = load_task(choice.data, data_dir=data_dir, reading=choice.read)
        if not isinstance(task, GenerationTask):
            raise BadInput(
                f"runs.{run}.data: got {choice.data}, a multiple-choice task; expected one answered in free text"
            )
        if any(
            task.name == other.name and task.data_sha256 != other.data_sha256 for other in (*tasks, *found.values())
        ):
            raise BadInput(
                f"runs.{run}.data: got {choice.data}, a second task named {task.name} with other content; expected different "
                "names; rename one of the files"
            )
        found[choice.data] = task
    return found


def data_of(spec: RunSpec, target: GenerationTask, data: Mapping[str, GenerationTask]) -> GenerationTask:
    """The task whose training items a run trains on: the one it names, or the study's target."""
    return target if spec.data is None else data[spec.data]
