"""Whether what a study plans can be trained at all: data, recipes, teachers and recorded states. Asked before a model "
"loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from stateshape.core.files import BadInput
from stateshape.core.sealed import check_source
from stateshape.core.study_records import BASE
from stateshape.core.wording import shown
from stateshape.policy.open import check_teacher, check_tokenizer, open_reader, open_tokenizer
from stateshape.policy.policy import Policy
from stateshape.policy.settings import ModelSettings, check_quantize, check_shard
from stateshape.policy.source import resolve, shares_base
from stateshape.recipes.names import built_in_path
from stateshape.recipes.opd import OPD
from stateshape.recipes.recipe import Need, Parts, made_of_by, teachers_of
from stateshape.recipes.replay import Replay
from stateshape.record.reading import Recording
from stateshape.sampling.local import LocalSampler
from stateshape.sampling.served.teacher import is_address
from stateshape.sampling.top import Top
from stateshape.states.fit import check_texts
from stateshape.states.recorded import steps_of_share
from stateshape.study.checkpoints import CheckpointSpec
from stateshape.study.context import data_of
from stateshape.study.opened import asked_teachers
from stateshape.study.plan import Plan
from stateshape.study.protection import check_names
from stateshape.study.run_spec import RunSpec
from stateshape.study.starts import check_start
from stateshape.tasks.harness import HarnessTask
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.task import GenerationTask, Task

LACKS: dict[Need, tuple[str, str]] = {
    "solutions": ("completion", "add 'solution' to them, or use a recipe that needs none"),
    "rejected": ("rejected", "add 'rejected', a worse solution, to them, or use online_dpo, which samples its pairs"),
}


def check_training(spec: RunSpec, target: GenerationTask) -> None:
    """Whether the task has what the run trains on. Raises BadInput."""
    if not target.train and isinstance(target, HarnessTask):
        raise BadInput(
            f"{target.name}: got a task of lm-evaluation-harness without training documents; expected some; train on another "
            "task, with this one for retention"
        )
    if not target.train:
        raise BadInput(f'{target.name}: got no training rows; expected some; add rows with "split": "train"')
    items = target.train[: spec.train.num_items(len(target.train))]
    check_build(spec, target)
    for need in spec.recipe_class.needs:
        name, fix = LACKS[need]
        check_need(spec, target, [item for item in items if getattr(item, name) is None], need, fix)


def check_chats(plan: Plan, spec: RunSpec, target: GenerationTask) -> None:
    """Whether the model's chat template can render every chat of the run, from the tokenizer alone. Raises BadInput."""
    items = target.train[: spec.train.num_items(len(target.train))]
    chats = [item for item in items if item.chat is not None]
    model, settings = plan.file.model, plan.file.model_settings
    if not chats or open_tokenizer(model, settings) is None:
        return
    reader = open_reader(model, settings)
    for item in chats:
        reader.encode_prompt(item.asked)
    if "solutions" in spec.recipe_class.needs:
        try:
            check_texts(reader, chats)
        except BadInput as error:
            raise BadInput(f"{target.name}: {error}") from None


def check_templates(tasks: Sequence[Task], model: str, settings: ModelSettings) -> None:
    """Whether the model's chat template can render a chat of each task that evaluates some. Raises BadInput."""
    tests = [task.test for task in tasks if isinstance(task, GenerationTask)]
    chats = [chat for items in tests if (chat := next((item.chat for item in items if item.chat), None))]
    if not chats or open_tokenizer(model, settings) is None:
        return
    reader = open_reader(model, settings)
    for chat in chats:
        reader.encode_prompt(chat)


class NobodyAsked(NamedTuple):
    """A teacher on a server that is never asked."""

    source: str
    top_k: int

    def top(self, rows: Sequence[Sequence[int]], places: Sequence[Sequence[int]]) -> Top:
        raise NotImplementedError


def check_build(spec: RunSpec, target: GenerationTask) -> None:
    """Builds a built-in recipe once, its teachers policies that hold no model, for what its parts refuse. Raises BadInput."""
    if built_in_path(spec.recipe_name) is None:
        return
    nobody = Policy.__new__(Policy)

    def teacher(source: str) -> Policy:
        if list(teachers_of(source)) != [""]:
            raise BadInput(
                f"{spec.name}: got several teachers or references, {source!r}; recipe {spec.recipe_name} takes one"
            )
        return nobody

    parts = Parts(task=target, sampler=LocalSampler(), teacher=teacher, asked=NobodyAsked)
    recipe = spec.recipe()
    try:
        if isinstance(recipe, Replay):  # its states may not be there yet
            recipe.loss()
            recipe.signal_source(parts)
        else:
            built = recipe.build(parts)
            if spec.train.protect.task is not None:
                check_names(built)
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(f"{spec.name}: {error}") from None


