"""What a recipe is: one dataclass per file, whose fields are the method's own choices, and a `build`.

The command line's flags, a study file's fields and the documentation are made from these fields. Loads no model.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

from stateshape.core.dotted import load_object
from stateshape.core.files import LATER, BadInput
from stateshape.core.method import Combination, Composition, Method, Term
from stateshape.core.records import MethodRecord
from stateshape.core.wording import shown
from stateshape.losses.divergence import Direction, Divergence
from stateshape.policy.policy import Policy
from stateshape.recipes.names import BUILT_IN, built_in_path
from stateshape.sampling.settings import Sampler, SamplingSettings, check_sampling
from stateshape.sampling.top import TopTeacher
from stateshape.states.sampled import LearnerStates, PrefixCut, Prefixes
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.task import GenerationTask

Need = Literal["solutions", "rejected"]  # of the task's training items
NO_ANSWER = (
    "answer: got none, and a grader has nothing to compare with; expected one in every row; add 'answer', or give --reward "
    "file.py:name, a function of your own, or a recipe that grades nothing"
)


def no_server(source: str, top_k: int) -> TopTeacher:
    """Raises BadInput."""
    raise BadInput(f"teacher: got {shown(source)}, a server's address; expected a run, adapter or model folder here")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a recipe is built from. `teacher` loads a frozen policy by name, run folder or adapter folder.

    asked: a teacher on a server, by its address and the number of tokens it tells; not every caller has one.
    item_ids: the prompts the run trains on. folder: the run's own, for data that must outlive a step.
    """

    task: GenerationTask
    sampler: Sampler
    teacher: Callable[[str], Policy]
    item_ids: tuple[str, ...] = ()
    folder: Path = field(default_factory=Path)
    asked: Callable[[str, int], TopTeacher] = no_server

    @cached_property
    def items(self) -> Mapping[str, GenerationItem]:
        return {item.item_id: item for item in self.task.train}

    def sampling(self, tokens: int, *, temperature: float = 1.0, samples: int = 1) -> SamplingSettings:
        """Sampling as the task's answers end."""
        return SamplingSettings(
            max_new_tokens=tokens, temperature=temperature, num_samples=samples, stops=self.task.stops
        )

    def is_right(self, item_id: str, text: str, *, is_flexible: bool = False) -> bool:
        """Whether the task's grader calls the text right. Raises BadInput where the item has no answer."""
        verdict = self.task.is_right(text, self.items[item_id], is_flexible=is_flexible)
        if verdict is None:
            raise BadInput(f"{self.task.name}: {NO_ANSWER} ({item_id})")
        return verdict

    def check_gradable(self) -> None:
        """Whether every item that the run trains on has an answer. Raises BadInput."""
        if bare := [item.item_id for item in self.task.train if item.gold is None]:
            raise BadInput(f"{self.task.name}: {NO_ANSWER} ({bare[0]} is the first of {len(bare)} without)")


@runtime_checkable
class Recipe(Protocol):
    """A method by its fields. The class docstring's first line is what users read.

    `compositions`: what it is made of; several where it combines methods, or where its fields choose among them (then it
    is `Choosing`).
    `needs`: what the task's training items must have.
    """

    compositions: ClassVar[tuple[Composition, ...]]
    needs: ClassVar[tuple[Need, ...]]
    source: ClassVar[str]

    def build(self, parts: Parts) -> Method | Combination: ...


@runtime_checkable
class Choosing(Protocol):
    """An optional part of a recipe: which of its compositions its fields have chosen."""

    @property
    def composition(self) -> Composition: ...


class TokenBudget(NamedTuple):
    """Upper limits of tokens per prompt and step, without the tokens of the dataset's own solutions."""

    supervised: int
    sampled: int


