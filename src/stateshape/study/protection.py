"""The term that keeps a run close to the base on another task (train.protect): its prompts, checked, and the term itself.

    weight * mean over tokens of KL(base || learner), at states that the base writes from the task's prompts

The states are the base's own, so that the sum over a text is an unbiased forward KL of whole texts and its gradient is exact:
had the learner written them, its choice of states would have a gradient that this loss leaves out. The forward KL to the base
is what forgetting was found to follow (arXiv:2509.04259, there on the new task's prompts). Prompts are those of training or
validation items; test items are refused. A term about other tasks' states, in place of the current ones: arXiv:2607.04364.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stateshape.core.files import BadInput
from stateshape.core.method import Combination, Method, Term, terms_of
from stateshape.core.records import MethodRecord
from stateshape.core.wording import shown
from stateshape.losses.divergence import Divergence
from stateshape.policy.policy import Policy
from stateshape.recipes.recipe import method_record
from stateshape.sampling.settings import Sampler, SamplingSettings
from stateshape.signals.distribution import TeacherDistribution
from stateshape.states.other_prompts import OtherPrompts
from stateshape.states.sampled import TeacherStates
from stateshape.study.plan import Plan
from stateshape.study.run_spec import RunSpec
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.load import VALIDATION, load_task
from stateshape.tasks.task import ChoiceTask, GenerationTask, Task
from stateshape.train.settings import Protect

PROTECT, OWN = "protect", "method"  # names of the terms: this one, and a recipe's that has none of its own


def load_protected(plan: Plan, evaluated: Sequence[Task], data_dir: Path | None) -> dict[str, Task]:
    """The tasks that runs protect, by the name they give. Raises BadInput where one has no prompts that may be trained on."""
    found: dict[str, Task] = {}
    for spec in plan.trained:
        name = spec.train.protect.task
        if name is None or name in found:
            continue
        field = f"runs.{spec.name}.train.protect.task" if plan.file.runs else "protect.task"
        task = load_task(name, data_dir=data_dir)
        check_prompts(task, name, field)
        check_not_evaluated(task, evaluated, field)
        found[name] = task
    return found


def check_prompts(task: Task, name: str, field: str) -> None:
    """Raises BadInput where the task has test items only."""
    if isinstance(task, ChoiceTask) and name not in VALIDATION:
        instead = f"{name}_validation" if f"{name}_validation" in VALIDATION else ", ".join(VALIDATION[1:])
        raise BadInput(
            f"{field}: got {shown(name)}, all of whose items are for testing; expected a task with training or validation "
            f"items; use {instead}, or rows of your own in free text"
        )
    if not prompts_of(task):
        raise BadInput(f'{field}: got {shown(name)} without training rows; expected some; give rows "split": "train"')


def check_not_evaluated(task: Task, evaluated: Sequence[Task], field: str) -> None:
    """Raises BadInput where a prompt of the task is evaluated: what is trained on can't be a test of forgetting."""
    trained_on = {item.prompt for item in prompts_of(task).values()}
    for other in evaluated:
        tested = other.test if isinstance(other, GenerationTask) else other.items
        if both := [item.item_id for item in tested if item.prompt in trained_on]:
            raise BadInput(
                f"{field}: got {task.name}, {len(both)} of whose prompts are evaluated as {other.name} ({both[0]} is the "
                "first); expected none; name another task, or evaluate other items"
            )
    if any(task.name == other.name and task.data_sha256 != other.data_sha256 for other in evaluated):
        raise BadInput(
            f"{field}: got a second task named {task.name} with other content; expected different names; rename "
            "one of the files"
        )


def prompts_of(task: Task) -> dict[str, GenerationItem]:
    """Its training items by id; of a multiple-choice task the questions, without their options' scores."""
    if isinstance(task, GenerationTask):
        return {item.item_id: item for item in task.train}
    return {item.item_id: GenerationItem(item_id=item.item_id, prompt=item.prompt, gold=None) for item in task.items}


def protect_term(choice: Protect, task: Task, *, base: Policy, sampler: Sampler, batch_prompts: int) -> Term:
    """base: a frozen policy without the learner's adapter."""
    items = prompts_of(task)
    stops = task.stops if isinstance(task, GenerationTask) else ()
    source = TeacherStates(
        items=items,
        sampler=sampler,
        settings=SamplingSettings(max_new_tokens=choice.rollout_tokens, stops=stops),
        teacher=base,
    )
    return Term(
        method=Method(
            states=OtherPrompts(source=source, num_prompts=choice.num_prompts(batch_prompts)),
            signal=TeacherDistribution(teacher=base, positions="all", items=items),
            loss=Divergence(direction="forward"),
        ),
        weight=choice.weight,
        is_apart=True,
    )


def protected(method: Method | Combination, term: Term) -> Combination:
    """The method and the term in one step. Raises BadInput where a term of the method has its name."""
    check_names(method)
    return Combination(terms={**{name or OWN: one for name, one in terms_of(method).items()}, PROTECT: term})


def check_names(method: Method | Combination) -> None:
    """Raises BadInput where a term of the method has the name of the one that protects."""
    if PROTECT in terms_of(method):
        raise BadInput(
            f"protect: got a method with a term {PROTECT!r} of its own; expected another name; rename its tag"
        )


def method_of(spec: RunSpec) -> MethodRecord:
    """The run's row of Table 1: its recipe's, with the term that protects. On-policy is said of the recipe alone."""
    record = method_record(spec.recipe_name, spec.recipe())
    task = spec.train.protect.task
    if task is None:
        return record
    return replace(
        record,
        state_source=f"{record.state_source} + base on {task}",
        signal=f"{record.signal} + base distribution on {task}",
        loss=record.loss if "divergence" in record.loss else f"{record.loss} + divergence",
    )


def told(specs: Sequence[RunSpec], tasks: Mapping[str, Task]) -> list[str]:
    """One line for each run that protects a task, for a plan in words."""
    return [
        f"{spec.name} protects {choice.task}: {choice.num_prompts(spec.train.batch_prompts)} of its "
        f"{len(prompts_of(tasks[choice.task]))} prompts per step, {choice.rollout_tokens} tokens each, weight {choice.weight:g}"
        for spec in specs
        if (choice := spec.train.protect).task is not None
    ]
