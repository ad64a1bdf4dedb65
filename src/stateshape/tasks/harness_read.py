"""Reads a task or group of lm-evaluation-harness: its own objects, and their documents as this package's items.

Prompts, examples, targets, filters and metrics are the harness's: nothing of them is written again here. What is added: items
with ids, so that runs can be paired; training items; a checksum of definition and documents; the metrics that have a value per
item; one line where a task can't be read. Needs `lm_eval`, which is imported here and in evals/harness*.py alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import datasets
import lm_eval.api.task as harness_task
from huggingface_hub import constants as hub
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.tasks import TaskManager

from stateshape.core.chat import ASSISTANT, END_OF_TURN, Chat, transcript
from stateshape.core.files import BadInput, sha256_text
from stateshape.core.wording import MAX_PATH, one_line, shown
from stateshape.policy.open import stay_offline_without_network
from stateshape.tasks.harness import (
    BYTE_PROBABILITY,
    FEWSHOT_SEED,
    LOGP,
    LOGP_PER_BYTE,
    PREFIX,
    HarnessOptions,
    HarnessTask,
    MadeOnce,
    parse_harness_name,
)
from stateshape.tasks.items import GenerationItem, Grade
from stateshape.tasks.mmlu import stratified_ids
from stateshape.tasks.task import Grades

PAGE = "see docs/guides/lm-eval.md"
CHOSEN_TOKENS = 32  # of an answer where options are scored, should it be written
BEGINNING = 200  # characters of a whole text that stand for a prompt
BYTE_METRICS = ("byte_perplexity", "bits_per_byte")  # theirs, of which an item is (log-prob, bytes)
PLACES = ("dataset_path", "dataset_name", "dataset_kwargs")  # of a definition: the documents themselves are compared
NO_FILTER = "none"
LOUD = ("lm_eval", "datasets", "huggingface_hub")


class Found(NamedTuple):
    """One task object, its evaluated documents with those that are chosen, and those for training; prefix: of items' ids."""

    task: Any
    prefix: str
    documents: Any  # a sequence, as is training
    chosen: list[int]
    training: Any


class Turns(str):
    """The text of a chat for readers, which keeps its messages."""

    messages: tuple[Mapping[str, Any], ...]


def read_harness_task(name: str, *, limit: int | None, shots: int) -> HarnessTask:
    """name: as parse_harness_name takes it. Raises BadInput."""
    task_name, options = parse_harness_name(name)
    if shots:
        if options.num_fewshot not in (None, shots):
            raise BadInput(f"shots: got {shots} for {name}; expected the task's num_fewshot alone; drop one of them")
        options = dataclasses.replace(options, num_fewshot=shots)
    with quiet(), told(task_name):
        title, objects = _load(task_name)
        for task in objects.values():
            _check(task, title)
            _set_shots(task, options)
        found = _choose(title, objects, limit)
        return _task(title, found, options)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the harness's progress bars and log lines: this package reports its own."""
    levels = {name: logging.getLogger(name).level for name in LOUD}
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with patch.object(harness_task, "tqdm", lambda rows, **_: rows):
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def told(task: str) -> Iterator[None]:
    """Whatever a task's definition or data raise, as one line."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # tasks run code of their own
        reason = one_line((str(error).strip().splitlines() or [type(error).__name__])[0], limit=200)
        raise BadInput(
            f"task: got {PREFIX}{one_line(task, limit=MAX_PATH)}, which could not be read ({reason}); expected its data in the "
            f"cache of 'datasets', a network connection, or a YAML file that names local files; {PAGE}"
        ) from None


# From a name to task objects


@cache
def _manager() -> TaskManager:
    """Of the harness's own tasks; reading their definitions takes seconds."""
    return TaskManager()


