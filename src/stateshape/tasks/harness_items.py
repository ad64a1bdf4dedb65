"""Documents of lm-evaluation-harness's tasks as this package's items: those that are evaluated, and those for training.

Prompts, examples and targets are the harness's. Needs `lm_eval`. Grades nothing.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest.mock import patch

import lm_eval.api.task as harness_task

from stateshape.core.chat import ASSISTANT, Chat, transcript
from stateshape.core.files import BadInput
from stateshape.core.wording import MAX_PATH, one_line
from stateshape.tasks.harness import FEWSHOT_SEED, PREFIX, HarnessOptions, MadeOnce
from stateshape.tasks.items import GenerationItem

PAGE = "see docs/guides/lm-eval.md"
BEGINNING = 200  # characters of a whole text that stand for a prompt
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


def item_of(one: Found, at: int, asked: Sequence[Any]) -> GenerationItem:
    document = one.documents[at]
    context = asked[0].args[0]
    item_id = f"{one.prefix}/{at}"
    return GenerationItem(
        item_id=item_id,
        prompt=context[:BEGINNING] if asked[0].request_type == "loglikelihood_rolling" else str(context),
        gold=" | ".join(golds_of(one.task, document)),
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


def choices_of(task: Any, document: Any) -> tuple[str, ...]:
    """Texts of the options that are scored, else none."""
    if task.OUTPUT_TYPE != "multiple_choice":
        return ()
    return tuple(map(str, task.doc_to_choice(document)))


def golds_of(task: Any, document: Any) -> list[str]:
    """Every right answer, as text."""
    choices = choices_of(task, document)
    gold = task.doc_to_text(document) if getattr(task, "multiple_input", 0) else task.doc_to_target(document)
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return [""]
    golds = list(dict.fromkeys(gold)) if isinstance(gold, list | tuple) else [gold]
    if task.OUTPUT_TYPE == "generate_until" and getattr(task.config, "doc_to_choice", None) is not None:
        choices = tuple(map(str, task.doc_to_choice(document)))
    return [choices[one] if choices and isinstance(one, int) and 0 <= one < len(choices) else str(one) for one in golds]


# Training items


def training_items(one: Found, options: HarnessOptions) -> Sequence[GenerationItem]:
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
    gold = golds_of(task, document)[0]
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
