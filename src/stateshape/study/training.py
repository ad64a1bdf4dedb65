"""Trains one run of a study: its recipe built, its teachers and states found, watched while it trains."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from stateshape.core import layout
from stateshape.core.files import BadInput, plain, read_jsonl, write_json
from stateshape.core.method import Combination, Method, terms_of
from stateshape.core.ranks import current
from stateshape.core.records import Json, RunRecord, StepRecord
from stateshape.core.seeds import seed_for
from stateshape.core.step_values import telling
from stateshape.core.study_records import BASE
from stateshape.core.watch import Watch
from stateshape.core.wording import MAX_PATH, shown
from stateshape.locality.watch import LocalityWatch
from stateshape.policy.memory import full_memory, in_words
from stateshape.policy.open import open_beside, policy_on
from stateshape.policy.policy import Policy
from stateshape.policy.source import resolve
from stateshape.policy.targets import resolve as resolve_targets
from stateshape.policy.weights import SharedWeights
from stateshape.recipes.recipe import Parts, teachers_of
from stateshape.record.writer import StateWriter
from stateshape.sampling.served.teacher import ServedTeacher
from stateshape.states.fit import check_texts, fit_notes
from stateshape.study.carried import carry
from stateshape.study.context import StudyContext
from stateshape.study.describe import place_of, run_record
from stateshape.study.eval_tasks import best_task
from stateshape.study.eval_watch import EvalWatch, reference_of
from stateshape.study.folders import check_same_run
from stateshape.study.opened import asked_teachers
from stateshape.study.preflight import crosses_tokenizers
from stateshape.study.protection import protect_term, protected
from stateshape.study.run_queue import RunDied
from stateshape.study.run_spec import RunSpec
from stateshape.study.starts import start_of
from stateshape.tasks.items import GenerationItem
from stateshape.trackers.names import check_trackers
from stateshape.trackers.report import Trackers, reporting
from stateshape.train.checkpoint import Progress
from stateshape.train.health import EARLY_STEPS, Kinds, learned_nothing, warnings_of
from stateshape.train.loop import OnStep, carried_adapters, draw_for, train
from stateshape.train.operators import step_operators
from stateshape.train.step import TrainingDiverged

HIGH_FULL_LR = 1e-4
NO_PROBES = "{}: no locality probe fits into locality.share of so short a run (docs/locality.md)"
LEARNER, TEACHER = "learner", "teacher"
# torch and safetensors do not report a write that failed as OSError
FULL_DISK = ("PytorchStreamWriter", "unexpected pos", "No space left on device")


def train_one(bench: StudyContext, spec: RunSpec, seed: int, folder: Path) -> RunRecord:
    """Trains until the adapter is there. Returns the run's record, not yet marked complete."""
    all_ids = tuple(item.item_id for item in bench.data_of(spec).train)
    item_ids = all_ids[: spec.train.num_items(len(all_ids))]
    if not layout.trained(folder).exists():
        check_items(bench, spec, item_ids)
    ranks = current()
    record = ranks.by_first(lambda: begin(bench, spec, seed, folder))
    if record.num_steps > 0:
        return record
    with (
        asked_teachers(spec, bench.weights.tokenizer, bench.weights.source) as asked,
        adapters_of_a_run(bench.weights) as adapters,
        failures_named(folder),
    ):
        record = ranks.by_first(lambda: with_teachers(record, asked, folder))
        if spec.train.is_full:
            bench.weights.add_full(LEARNER)
            for warning in high_rate(spec):
                bench.reporter.warn(warning)
            bench.reporter.say(f"{spec.label}: {in_words(full_memory(bench.weights))}")
        else:
            bench.weights.add_adapter(LEARNER, spec.train.lora, seed=seed_for(seed, "adapter"))
        if spec.start is not None:
            bench.weights.fill_adapter(LEARNER, start_of(spec, place_of(bench, seed, spec.start)))
        progress, kinds = train_method(bench, spec, seed, folder, item_ids, adapters, asked)
        if bench.compared is not None and bench.compared.settings.share > 0 and not (folder / layout.LOCALITY).exists():
            bench.reporter.say(NO_PROBES.format(spec.label))
    with failures_named(folder):
        return ranks.by_first(lambda: recorded(record, spec, progress, kinds, folder, bench.weights.tokenizer))


