"""Reads a task or group of lm-evaluation-harness by name or from a YAML file. One line where that can't be done.

Prompts, examples, targets, filters and metrics are the harness's: nothing of them is written again. What is added: items with
ids, so that runs can be paired, and for training (harness_items.py), the metrics that have a value per item
(harness_scores.py), and a checksum (harness_content.py). Needs `lm_eval`, which is imported in these files and in
evals/harness*.py alone.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.task as harness_task
from huggingface_hub import constants as hub
from lm_eval.tasks import TaskManager

from stateshape.core.files import BadInput
from stateshape.core.wording import MAX_PATH, shown
from stateshape.policy.open import stay_offline_without_network
from stateshape.tasks.harness import PREFIX, HarnessOptions, HarnessTask, MadeOnce, parse_harness_name
from stateshape.tasks.harness_content import digest
from stateshape.tasks.harness_items import Found, choices_of, golds_of, item_of, quiet, requests, told, training_items
from stateshape.tasks.harness_scores import ends_of, grade, headline_of, metrics_of
from stateshape.tasks.items import GenerationItem
from stateshape.tasks.mmlu import stratified_ids


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
        metrics.append(metrics_of(one, by_document[0]))
        for at, asked in zip(one.chosen, by_document, strict=True):
            item = item_of(one, at, asked)
            items.append(item)
            places[item.item_id] = (one.task.config.task, at)
            options_of = choices_of(one.task, one.documents[at])
            if options_of:
                choices[item.item_id] = options_of
                shares.append(len(golds_of(one.task, one.documents[at])) / len(options_of))
    headline, names = headline_of(title, metrics, options.metric)
    is_generated = any(one.task.OUTPUT_TYPE == "generate_until" for one in found)
    stops, max_new_tokens = ends_of(found[0].task, options, is_generated=is_generated)
    is_chance = bool(shares) and headline.startswith("acc")
    train = [training_items(one, options) for one in found]
    return HarnessTask(
        name=_name(title, options),
        label=f"{title} ({options.num_fewshot} shots)" if options.num_fewshot else title,
        train=MadeOnce(sum(len(part) for part in train), lambda: tuple(item for part in train for item in part)),
        test=tuple(items),
        grade=partial(grade, {one.prefix: one for one in found}, options, headline, is_generated),
        data_sha256=digest(found, options),
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
