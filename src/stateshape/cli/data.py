"""`stateshape data`: rows of your own as a model reads them, with what is supervised marked, before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from stateshape.cli.arguments import RowFlags, model_settings_from
from stateshape.core.files import BadInput

if TYPE_CHECKING:
    from rich.console import Console

    from stateshape.core.states import Trajectory
    from stateshape.policy.policy import Policy
    from stateshape.tasks.items import ChoiceItem, GenerationItem


def data(
    task: tyro.conf.Positional[str],
    *,
    model: str = "embedded",
    rows: Annotated[RowFlags, tyro.conf.arg(name="")] = RowFlags(),  # noqa: B008
    limit: int = 3,
    tokens: bool = False,
    chat_template: str | None = None,
) -> None:
    """Show rows of your own as a model reads them, with the supervised part marked. Reads its tokenizer, not its weights.

    Args:
        task: A .jsonl, .json, .csv, .tsv or .parquet file, hub:owner/name[:config][:split], or a task.
        model: 'embedded', a model folder or a hub id: whose tokens and chat template are used.
        rows: How the rows are read.
        limit: Show this many items.
        tokens: Also list the supervised tokens, one by one.
        chat_template: File with a chat template (Jinja), for a model that has none, or in place of its own.
    """
    from rich.console import Console

    from stateshape.cli.states import legend
    from stateshape.policy.open import open_reader
    from stateshape.policy.source import resolve
    from stateshape.tasks.load import load_task
    from stateshape.tasks.task import GenerationTask

    if limit < 1:
        raise BadInput(f"limit: got {limit}; expected a number above 0")
    with without_notes():  # they are printed below
        found = load_task(task, reading=rows.reading())
    for note in found.notes:
        print(note)
    items: list[GenerationItem] | list[ChoiceItem] = (
        [*found.train, *found.test] if isinstance(found, GenerationTask) else list(found.items)
    )
    console = Console(highlight=False, soft_wrap=True)
    is_coloured = console.color_system is not None and not console.no_color
    reader = open_reader(resolve(model).model, model_settings_from("cpu", "auto", chat_template))
    if is_coloured:
        console.print(legend())
    for item in items[:limit]:
        for row in as_read(reader, item):
            show(console, reader, row, is_coloured=is_coloured, has_tokens=tokens)
    if len(items) > limit:
        print(f"{limit} of {len(items):,} items; --limit {len(items)} shows all")


@contextmanager
def without_notes() -> Iterator[None]:
    logger = logging.getLogger("stateshape")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def as_read(reader: Policy, item: GenerationItem | ChoiceItem) -> list[Trajectory]:
    """The rows that are trained on; a prompt alone where nothing is learned from the item itself, and a question with
    an option."""
    from stateshape.core.states import Origin, Trajectory
    from stateshape.states.dataset import pair, solved
    from stateshape.tasks.items import ChoiceItem

    if isinstance(item, ChoiceItem):
        right = item.options[item.is_true.index(True)]
        (joined,) = reader.encode_joined([(item.prompt, right)])
        ids, origins = [*joined.prompt, *joined.text], [Origin.PROMPT] * (len(joined.prompt) + len(joined.text))
    elif item.completion is not None and item.rejected is not None:
        return pair(reader, item, 0)
    elif item.completion is not None:
        return [solved(reader, {item.item_id: item}, item.item_id, 0)]
    else:
        ids = reader.encode_prompt(item.asked)
        origins = [Origin.PROMPT] * len(ids)
    return [Trajectory(item_id=item.item_id, ids=ids, origins=origins, logps=[None] * len(ids), finish="")]


def show(console: Console, reader: Policy, row: Trajectory, *, is_coloured: bool, has_tokens: bool) -> None:
    from stateshape.cli.states import print_row
    from stateshape.core.states import Origin
    from stateshape.record.text import spans_of

    supervised = [origin == Origin.DATASET for origin in row.origins]
    told: dict[str, Any] = {
        "item_id": row.item_id, "finish": row.finish, "cut": None, "ids": row.ids, "supervised": supervised,
    }  # fmt: skip
    print_row(console, told, spans_of(row.ids, row.origins, supervised, reader), is_coloured=is_coloured)
    if has_tokens:
        marked = [token for token, is_supervised in zip(row.ids, supervised, strict=True) if is_supervised]
        print(
            " ".join(f"{token}:{reader.decode([token], skip_special_tokens=False)!r}" for token in marked), end="\n\n"
        )