def with_teachers(record: RunRecord, asked: Mapping[str, ServedTeacher], folder: Path) -> RunRecord:
    """The record with what the servers of the run's teachers serve, which must be what they served before. Raises BadInput."""
    if not asked:
        return record
    now: dict[str, Json] = {address: teacher.about() for address, teacher in asked.items()}
    before = record.provenance.get("teachers", now)
    if before != now:
        raise BadInput(
            f"teacher: got {shown(now, limit=MAX_PATH)}; expected {shown(before, limit=MAX_PATH)}, as {folder} was begun; "
            "start the server as before, or give --out another folder"
        )
    record = replace(record, provenance=record.provenance | {"teachers": now})
    write_json(folder / layout.RUN, record)
    return record


def recorded(
    record: RunRecord, spec: RunSpec, progress: Progress, kinds: Kinds, folder: Path, tokenizer: Any
) -> RunRecord:
    """Writes down what a run that is trained has cost, and what is to be said of it; completes the adapter's folder."""
    trained = replace(
        record,
        num_steps=progress.step,
        num_supervised_tokens=progress.num_supervised,
        num_sampled_tokens=progress.num_sampled,
        provenance=record.provenance | {"processes": current().count},  # it may have begun in another number
        warnings=[*high_rate(spec), *warnings_of(read_jsonl(folder / layout.METRICS, StepRecord), kinds)],
    ).measured(progress.costs)
    carry(folder, trained, tokenizer)
    write_json(folder / layout.RUN, trained)
    return trained


def train_method(
    bench: StudyContext,
    spec: RunSpec,
    seed: int,
    folder: Path,
    item_ids: tuple[str, ...],
    adapters: list[str],
    asked: Mapping[str, ServedTeacher],
) -> tuple[Progress, Kinds]:
    """Builds the recipe's method and trains the learner's adapter with it. Adapters that it loads are added to `adapters`."""
    recipe = spec.recipe(partial(place_of, bench, seed))
    method = recipe.build(
        Parts(
            task=bench.data_of(spec),
            sampler=bench.sampler,
            teacher=teacher_loader(bench, adapters, is_any_vocabulary=crosses_tokenizers(spec)),
            item_ids=item_ids,
            folder=folder,
            asked=lambda source, _: asked[source],
        )
    )
    choice = spec.train.protect
    if choice.task is not None:
        term = protect_term(
            choice,
            bench.protects[choice.task],
            base=Policy(bench.weights, None),
            sampler=bench.sampler,
            batch_prompts=spec.train.batch_prompts,
        )
        method = protected(method, term)
    adapters += carried_adapters(method)
    learner = Policy(bench.weights, LEARNER, is_trainable=True)
    say_what_fits(bench, spec, learner, item_ids, method)
    kinds: Kinds = {name: term.method.signal.kind for name, term in terms_of(method).items() if not term.is_apart}
    with trackers_of(bench, spec, seed, folder) as trackers:
        progress = train(
            method,
            learner,
            item_ids,
            spec.train,
            seed=seed,
            folder=folder,
            on_step=told_early(bench, spec, seed, kinds, trackers),
            watches=watches_of(bench, spec, method, folder, seed),
            keep_at=steps_before_last(bench, spec.train.num_steps(len(bench.data_of(spec).train))),
        )
    if bench.operators is not None and spec.name not in bench.operators:
        draw = draw_for(item_ids, batch=spec.train.batch_prompts, step=0, seed=seed)
        bench.operators[spec.name] = step_operators(method, learner, draw, spec.train)
    return progress, kinds