@runtime_checkable
class Budgeted(Protocol):
    """An optional part of a recipe: the tokens it takes, from which a plan's size is estimated."""

    def tokens_per_prompt(self) -> TokenBudget: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerRollouts:
    """Fields of every recipe that samples from the learner."""

    rollout_tokens: int = 128
    """Longest rollout of the learner, in tokens."""
    samples: int = 1
    """Rollouts per prompt."""
    temperature: float = 1.0
    """Temperature of the rollouts."""

    def __post_init__(self) -> None:
        check_sampling(rollout_tokens=self.rollout_tokens, samples=self.samples, temperature=self.temperature)

    def tokens_per_prompt(self) -> TokenBudget:
        written = self.samples * self.rollout_tokens
        return TokenBudget(supervised=written, sampled=written)

    def rollouts(
        self, parts: Parts, *, cut: PrefixCut | None = None, prefixes: Prefixes = "refreshed"
    ) -> LearnerStates:
        return LearnerStates(
            items=parts.items,
            sampler=parts.sampler,
            settings=parts.sampling(self.rollout_tokens, temperature=self.temperature, samples=self.samples),
            cut=cut,
            prefixes=prefixes,
        )


def check_several(samples: int, *, why: str) -> None:
    """A signal that compares a prompt's samples needs two. Raises BadInput."""
    if samples < 2:
        raise BadInput(f"samples: got {samples}; expected 2 or more per prompt, {why}")


@dataclass(frozen=True, kw_only=True)
class Taught:
    """Fields of every recipe with a teacher."""

    teacher: str
    """The frozen teacher: a run folder, an adapter folder, or a model; of another vocabulary where the signal can cross it."""


@dataclass(frozen=True, kw_only=True)
class TeacherText:
    """Fields of every recipe that samples text from a teacher."""

    max_new_tokens: int = 128
    """Longest text that the teacher writes per call, in tokens."""
    teacher_temperature: float = 1.0
    """Temperature of the teacher's texts; 0 is greedy."""

    def teacher_sampling(self, parts: Parts, *, samples: int = 1) -> SamplingSettings:
        return parts.sampling(self.max_new_tokens, temperature=self.teacher_temperature, samples=samples)


@dataclass(frozen=True, kw_only=True)
class Diverging:
    """Fields of every recipe that uses a teacher's distribution."""

    direction: Direction = "forward"
    """forward: KL(teacher || learner); reverse: KL(learner || teacher); jsd: between the two, see beta."""
    beta: float = 0.5
    """For jsd: position between forward (0) and reverse (1) KL."""
    target_temperature: float = field(default=1.0, metadata=LATER)
    """Temperature of the teacher's distribution in the divergence; the learner's stays 1. Below 1 the target is sharper."""

    def __post_init__(self) -> None:
        self.divergence()

    def divergence(self) -> Divergence:
        """Raises BadInput where its numbers make no sense."""
        return divergence(direction=self.direction, beta=self.beta, target_temperature=self.target_temperature)


def divergence(*, direction: Direction, beta: float, target_temperature: float) -> Divergence:
    """Raises BadInput where its numbers make no sense."""
    try:
        return Divergence(direction=direction, beta=beta, target_temperature=target_temperature)
    except ValueError as error:
        raise BadInput(str(error)) from None


@dataclass(frozen=True, kw_only=True)
class Rewarded:
    """Fields of every recipe with a reward."""

    reward: str = "exact-answer"
    """exact-answer: 1 if right as the task asks for it; flexible-answer: 1 if right wherever it stands (the last number of
    GSM8K); file.py:name of a function, ours or TRL's kind; or several with weights, A,0.2*B."""


def taught(parts: Parts, teacher: str, build: Callable[[Policy], Method]) -> Method | Combination:
    """The method under one teacher, or one method per teacher where the text names several by the items' tags.

    `maths=studies/a,stories=studies/b`: each item is taught by the teacher of its tag; the teachers have equal weight.
    """
    return taught_by(parts, teacher, lambda source: build(parts.teacher(source)))