def check_need(spec: RunSpec, target: GenerationTask, bare: list[GenerationItem], need: Need, fix: str) -> None:
    if bare:
        raise BadInput(
            f"{target.name}: {len(bare)} training rows have no {need.removesuffix('s')} ({bare[0].item_id} is the first); "
            f"recipe {spec.recipe_name} expected one in each; {fix}"
        )


def check_sources(
    plan: Plan, spec: RunSpec, target: GenerationTask, data: Mapping[str, GenerationTask] | None = None
) -> None:
    """The policies and states that a run names must be there, fit the model, and last as long as it. Raises BadInput."""
    inside = {other.name: other for other in plan.trained}
    loaded = {other.name: other.checkpoint for other in plan.checkpoints}
    check_served(plan, spec)
    check_quantize(plan.file.model_settings, is_full=spec.train.is_full)
    check_shard(plan.file.model_settings, is_full=spec.train.is_full)
    check_start(plan, spec)
    for key, sources in spec.named().items():
        for source in sources:
            if key == "start" or (source in (BASE, *inside) and key != "states"):
                continue
            if key == "states":
                check_states(spec, source, inside.get(source), lambda run: len(data_of(run, target, data or {}).train))
                continue
            location = loaded.get(source, source)
            if is_address(location):
                check_asked(plan, spec, key, location)
                continue
            check_source(location)
            if key == "teacher" and crosses_tokenizers(spec):
                check_tokenizer(location, plan.file.model_settings)
            else:
                check_teacher(plan.file.model, location, plan.file.model_settings)


def check_asked(plan: Plan, spec: RunSpec, key: str, address: str) -> None:
    """Whether the server at an address can teach the run. Raises BadInput."""
    recipe = spec.recipe()
    if key != "teacher" or not isinstance(recipe, OPD):
        raise BadInput(
            f"{key}: got {shown(address)}, a server's address, for recipe {spec.recipe_name}; expected a run, adapter or model "
            "folder; a server teaches opd alone"
        )
    file = plan.file
    tokenizer = open_tokenizer(file.model, file.model_settings)
    with asked_teachers(spec, tokenizer, file.model, is_first=True):
        pass


def check_served(plan: Plan, spec: RunSpec) -> None:
    """Whether servers can sample what the run trains: adapters on the base as it is. Raises BadInput."""
    if plan.file.sampler == "local":
        return
    if spec.train.is_full:
        raise BadInput(
            "parameters: got full with sampler vllm; expected lora: servers are given adapters, not models; leave one out"
        )
    if plan.file.model_settings.quantize is not None:
        raise BadInput(
            f"quantize: got {plan.file.model_settings.quantize} with sampler vllm; expected none: the servers' base would be "
            "another; leave one of them out"
        )


def crosses_tokenizers(spec: RunSpec) -> bool:
    return all(one.crosses_tokenizers for one in made_of_by(spec.recipe()))


def check_checkpoint(plan: Plan, spec: CheckpointSpec) -> None:
    """The checkpoint and the base below it must be there and loadable, as far as their files tell. Raises BadInput."""
    check_source(spec.checkpoint)
    resolved, base, settings = resolve(spec.checkpoint), plan.file.model, plan.file.model_settings
    if shares_base(resolved.model, base):
        return
    if plan.file.sampler != "local":
        raise BadInput(
            f"checkpoint: got {spec.checkpoint!r}, which is on {resolved.model!r}, with sampler {plan.file.sampler}; expected "
            f"an adapter on {base!r}, which the servers serve; leave sampler and servers out, or the checkpoint"
        )
    try:
        check_tokenizer(resolved.model, settings, what="checkpoint")
    except BadInput as error:
        if resolved.adapter is None:
            raise
        raise BadInput(
            f"checkpoint: got {spec.checkpoint!r}, an adapter on {resolved.model!r}, which can't be read here "
            f"({str(error).split('; ')[0]}); expected its base; if that is {base!r}, write this as base_model_name_or_path "
            "into its adapter_config.json"
        ) from None


def check_states(spec: RunSpec, source: str, other: RunSpec | None, num_items: Callable[[RunSpec], int]) -> None:
    if other is None:
        check_source(source)
    if other is not None and other.train.states_mb == 0:
        raise BadInput(f"runs.{source}.train.states_mb: got 0; expected some, since {spec.name} trains on its states")
    recipe = spec.recipe()
    if other is None and isinstance(recipe, Replay):
        recipe.check_recording()
    there = Recording(Path(source)).num_steps if other is None else other.train.num_steps(num_items(other))
    share = recipe.share if isinstance(recipe, Replay) else 1.0
    wanted, usable = spec.train.num_steps(num_items(spec)), steps_of_share(there, share)
    if wanted > usable:
        of_them = "the steps" if share == 1 else f"share {share} of the {there} steps"
        raise BadInput(
            f"steps: got {wanted} for {spec.name}; expected at most {usable}, {of_them} of {source}, whose states it trains on"
        )