@contextlib.contextmanager
def adapters_of_a_run(weights: SharedWeights) -> Iterator[list[str]]:
    """Names of the adapters that a run puts on the shared weights; they are taken off again, also when it fails."""
    adapters = [LEARNER]
    try:
        yield adapters
    finally:
        for name in adapters:
            if weights.has_adapter(name):
                weights.remove_adapter(name)


@contextlib.contextmanager
def failures_named(folder: Path) -> Iterator[None]:
    """Divergence raises RunDied, a full disk BadInput; both name the run's folder."""
    try:
        yield
    except TrainingDiverged as error:
        raise RunDied(f"{folder}: training diverged at {error}") from None
    except OSError:
        raise  # says itself what could not be written
    except Exception as error:  # of torch, of safetensors, and of tokenizers, which raise nothing narrower
        if not any(sign in str(error) for sign in FULL_DISK):
            raise
        raise BadInput(
            f"out: {folder}: a file could not be written ({str(error).strip().splitlines()[0][:120]}); expected space on the "
            "disk; free some and run the same command again"
        ) from None


def high_rate(spec: RunSpec) -> list[str]:
    """A warning about a learning rate that is fit for LoRA and not for all parameters."""
    if not spec.train.is_full or spec.train.lr < HIGH_FULL_LR:
        return []
    return [
        f"{spec.label}: lr {spec.train.lr:g} is high for training all parameters; 1e-6 to 5e-5 is usual (the default, 1e-4, "
        "is for LoRA)"
    ]


def steps_before_last(bench: StudyContext, num_steps: int) -> list[int]:
    """At which the adapter is kept beside the one at the end; none where the study does not ask for them."""
    along = bench.plan.file.along
    return [] if along is None else along.steps(num_steps)[:-1]


def check_items(bench: StudyContext, spec: RunSpec, item_ids: tuple[str, ...]) -> None:
    """Checks that the model can be trained on the items' solutions, before the folder is claimed. Raises BadInput."""
    if "solutions" not in spec.recipe_class.needs:
        return
    try:
        check_texts(Policy(bench.weights, None), items_of(bench, spec, item_ids))
    except BadInput as error:
        raise BadInput(f"{bench.data_of(spec).name}: {error}") from None


def items_of(bench: StudyContext, spec: RunSpec, item_ids: tuple[str, ...]) -> list[GenerationItem]:
    chosen = set(item_ids)
    return [item for item in bench.data_of(spec).train if item.item_id in chosen]


def say_what_fits(
    bench: StudyContext, spec: RunSpec, learner: Policy, item_ids: tuple[str, ...], method: Method | Combination
) -> None:
    """One line each for prompts that are cut and the like."""
    sources = [term.method.states for term in terms_of(method).values() if not term.is_apart]
    for note in fit_notes(learner, items_of(bench, spec, item_ids), sources):
        bench.reporter.warn(f"{bench.data_of(spec).name}: {note}")


def trackers_of(
    bench: StudyContext, spec: RunSpec, seed: int, folder: Path
) -> contextlib.AbstractContextManager[Trackers]:
    """The experiment trackers of the study's file."""
    file = bench.plan.file
    return reporting(
        check_trackers(file.report_to),
        folder,
        project=file.study if file.runs else "stateshape",
        run=f"{spec.name} seed {seed}" if file.runs else folder.name,
        settings={"model": file.model, "task": bench.data_of(spec).name, "seed": seed, "recipe": spec.recipe_name}
        | plain(spec.recipe())
        | plain(spec.train),
        say=bench.reporter.warn,
    )