def taught_by(parts: Parts, teacher: str, build: Callable[[str], Method]) -> Method | Combination:
    """As `taught`, where a method is built from the teacher's name."""
    sources = teachers_of(teacher)
    if list(sources) == [""]:
        return build(teacher)
    tags = {item.tag for item in parts.task.train}
    if odd := sorted(str(tag) for tag in tags - sources.keys()):
        raise BadInput(
            f"teacher: got {teacher!r}, which names no teacher for items tagged {odd[0]}; name one for each tag"
        )

    def takes(tag: str) -> Callable[[str], bool]:
        return lambda item_id: parts.items[item_id].tag == tag

    return Combination(
        terms={
            tag: Term(method=build(source), weight=1 / len(sources), takes=takes(tag))
            for tag, source in sources.items()
        }
    )


def teachers_of(teacher: str) -> dict[str, str]:
    """Tag -> name of that teacher; the tag is empty where one teacher teaches all. Raises BadInput."""
    if "=" not in teacher or os.path.exists(teacher):
        return {"": teacher}
    pairs = [pair.partition("=") for pair in teacher.split(",")]
    tags = [tag.strip() for tag, _, _ in pairs]
    if not all(tag and source.strip() for tag, (_, _, source) in zip(tags, pairs)) or len(set(tags)) < len(tags):
        raise BadInput(
            f"teacher: got {shown(teacher)}; expected one teacher, or tag=teacher,tag=teacher with different tags"
        )
    return {tag: source.strip() for tag, (_, _, source) in zip(tags, pairs)}


def recipe_class(name: str) -> type[Recipe]:
    """A built-in recipe by name, or one of your own: `package.module:Class`, `file.py:Class`. Raises BadInput."""
    path = built_in_path(name) or name
    if ":" not in path:
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        raise BadInput(
            f"recipe: got {shown(name)}; expected one of {', '.join(BUILT_IN)}, or package.module:Class, "
            f"file.py:Class of your own{f'; did you mean {near[0]}?' if near else ''}"
        )
    recipe: Any = load_object(path, what="recipe")
    known = getattr(recipe, "compositions", None)
    if not known or not all(isinstance(one, Composition) for one in known) or not hasattr(recipe, "build"):
        raise BadInput(f"recipe: got {name!r}, which has no `compositions` and `build`; see docs/recipes.md")
    if not hasattr(recipe, "__dataclass_fields__"):
        raise BadInput(f"recipe: got {name!r}, which is not a dataclass; its fields are its flags; see docs/recipes.md")
    if lacking := [field for field in ("needs", "source") if not hasattr(recipe, field)]:
        raise BadInput(f"recipe: got {name!r}, which has no `{lacking[0]}`; see docs/recipes.md")
    return recipe


def recipe_name(recipe: Recipe) -> str:
    """The built-in name of a recipe object's class, or its dotted path."""
    path = f"{type(recipe).__module__}:{type(recipe).__qualname__}"
    return next((name for name, known in BUILT_IN.items() if known == path), path)


def fields_of(recipe: type[Recipe]) -> dict[str, dataclasses.Field[Any]]:
    return {one.name: one for one in dataclasses.fields(recipe)}  # type: ignore[arg-type]


def made_of_by(recipe: type[Recipe] | Recipe) -> tuple[Composition, ...]:
    """The compositions of a recipe; of an object whose fields choose among them, the chosen one."""
    if not isinstance(recipe, type) and isinstance(recipe, Choosing):
        return (recipe.composition,)
    return recipe.compositions


def method_record(name: str, recipe: type[Recipe] | Recipe) -> MethodRecord:
    """The recipe's row of the paper's Table 1, from its own declaration."""

    def joined(values: list[str]) -> str:
        return " + ".join(dict.fromkeys(values))

    made_of = made_of_by(recipe)
    return MethodRecord(
        method=name,
        state_source=joined([one.states for one in made_of]),
        signal=joined([one.signal for one in made_of]),
        density=joined([one.density for one in made_of]),
        loss=joined([one.loss for one in made_of]),
        is_on_policy=all(one.is_on_policy for one in made_of),
        source=recipe.source,
        summary=(recipe.__doc__ or "").strip().splitlines()[0],
    )


def all_methods() -> list[MethodRecord]:
    return [method_record(name, recipe_class(name)) for name in BUILT_IN]