def _load(name: str) -> tuple[str, dict[str, Any]]:
    """The title, and the task objects by name."""
    stay_offline_without_network()
    datasets.config.HF_HUB_OFFLINE = (
        datasets.config.HF_HUB_OFFLINE or hub.HF_HUB_OFFLINE
    )  # it has a copy, made when imported
    datasets.disable_progress_bars()
    if name.endswith((".yaml", ".yml")):
        if not os.path.isfile(name):
            raise BadInput(
                f"task: got {shown(name, limit=MAX_PATH)}, which is not a file; expected a YAML file of a task"
            )
        group = re.search(r"^group\s*:\s*[\"']?([\w.:-]+)", Path(name).read_text(encoding="utf-8"), re.MULTILINE)
        if group:
            loaded = _beside(Path(name).resolve().parent, group[1]).load([group[1]])
        else:
            loaded = TaskManager(include_defaults=False).load([name])
    else:
        manager = _manager()
        if name not in manager.task_index:
            near = difflib.get_close_matches(name.lower(), manager.all_tasks, n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise BadInput(
                f"task: got {shown(PREFIX + name)}; expected a task or group of lm-evaluation-harness, "
                f"of which there are {len(manager.all_tasks):,} (lm_eval ls tasks), or a YAML file{hint}"
            )
        loaded = manager.load([name])
    objects = dict(loaded["tasks"])
    title = next(iter(objects)) if len(objects) == 1 else next(iter(loaded.get("groups") or ()), Path(name).stem)
    return title, objects


def _beside(folder: Path, group: str) -> TaskManager:
    """Of the definitions in a folder, with the harness's own where a group there names others."""
    near = TaskManager(include_path=folder, include_defaults=False)
    members = (near.task_index[group].cfg or {}).get("task") or []
    names = [one if isinstance(one, str) else one.get("task", one.get("group")) for one in members]
    return near if set(names) <= near.task_index.keys() else TaskManager(include_path=folder)


def _check(task: Any, title: str) -> None:
    """Whether the task is one that a language model can answer without running what it writes. Raises BadInput."""
    if getattr(task, "UNSAFE_CODE", False):
        raise BadInput(
            f"task: got {PREFIX}{title}, which runs the code that a model writes; expected one that only reads it; evaluate it "
            "with lm_eval.simple_evaluate(model=stateshape.lm_eval_model(policy), confirm_run_unsafe_code=True)"
        )
    if getattr(task, "MULTIMODAL", False):
        raise BadInput(f"task: got {PREFIX}{title}, which asks about images or sound; expected one about text")


def _set_shots(task: Any, options: HarnessOptions) -> None:
    """As the harness's own --num_fewshot: a task that fixes 0 stays without examples."""
    own, asked = task.get_config("num_fewshot"), options.num_fewshot
    if own == 0 and asked:
        raise BadInput(f"num_fewshot: got {asked} for {task.config.task}, which fixes 0; expected none; leave it out")
    task.set_config("num_fewshot", (own or 0) if asked is None else asked)


def _choose(title: str, objects: Mapping[str, Any], limit: int | None) -> list[Found]:
    """The first `limit` documents of a task; of a group, some of each task in proportion to their numbers."""
    if len(objects) == 1:
        ((_, task),) = objects.items()
        documents = task.eval_docs
        number = len(documents) if limit is None else min(limit, len(documents))
        return [Found(task, title, documents, list(range(number)), _training(task))]
    sizes = {name: task.eval_docs for name, task in objects.items()}
    places = [(name, at) for name, documents in sizes.items() for at in range(len(documents))]
    kept = stratified_ids([(f"{title}/{name}/{at}", name) for name, at in places], limit)
    return [
        Found(
            task,
            f"{title}/{name}",
            sizes[name],
            [at for at in range(len(sizes[name])) if f"{title}/{name}/{at}" in kept],
            _training(task),
        )
        for name, task in objects.items()
        if any(f"{title}/{name}/{at}" in kept for at in range(len(sizes[name])))
    ]


def _training(task: Any) -> Any:
    """Documents that may be trained on; none of whole texts, which have no prompt."""
    is_usable = isinstance(task, harness_task.ConfigurableTask) and task.OUTPUT_TYPE != "loglikelihood_rolling"
    return task.training_docs() if is_usable and task.has_training_docs() else ()


# From task objects to items


def _task(title: str, found: Sequence[Found], options: HarnessOptions) -> HarnessTask:
    items: list[GenerationItem] = []
    places: dict[str, tuple[str, int]] = {}
    choices: dict[str, tuple[str, ...]] = {}
    shares: list[float] = []
    metrics: list[dict[str, bool]] = []
    for one in found:
        by_document = requests(one, options)
        metrics.append(_metrics(one, by_document[0]))
        for at, asked in zip(one.chosen, by_document, strict=True):
            item = _item(one, at, asked)
            items.append(item)
            places[item.item_id] = (one.task.config.task, at)
            options_of = _choices(one.task, one.documents[at])
            if options_of:
                choices[item.item_id] = options_of
                shares.append(len(_golds(one.task, one.documents[at])) / len(options_of))
    headline, names = _headline(title, metrics, options.metric)
    is_generated = any(one.task.OUTPUT_TYPE == "generate_until" for one in found)
    stops, max_new_tokens = _ends(found[0].task, options, is_generated=is_generated)
    is_chance = bool(shares) and headline.startswith("acc")
    train = [_training_items(one, options) for one in found]
    return HarnessTask(
        name=_name(title, options),
        label=f"{title} ({options.num_fewshot} shots)" if options.num_fewshot else title,
        train=MadeOnce(sum(len(part) for part in train), lambda: tuple(item for part in train for item in part)),
        test=tuple(items),
        grade=partial(_grade, {one.prefix: one for one in found}, options, headline, is_generated),
        data_sha256=_digest(found, options),
        stops=stops,
        max_new_tokens=max_new_tokens,
        metric=headline,
        metrics=tuple(names),
        chance=sum(shares) / len(shares) if is_chance else 0.0,
        tasks={one.task.config.task: one.task for one in found},
        places=places,
        options=options,
        is_generated=is_generated,
        choices=choices,
        versions={"lm_eval": version("lm_eval")}
        | {f"lm_eval task {one.task.config.task}": str(one.task.VERSION) for one in found},
    )


def _name(title: str, options: HarnessOptions) -> str:
    """Names files: two ways to ask one task are two tasks."""
    parts = ["lm_eval", re.sub(r"[^\w.-]+", "-", title)]
    parts += [] if options.num_fewshot is None else [f"{options.num_fewshot}shot"]
    parts += ["chat"] if options.apply_chat_template else []
    parts += ["multiturn"] if options.fewshot_as_multiturn else []
    return "_".join(parts)


def requests(one: Found, options: HarnessOptions) -> list[list[Any]]:
    """The harness's requests for each chosen document. Of chats the prompts are Turns."""
    one.task.set_fewshot_seed(FEWSHOT_SEED)
    is_first = one.chosen == list(range(len(one.chosen)))
    one.task.build_all_requests(
        **({"limit": len(one.chosen)} if is_first else {"samples": one.chosen}),
        apply_chat_template=options.apply_chat_template,
        fewshot_as_multiturn=options.fewshot_as_multiturn,
        chat_template=turns if options.apply_chat_template else None,
    )
    by_document: dict[int, list[Any]] = {}
    for instance in one.task.instances:
        by_document.setdefault(instance.doc_id, []).append(instance)
    return [sorted(asked, key=lambda instance: instance.idx) for asked in by_document.values()]


def turns(messages: list[dict[str, Any]], *, add_generation_prompt: bool = True) -> Turns:
    text = Turns(transcript(tuple(messages)))
    text.messages = tuple(messages)
    return text


def _item(one: Found, at: int, asked: Sequence[Any]) -> GenerationItem:
    document = one.documents[at]
    context = asked[0].args[0]
    item_id = f"{one.prefix}/{at}"
    return GenerationItem(
        item_id=item_id,
        prompt=context[:BEGINNING] if asked[0].request_type == "loglikelihood_rolling" else str(context),
        gold=" | ".join(_golds(one.task, document)),
        chat=_chat(context, item_id),
        tag=one.task.config.task,
    )


def _chat(context: str, item_id: str, reply: str | None = None) -> Chat | None:
    """Up to where the assistant begins, or with its reply. The beginning of a reply that a task gives is part of the reply."""
    if not isinstance(context, Turns):
        return None
    messages, given = list(context.messages), ""
    if messages[-1]["role"] == ASSISTANT:
        given = f"{messages.pop()['content']} "
    if reply is None:
        return Chat(messages=tuple(messages), where=item_id)
    said = {"role": ASSISTANT, "content": given + reply.strip()}
    return Chat(messages=(*messages, said), given=len(messages), where=item_id)


def _choices(task: Any, document: Any) -> tuple[str, ...]:
    """Texts of the options that are scored, else none."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return ()
    return tuple(map(str, task.doc_to_choice(document)))


def _golds(task: Any, document: Any) -> list[str]:
    """Every right answer, as text."""
    choices = _choices(task, document)
    gold = task.doc_to_text(document) if getattr(task, "multiple_input", 0) else task.doc_to_target(document)
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return [""]
    golds = list(dict.fromkeys(gold)) if isinstance(gold, list | tuple) else [gold]
    if task.OUTPUT_TYPE == "generate_until" and getattr(task.config, "doc_to_choice", None) is not None:
        choices = tuple(map(str, task.doc_to_choice(document)))
    return [choices[one] if choices and isinstance(one, int) and 0 <= one < len(choices) else str(one) for one in golds]


# Training items


def _training_items(one: Found, options: HarnessOptions) -> Sequence[GenerationItem]:
    """A zero-shot prompt and the first right answer behind it, of each training document."""

    def make() -> tuple[GenerationItem, ...]:
        with quiet(), told(one.prefix):
            return tuple(_training_item(one, at, document, options) for at, document in enumerate(one.training))

    return MadeOnce(len(one.training), make)


def _training_item(one: Found, at: int, document: Any, options: HarnessOptions) -> GenerationItem:
    task, item_id = one.task, f"{one.prefix}/train/{at}"
    context = task.fewshot_context(
        document,
        num_fewshot=0,
        apply_chat_template=options.apply_chat_template,
        chat_template=turns if options.apply_chat_template else None,
        gen_prefix=task.doc_to_prefix(document),
    )
    gold = _golds(task, document)[0]
    answer = gold
    if isinstance(context, list):  # options are in the prompt, and what follows is the same for all
        right = task.doc_to_text(document)
        context, answer = context[right], str(task.doc_to_target(document))
    return GenerationItem(
        item_id=item_id,
        prompt=str(context),
        gold=gold,
        completion=f"{task.config.target_delimiter}{answer}",
        tag=task.config.task,
        chat=_chat(context, item_id),
        solved=_chat(context, item_id, answer),
    )


# Metrics and grades


def scores_of(task: Any, by_filter: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The metrics of one document that are numbers whose mean over documents says something, by filter and metric.

    Left out: what the harness can compute of all documents together only (BLEU, F1 of classes). Perplexities become log-probs.
    """
    means: dict[str, float] = {}
    derived: dict[str, float] = {}
    kinds = task.aggregation()
    for filter_name, metrics in by_filter.items():
        ending = "" if filter_name == NO_FILTER else f",{filter_name}"
        for metric, value in metrics.items():
            if metric in BYTE_METRICS:
                each = float(value[0]) / max(1, value[1])
                derived |= {BYTE_PROBABILITY: math.exp(each), LOGP_PER_BYTE: each}
            elif metric == "perplexity":
                derived[LOGP] = float(value)
            elif _is_number(value) and kinds.get(metric, mean) is mean:
                means[metric + ending] = float(value)
    return means | derived


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, str | list | tuple | dict) and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def outcome(task: Any, document: Any, asked: Sequence[Any], responses: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """What the task's own filters and metrics make of responses to its requests for a document, by filter."""
    answered = [
        Instance(one.request_type, one.doc, one.arguments, one.idx, one.metadata, [response] * (one.repeats or 1))
        for one, response in zip(asked, responses, strict=True)
    ]
    for ensemble in task._filters:
        ensemble.apply(answered)
    names = answered[0].filtered_resps
    return {name: task.process_results(document, [one.filtered_resps[name] for one in answered]) for name in names}


def _metrics(one: Found, asked: Sequence[Any]) -> dict[str, bool]:
    """Metrics with a value per item, in the task's order: can runs be compared by it? Found by grading a made-up response."""
    kind = asked[0].request_type
    made_up = {"loglikelihood": (-1.0, False), "loglikelihood_rolling": -1.0}.get(kind, "")
    document = one.documents[one.chosen[0]]
    scores = scores_of(one.task, outcome(one.task, document, asked, [made_up] * len(asked)))
    ups = one.task.higher_is_better()
    return {name: bool(ups.get(name.partition(",")[0], True)) and name not in (LOGP, LOGP_PER_BYTE) for name in scores}


def _headline(title: str, metrics: Sequence[dict[str, bool]], asked: str | None) -> tuple[str, list[str]]:
    """The metric that runs are compared by, and all. Raises BadInput."""
    names = [name for name in metrics[0] if all(name in one for one in metrics)]
    rising = [name for name in names if all(one[name] for one in metrics)]
    if asked is not None and asked not in rising:
        raise BadInput(
            f"metric: got {shown(asked)} for {PREFIX}{title}; expected one with a value per item, of which more is better: "
            f"{', '.join(rising) or 'there is none'}"
        )
    if not rising:
        raise BadInput(
            f"task: got {PREFIX}{title}, whose metrics have no value per item by which two runs could be paired; expected one "
            f"that has; evaluate it with lm_eval.simple_evaluate(model=stateshape.lm_eval_model(policy)); {PAGE}"
        )
    usual = next((name for name in rising if name.partition(",")[0] == "acc_norm"), rising[0])
    return asked or usual, names


def _grade(
    found: Mapping[str, Found],
    options: HarnessOptions,
    metric: str,
    is_generated: bool,
    text: str,
    item: GenerationItem,
) -> Grades:
    """A completion by the task's own filters and metric. Where options are scored: whether it is a right answer's text."""
    if not is_generated:
        said = text.strip()
        grade = Grade(prediction=said, is_correct=said in [gold.strip() for gold in (item.gold or "").split(" | ")])
        return Grades(strict=grade, flexible=grade, text=text)
    prefix, _, number = item.item_id.rpartition("/")
    one = found[prefix.removesuffix("/train")]
    document = (one.training if prefix.endswith("/train") else one.documents)[int(number)]
    said = cut(text, one.task)
    asked = Instance(
        "generate_until", document, (item.prompt, {}), 0, (one.task.config.task, 0, one.task.config.repeats)
    )
    scores = scores_of(one.task, outcome(one.task, document, [asked], [said]))
    grade = Grade(prediction=said, is_correct=scores.get(metric, 0.0) >= 1)
    return Grades(strict=grade, flexible=grade, text=said)


def cut(text: str, task: Any) -> str:
    """The text up to the first of the task's stop texts."""
    found = [text.find(stop) for stop in _stops(task)]
    return text[: min((at for at in found if at >= 0), default=len(text))]


def _stops(task: Any) -> list[str]:
    until = (task.config.generation_kwargs or {}).get("until") or []
    return [stop for stop in ([until] if isinstance(until, str) else until) if stop]


def _ends(task: Any, options: HarnessOptions, *, is_generated: bool) -> tuple[tuple[str, ...], int]:
    """Stop texts, and the longest answer in tokens."""
    turn = (END_OF_TURN,) if options.apply_chat_template else ()
    if not is_generated:
        return (*turn, "\n"), CHOSEN_TOKENS
    given = task.config.generation_kwargs or {}
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    return (*turn, *_stops(task)), int(next((given[name] for name in names if given.get(name) is not None), 256))


# What a task is, as a checksum


def _digest(found: Sequence[Found], options: HarnessOptions) -> str:
    """Of the definitions, of all documents that are evaluated, shown or trained on, and of how prompts are written."""
    parts: list[Any] = [dataclasses.asdict(dataclasses.replace(options, metric=None))]
    for one in found:
        config = {key: value for key, value in vars(one.task.config).items() if key not in PLACES}
        config["metadata"] = {"version": str(one.task.VERSION)}
        splits = {"test": one.documents, "training": one.training}
        splits["examples"] = getattr(getattr(one.task, "sampler", None), "df", None) or []
        digests = {split: sha256_text(json.dumps([plain(row) for row in rows])) for split, rows in splits.items()}
        parts.append([plain(config), digests])
    return sha256_text(json.dumps(parts, sort_keys=True))


def plain(value: Any) -> Any:
    """JSON-ready, and the same in every process: a function is its source."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(vars(value))
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, partial):
        return [plain(value.func), plain(value.args), plain(value.keywords)]
    return _source(value) if callable(value) else type(value).__name__


def _source(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (TypeError, OSError):
        return str(getattr(function, "__qualname__", type(function).__name__))