def told_early(bench: StudyContext, spec: RunSpec, seed: int, kinds: Kinds, trackers: Trackers) -> OnStep:
    """Updates the progress bar and the trackers, and warns after the first few steps if they had nothing to learn from."""
    tick = bench.reporter.track(f"train {spec.name}", "steps", bench.weights.meter)
    first_records: list[StepRecord] = []

    def on_step(done: int, total: int, record: StepRecord) -> None:
        tick(done, total, telling(record))
        trackers.update()
        if len(first_records) == EARLY_STEPS:
            return
        first_records.append(record)
        nothing = learned_nothing(first_records, kinds) if len(first_records) == EARLY_STEPS < total else None
        if nothing is not None:
            bench.reporter.warn(f"{spec.label}, seed {seed}, so far ({done} of {total} steps): {nothing}")

    return on_step


def begin(bench: StudyContext, spec: RunSpec, seed: int, folder: Path) -> RunRecord:
    """The run's record, written before the first step; a record that exists must be of the same run. Raises BadInput."""
    record = run_record(bench, spec, seed)
    begun = check_same_run(folder, record)
    if begun is None:
        if not spec.train.is_full:
            resolve_targets(bench.weights, spec.train.lora)  # refuses names that are none before anything is written
        write_json(folder / layout.RUN, record)
    return begun or record


def watches_of(
    bench: StudyContext, spec: RunSpec, method: Method | Combination, folder: Path, seed: int
) -> list[Watch[Policy]]:
    """Observers of the run while it trains."""
    watches: list[Watch[Policy]] = []
    if spec.train.states_mb > 0:
        by_tag = teachers_of(spec.teacher or "")
        teachers = {
            name: BASE if term.is_apart else by_tag.get(name, spec.teacher)
            for name, term in terms_of(method).items()
            if term.method.signal.kind.startswith("teacher")
        }
        watches.append(StateWriter(folder, method, budget_mb=spec.train.states_mb, teachers=teachers))
    if bench.compared is not None:
        task = bench.data_of(spec)
        items = {item.item_id: item for item in task.train}

        def is_right(item_id: str, text: str) -> bool | None:
            return task.is_right(text, items[item_id])

        apart = [name for name, term in terms_of(method).items() if term.is_apart]
        watches.append(LocalityWatch(bench.compared, grader=is_right, folder=folder, seed=seed, apart=apart))
    if bench.eval_tasks:
        watches.append(eval_watch(bench, spec, folder))
    return watches


def eval_watch(bench: StudyContext, spec: RunSpec, folder: Path) -> EvalWatch:
    """As `eval` of the study's file asks for it."""
    task, choice = bench.data_of(spec), bench.plan.file.eval
    num_steps = spec.train.num_steps(len(task.train))
    reference = bench.remembered(
        f"eval reference {task.name}",
        lambda: reference_of(Policy(bench.weights, None), task, positions=choice.positions),
    )
    return EvalWatch(
        bench.eval_tasks,
        reference,
        steps=choice.steps(num_steps),
        folder=folder,
        best=best_task(choice, bench.eval_tasks),
        kept=steps_before_last(bench, num_steps),
    )


def teacher_loader(bench: StudyContext, loaded: list[str], *, is_any_vocabulary: bool) -> Callable[[str], Policy]:
    """Loads frozen teachers next to the learner, each base once; adapter names taken on the learner's are added to `loaded`.

    is_any_vocabulary: their token ids need not be the learner's.
    """
    others: dict[str, SharedWeights] = {}

    def load(source: str) -> Policy:
        resolved, name = resolve(source), f"{TEACHER}{len(loaded)}"
        if resolved.model in others:
            weights = others[resolved.model]
            return policy_on(weights, resolved, f"{TEACHER}{len(weights.adapters)}")
        policy = open_beside(
            bench.weights,
            source,
            bench.plan.file.model_settings,
            adapter_name=name,
            is_any_vocabulary=is_any_vocabulary,
        )
        if policy.weights is not bench.weights:
            others[resolved.model] = policy.weights
        elif resolved.adapter is not None:
            loaded.append(name)
        return policy

    return load
